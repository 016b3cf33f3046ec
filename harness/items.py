"""Trials as pytest items, and what audits and trials report."""

from __future__ import annotations

import functools
import gc
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import AuditFailure, Cell, DeviceLost, InconclusiveAudit, Outcome, UnlearningError
from harness.contract import BrokenContract, Clause, NotExamined
from harness.devices import SHARE
from harness.expectations import deviation
from harness.options import Settings
from harness.progress import Board, Notes, watched
from harness.report import BLANK, explain, finite_tree, made_of, plain, properties, worst_seed

if TYPE_CHECKING:
    from harness.executors import Executor
    from harness.studies import Study
    from harness.trial import Lab

SETTINGS = pytest.StashKey[Settings]()
STUDY = pytest.StashKey["Study"]()
AUDITED = pytest.StashKey[Sequence[Cell]]()  # the cells of the audits that survived deselection
RUN = pytest.StashKey[str]()
REPORTED = pytest.StashKey[dict[str, Any]]()  # per item: what its report carries to the controller
TRIALS = "trials"  # where trials stand in node ids
FROZEN = pytest.StashKey[bool]()


class TrialHooks:
    """What pytest calls around a trial: the hooks of an item of the session, but none that capture logs.

    What a trial logs is in no report, because it never fails, and pytest 9.2 would attach a handler to each of torch's
    loggers, some 45, six times an item. Live logs and log files are the session's and go on.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._plugins = session.config.pluginmanager
        here = [session.path, *session.path.parents]
        deeper = [
            plugin
            for name, plugin in self._plugins.list_name_plugin()
            if Path(name).name == "conftest.py" and Path(name).parent not in here
        ]
        self._left_out = {self._plugins.get_plugin("logging-plugin"), *deeper}

    def __getattr__(self, name: str) -> Any:
        caller = self._plugins.subset_hook_caller(name, remove_plugins=self._left_out)
        setattr(self, name, caller)  # asked for once
        return caller


class TrialItem(pytest.Item):
    """One trial. It is put before the audits that need it, reports under a word of its own, and never fails."""

    def __init__(self, *, trial: Any, hooks: TrialHooks, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial = trial
        self._hooks = hooks

    @property
    def ihook(self) -> Any:
        """What pytest calls around it."""
        return self._hooks

    def runtest(self) -> None:
        """Compute and store what the trial lacks, unless its audits are conclusive without it."""
        from harness.studies import Status

        study = study_of(self.config)
        status = study.work(self.trial)
        result, error = study.result(self.trial), study.error(self.trial)
        if status is Status.NOT_NEEDED:
            word = "not needed"
        elif error is not None:
            word = "raised"
        else:
            word = "trained" if result is not None and result.made_here else "stored"
        if FROZEN not in self.config.stash:
            # By now torch and its like are loaded for good: half a million objects, .1 s for every full collection.
            gc.freeze()
            self.config.stash[FROZEN] = True
        cell = self.trial.cell
        self.stash[REPORTED] = {
            "trial": {
                "unlearner": cell.unlearner.id,
                "task": cell.task.id,
                "poison": cell.poison.id,
                "discovery": cell.discovery,
                "seed": self.trial.seed,
                "cost": dict(result.cost) if result is not None else None,
            },
            "word": word,
            "of": len(study.trials),
        }

    def reportinfo(self) -> tuple[str, None, str]:
        """Say where it is from: nowhere in a file."""
        return TRIALS, None, self.name


def study_of(config: pytest.Config) -> Study:
    """Return this process's study; torch is imported when the first item asks for it."""
    if STUDY not in config.stash:
        from harness.studies import Study

        settings = config.stash[SETTINGS]
        config.stash[STUDY] = Study(config.stash[AUDITED], executor_of(config), settings.plan, settings.tolerance)
    return config.stash[STUDY]


def executor_of(config: pytest.Config) -> Executor:
    """Return what runs this process's trials: its own lab, or a Ray cluster."""
    settings = config.stash[SETTINGS]
    if not settings.on_ray:
        return lab_of(config)
    from harness.executors import Cluster, Ray

    cluster = Cluster.of(config.option.audit_executor)
    if config.option.audit_device == "cpu":
        cluster = replace(cluster, gpus=0.0)
    if not watched(config):
        return Ray(_lab_maker(config), cluster, settings.budget)
    board = Board(notes_folder(config))
    return Ray(functools.partial(_lab_maker(config), on_epoch=board.notes), cluster, settings.budget, board)


def lab_of(config: pytest.Config) -> Lab:
    """Return a lab over this run's store, on this process's device."""
    told = getattr(config, "workerinput", {})
    notes = Notes(notes_folder(config), told.get("workerid", "main"))
    lab: Lab = _lab_maker(config)(on_epoch=notes, share=told.get(SHARE, 1.0))
    return lab


def _lab_maker(config: pytest.Config) -> functools.partial[Lab]:
    from harness.frontend import make_lab

    settings = config.stash[SETTINGS]
    return functools.partial(
        make_lab, str(settings.store), run_id(config), config.option.audit_device, settings.budget, settings.folder
    )


def run_id(config: pytest.Config) -> str:
    """Return an id of this run, the same on all of its workers."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        return str(worker["unlearning_run"])
    if RUN not in config.stash:
        config.stash[RUN] = f"{time.time_ns():x}-{os.getpid()}"
    return config.stash[RUN]


def notes_folder(config: pytest.Config) -> Path:
    """Return where the workers of this run note what they do."""
    return config.stash[SETTINGS].store.scratch / "progress" / run_id(config)


def with_trials(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Insert, before the first audit, one item per trial that the audits can need."""
    audits = [item for item in items if cell_of(item) is not None]
    if not audits:
        return
    from harness.studies import trials_of

    settings = session.config.stash[SETTINGS]
    cells = list(dict.fromkeys(cell for item in audits if (cell := cell_of(item)) is not None))
    session.config.stash[AUDITED] = cells
    trials = trials_of(cells, settings.plan)
    hooks = TrialHooks(session)
    new = [
        TrialItem.from_parent(session, name=trial.id, nodeid=f"{TRIALS}::{trial.id}", trial=trial, hooks=hooks)
        for trial in trials
    ]
    at = items.index(audits[0])
    items[at:at] = new


def cell_of(item: pytest.Item) -> Cell | None:
    """Return the cell that an audit is about; None for other items."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("audited") if callspec is not None else None
    return cell if isinstance(cell, Cell) else None


def claim_of(item: pytest.Item) -> str:
    """Return what an audit judges: ``"poison"``, ``"accuracy"`` or ``"cost"``."""
    marker = item.get_closest_marker("audit")
    assert marker is not None
    return str(marker.args[0])


def is_control(item: pytest.Item) -> bool:
    """Say whether an audit is of a control, which must do what stands in its test."""
    marker = item.get_closest_marker("audit")
    return marker is not None and marker.kwargs.get("control") is not None


@pytest.fixture
def audited(request: pytest.FixtureRequest) -> Cell:
    """The cell that an audit is about."""
    cell: Cell = request.param
    return cell


@pytest.fixture
def clause(request: pytest.FixtureRequest) -> Clause:
    """One line of the contract of one unlearner."""
    found: Clause = request.param
    request.node.stash[REPORTED] = {
        "contract": {"unlearner": found.method.id, "line": found.line, "kept": False, "sentence": ""}
    }
    return found


@pytest.fixture
def verdict(request: pytest.FixtureRequest, audited: Cell) -> Any:
    """The verdict of the audit; what its unlearner raises is an error of this fixture, not a failure of the test."""
    study = study_of(request.config)
    item = request.node
    settings = item.config.stash[SETTINGS]
    # An error leaves this much in the report.
    cell = {"unlearner": audited.unlearner.id, "task": audited.task.id, "poison": audited.poison.id}
    common = {
        **cell,
        "discovery": audited.discovery,
        "claim": claim_of(item),
        "control": is_control(item),
        "command": settings.command(item, audited.unlearner.id),
        "made_of": made_of(audited.unlearner),
    }
    measure = audited.poison.value.measure.name if claim_of(item) == "poison" else claim_of(item)
    kind = "heuristic" if item.get_closest_marker("heuristic") else "audit"
    item.stash[REPORTED] = {kind: {**BLANK, **common, "measure": measure}}
    started = time.perf_counter()
    found = study.verdict(audited, claim_of(item))
    # Beside a heuristic stands what the audit of the poison says of the same models.
    beside = (
        {"references": finite_tree(study.references(audited))}
        if kind == "audit"
        else {"poison_verdict": study.verdict(audited, "poison").outcome.value}
    )
    numbers = {**plain(found), "seconds": round(time.perf_counter() - started, 4)}
    load = settings.load_line(**cell, discovery=audited.discovery, seed=worst_seed(found), made_on=study.lab.made_on)
    item.stash[REPORTED] = {kind: {**numbers, **common, **beside, "load": load}}
    item.user_properties += properties(numbers)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Attach what the controller needs, and say failures in sentences."""
    report = yield
    reported = item.stash.get(REPORTED, None)
    if reported is not None and (report.when == "call" or report.failed):
        report.unlearning = {**reported, "nodeid": report.nodeid}
        for kind in ("audit", "heuristic"):
            if call.excinfo is not None and kind in reported:
                report.unlearning[kind] = {"reason": call.excinfo.exconly().splitlines()[0], **reported[kind]}
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, DeviceLost):
        if hasattr(item.config, "workerinput"):
            os._exit(1)  # xdist starts another worker on the same device, and what was stored is not lost
        pytest.exit(f"{error}; run again, everything finished is stored", returncode=3)
    if reported is not None and "contract" in reported and report.when == "call":
        kept = None if isinstance(error, NotExamined) else report.passed
        report.unlearning["contract"] = {**reported["contract"], "kept": kept, "sentence": str(error or "")}
    if isinstance(error, NotExamined):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {error}")
    if isinstance(error, BrokenContract):
        report.longrepr = error.explain()
    elif isinstance(error, UnlearningError) and reported is not None:
        report.longrepr = f"{error.__cause__ or ''}\n{error}".strip()
    if isinstance(error, AuditFailure):
        command = item.config.stash[SETTINGS].command(item, error.verdict.unlearner)
        load = (reported or {}).get("audit", {}).get("load", "")
        report.longrepr = explain(error.verdict, command, error.expected, load)
        if reported is not None:  # somebody's own test may ask `harness.audit` for its verdict
            report.unlearning |= {"text": report.longrepr, "inconclusive": isinstance(error, InconclusiveAudit)}
        if reported is not None and "heuristic" in reported:
            report.outcome, report.longrepr = "passed", None
        elif isinstance(error, InconclusiveAudit) and item.config.option.audit_inconclusive == "warn":
            report.outcome = "passed"
    if reported is not None and "audit" in reported and (report.when == "call" or report.failed):
        _hold_against_expectation(item, report, error)
    return report


def _hold_against_expectation(item: pytest.Item, report: Any, error: BaseException | None) -> None:
    """Let an audit that concluded what was expected pass, and one that was expected to conclude something else fail."""
    settings = item.config.stash[SETTINGS]
    if settings.expectations is None or is_control(item):
        return
    audit = report.unlearning["audit"]
    seen, expected = audit["verdict"], settings.expectations.of(audit)
    met = expected is not None and expected.verdict == seen
    audit["expected"] = {**expected.plain, "met": met} if expected is not None else None
    if report.when != "call" or not isinstance(error, AuditFailure | None):
        return
    if error is not None and (met or settings.expectations.updating):
        report.outcome, report.longrepr = "passed", None
        report.unlearning |= {"inconclusive": False, "expected": seen}
    elif expected is not None and not met and not settings.expectations.updating:
        verdict = item.funcargs["verdict"]  # type: ignore[attr-defined]
        text = report.longrepr or explain(verdict, settings.command(item, verdict.unlearner))
        report.longrepr = f"{deviation(expected, seen, settings.expectations.path)}\n{text}"
        report.unlearning["text"] = report.longrepr
        if report.outcome == "passed" and (error is None or expected.verdict is not Outcome.PASS):
            report.outcome = "failed"  # --audit-inconclusive=warn softens what should have passed, and nothing else
            report.unlearning["inconclusive"] = False
