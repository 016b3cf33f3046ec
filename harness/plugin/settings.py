"""The settings that the command line adds up to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from _pytest_unlearning import DEFAULTS, OPTIONS, values
from harness import registry
from harness.api import UnlearningError, declares
from harness.cells import Cell, Registered
from harness.contract.lines import LINES, Clause
from harness.importing import trace
from harness.isolated import method as isolation
from harness.isolated import walls
from harness.judging import drawing
from harness.judging.claims import CLAIMS
from harness.judging.plan import Plan
from harness.plugin.expectations import Expectation, Expectations
from harness.report.console import command_line
from harness.studies.controls import AUDITED
from harness.trials.devices import kind_of_device

if TYPE_CHECKING:
    from harness.store.files import Files


T = TypeVar("T")


class Settings:
    """What the command line asks for.

    Args:
        config: pytest's configuration, which holds the options.

    Attributes:
        config: The same.
        option: The value of each of our options, its default if it is not given.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.option = values(config)

    @cached_property
    def plan(self) -> Plan:
        """The seed plan."""
        option, drawn = self.option, self.draw.seeds if self.draw is not None else ()
        return Plan(option.audit_seeds, option.audit_alpha, option.audit_futility, kind=option.audit_plan, drawn=drawn)

    @cached_property
    def draw(self) -> drawing.Draw | None:
        """The seeds that are drawn for this run; None if it uses the fixed list."""
        where = self.option.audit_seeds_from
        if where is None:
            if self.option.audit_seeds_for:
                raise pytest.UsageError("--audit-seeds-for: nothing is drawn without --audit-seeds-from=env:NAME|FILE")
            return None
        asked = [*(self.option.audit_unlearner or ()), *(self.option.audit_seeds_for or ())]
        if not asked:
            raise pytest.UsageError(
                "--audit-seeds-from: name the methods by which seeds are drawn, with --unlearner=NAME or, where they "
                "are not audited, with --audit-seeds-for=NAME"
            )
        try:
            return drawing.draw(where, _unlearners(asked, self.isolated))
        except UnlearningError as error:
            raise pytest.UsageError(f"--audit-seeds-from: {error}") from None

    @cached_property
    def unlearners(self) -> list[Registered]:
        """The methods that are audited; the controls if no method is asked for."""
        return _unlearners(self.option.audit_unlearner or AUDITED, self.isolated)

    @property
    def controls_only(self) -> bool:
        """Whether no unlearner was asked for."""
        return not self.option.audit_unlearner

    @cached_property
    def tasks(self) -> list[Registered]:
        """The tasks."""
        return _or_usage_error(registry.resolve_all, "task", self.option.audit_task)

    @cached_property
    def cells(self) -> list[Cell]:
        """What is audited: every method on every task with every poison of its kind."""
        told = 1.0 if self.controls_only else self.discovery  # or retraining itself would fail
        return _or_usage_error(registry.cells, self.unlearners, self.tasks, self.option.audit_poison or (), told)

    def clauses(self, methods: Iterable[Registered], task: Registered) -> list[Clause]:
        """Return the lines of the contract of every method, with the budget that a task gives, at least one pass.

        Generated requests are so small that a method may rightly refuse what a fraction of a pass over one pays for.
        """
        epochs = task.value.epochs
        budget = max(1.0, self.budget * epochs)
        own = {method.id: task if declares(method.value, "needs_task") else None for method in methods}
        return [Clause(method, line, budget, epochs, task=own[method.id]) for method in methods for line in LINES]

    @property
    def asked(self) -> dict[str, list[list[str]]]:
        """What the names of the command line ask for, whatever is selected: audits that gate, lines of the contract."""
        audits = [
            [cell.unlearner.id, cell.task.id, cell.poison.id, name]
            for cell in self.cells
            for name, claim in CLAIMS.items()
            if (name in AUDITED[cell.unlearner.name] if self.controls_only else claim.gates and not claim.mark)
            and claim.applies(cell)
        ]
        lines = [] if self.controls_only else [[method.id, line] for method in self.unlearners for line in LINES]
        return {"audits": audits, "contract": lines}

    @property
    def isolated(self) -> bool:
        """Whether methods run in processes of their own."""
        return bool(self.option.audit_isolated)

    @property
    def budget(self) -> float:
        """Compute a method may use, as a fraction of retraining."""
        return float(self.option.audit_budget)

    @property
    def tolerance(self) -> float:
        """Fraction of a poison's effect that still passes."""
        return float(self.option.audit_tolerance)

    @property
    def discovery(self) -> float:
        """Fraction of the poisoned points that the method is given."""
        return float(self.option.audit_discovery)

    @cached_property
    def store(self) -> Files:
        """Where the artefacts are."""
        from harness.store.artefacts import default_root
        from harness.store.files import files_at

        try:
            return files_at(self.option.audit_store or default_root())
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from None

    @cached_property
    def expectations(self) -> Expectations | None:
        """The verdicts that are expected, or None."""
        path, updating = self.option.audit_expect, self.option.audit_expect_update
        if path is None:
            return None
        return _or_usage_error(Expectations, Path(path).expanduser().absolute(), updating)

    def unmatched(self, audits: Iterable[Mapping[str, Any]]) -> tuple[list[Expectation], list[Expectation]]:
        """Return the expectations that no audit can meet, and those about what this run does not audit."""
        if self.expectations is None:
            return [], []
        narrowed = [noun for noun in ("task", "poison") if getattr(self.config.option, f"audit_{noun}")]
        return self.expectations.unmatched(self.cells, audits, narrowed)

    @property
    def folder(self) -> Path | None:
        """Directory of data sets, or None."""
        given = self.option.audit_data
        return Path(given).expanduser().absolute() if given else None

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings that stand in the result, by name."""
        resolved = {
            "audit_store": str(self.store),
            "audit_data": str(self.folder) if self.folder else None,
            "audit_seeds_from": str(self.draw or drawing.FIXED),
        }
        return {
            option.key: resolved.get(option.dest, getattr(self.option, option.dest))
            for option in OPTIONS
            if option.recorded
        }

    @property
    def judging(self) -> bool:
        """Whether audits are run, in place of a listing, a forecast or a search."""
        return not (self.config.option.collectonly or self.option.audit_dry_run or self.option.audit_tune)

    @property
    def one_process(self) -> bool:
        """Whether the run needs a single process: a forecast, or a cluster that does the work."""
        return bool(self.option.audit_dry_run or self.option.audit_executor != "local")

    @property
    def searching(self) -> bool:
        """Whether fields are searched, in place of audits."""
        return bool(self.option.audit_tune and not self.config.option.collectonly)

    def check(self) -> None:
        """Fail early, in one sentence, on what cannot work.

        Raises:
            pytest.UsageError: A name, field, directory or device cannot be used.
        """
        _ = self.cells
        if self.plan.reliable:
            from harness.judging.reliable import too_strict  # here, because it loads scipy

            if sentence := too_strict(self.plan, self.tolerance):
                raise pytest.UsageError(f"--audit-plan: {sentence}")
        folder = self.folder
        if folder is not None and not folder.is_dir():
            raise pytest.UsageError(f"--audit-data: {folder} is not a directory")
        for name in ("json", "html", "expect"):
            file = getattr(self.option, f"audit_{name}")
            path = Path(file or ".").expanduser().absolute()
            if file and (not path.parent.is_dir() or path.is_dir()):
                raise pytest.UsageError(
                    f"--audit-{name}: the directory of {file} is missing, or {file} is itself a directory"
                )
        if self.option.audit_expect_update and not self.option.audit_expect:
            raise pytest.UsageError("--audit-expect-update: name the file to write with --audit-expect=FILE")
        _ = self.expectations
        if self.option.audit_device == "cuda" and not self.on_ray:
            _or_usage_error(kind_of_device, "cuda")
        if self.option.audit_tune:
            _check_tuning(self)
        if self.isolated:
            self.check_isolation()
        try:
            self.store.check()
            if self.on_ray:  # connected until the session ends
                from harness.studies.ray import connect

                if self.config.option.verbose >= 0:  # a cluster that must be started first takes its time
                    print(f"connecting to Ray ({self.option.audit_executor})", file=sys.stderr)
                self.config.add_cleanup(connect(self.option.audit_executor, str(self.store)))
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from None

    @property
    def on_ray(self) -> bool:
        """Whether trials are computed on a Ray cluster."""
        return self.judging and bool(self.option.audit_executor != "local")

    def check_isolation(self) -> None:
        """Fail early where methods would not be isolated, though it is asked for.

        Raises:
            pytest.UsageError: The system cannot isolate them, other options ask for what isolation rules out, or what
                they must not read lies where they can.
        """
        if self.option.audit_executor != "local":
            raise pytest.UsageError("--audit-isolated: isolated methods run on this machine; drop --audit-executor")
        if self.option.audit_tune:
            raise pytest.UsageError("--audit-isolated: cannot be combined with --audit-tune; drop one of them")
        _or_usage_error(walls.require)
        results = {f"the file of --audit-{name}": getattr(self.option, f"audit_{name}") for name in ("json", "html")}
        places = {what: Path(file).expanduser().absolute() for what, file in results.items() if file}
        salt = drawing.salt_file(self.option.audit_seeds_from or drawing.VARIABLE)
        hidden = {"the store": self.store.scratch, "the directory of --audit-data": self.folder, **places}
        hidden["the file of --audit-seeds-from"] = salt
        _or_usage_error(walls.require_hidden, hidden)
        _or_usage_error(isolation.require_separate, self.cells)

    def command(self, item: pytest.Item, unlearner: str) -> str:
        """Return the command line that runs one audit again."""
        kept = []
        for option in OPTIONS:
            given = getattr(self.config.option, option.dest)
            if option.repeats and given is not None:
                name = option.called(self.config)
                values = given if option.many else [given]
                kept += [name if option.is_flag else f"{name}={value}" for value in values]
        named = next(option for option in OPTIONS if option.key == "unlearner").called(self.config)
        # The draw depends on all methods of the run, whichever of them is audited again.
        methods = [unlearner] if self.draw is None else self.option.audit_unlearner
        method = [] if self.controls_only else [f"{named}={each}" for each in methods]
        test = item.nodeid.partition("::")[2]
        target = [f"{_from(self.config.invocation_params.dir, item.path)}::{test}"]
        if not item.path.is_relative_to(self.config.rootpath):  # as a rule suites that --pyargs found
            suites = item.path.parent.name == "test_suites"
            target = ["--pyargs", f"test_suites.{item.path.stem}::{test}"] if suites else [f"{item.path}::{test}"]
        return command_line(["pytest", *target, *method, *kept])

    def load_line(self, unlearner: str, task: str, poison: str, discovery: float, seed: int, made_on: str) -> str:
        """Return the Python that loads the models of a trial of this run; defaults are left out."""
        given: dict[str, Any] = {"task": task, "poison": poison, "seed": seed}
        if self.budget != DEFAULTS["budget"]:
            given["budget"] = self.budget
        if discovery < 1:
            given["discovery"] = discovery
        if self.option.audit_store:
            given["store"] = str(self.store)
        if self.isolated:
            given["isolated"] = True
        if self.option.audit_data:
            given["data"] = str(self.folder)
        if made_on != "cpu":
            given["made_on"] = made_on
        return f"harness.load_models({unlearner!r}, {', '.join(f'{k}={v!r}' for k, v in given.items())})"


def _unlearners(specs: Iterable[str], isolated: bool) -> list[Registered]:
    resolve = isolation.resolve if isolated else None
    return _or_usage_error(registry.resolve_all, "unlearner", specs, resolve)


def _check_tuning(settings: Settings) -> None:
    """Fail early where a search cannot work.

    Raises:
        pytest.UsageError: No unlearner is asked for, several tasks are, or the file cannot be written.
    """
    if settings.controls_only:
        raise pytest.UsageError("--audit-tune: name the method to tune with --unlearner=NAME")
    if len(settings.tasks) > 1:
        raise pytest.UsageError("--audit-tune: tune on one --task at a time")
    if settings.option.audit_dry_run:
        raise pytest.UsageError("--audit-tune: what a search will cost is not forecast; drop --audit-dry-run")
    if settings.draw is not None:
        raise pytest.UsageError("--audit-tune: a search uses seeds of its own; drop --audit-seeds-from")
    if settings.discovery < 1:
        raise pytest.UsageError("--audit-tune: methods are tuned with every poisoned point; drop --audit-discovery")
    file = Path(settings.option.audit_tune_file).expanduser()
    if not file.absolute().parent.is_dir():
        raise pytest.UsageError(f"--audit-tune-file: the directory of {file} is missing")


def _from(folder: Path, path: Path) -> str:
    """Return a path as it is written in a folder."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive
        return str(path)


def _or_usage_error(function: Callable[..., T], *arguments: Any) -> T:
    try:
        return function(*arguments)
    except UnlearningError as error:
        raise pytest.UsageError("\n".join([str(error), *trace(error.__cause__)])) from error
