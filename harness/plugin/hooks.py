"""The pytest plugin: options, collection, devices, what the terminal shows. Imports neither torch nor scipy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import pytest

from harness.api import UnlearningError
from harness.judging.claims import GATING, INFORMING
from harness.plugin import workers
from harness.plugin.expectations import as_expected
from harness.plugin.fixtures import audited, clause, verdict
from harness.plugin.items import TRIALS, cell_of, with_trials
from harness.plugin.options import add_options
from harness.plugin.outcomes import pytest_runtest_makereport
from harness.plugin.parametrize import parametrize
from harness.plugin.progress import StatusLine, status_line
from harness.plugin.session import AUDITED, SETTINGS, lab_of, notes_folder, run_id, study_of
from harness.plugin.settings import Settings
from harness.report import github, tables
from harness.report.document import Results, write_json, write_text
from harness.report.planning import forecast_lines, score_line, tuned_lines, tuning_head

__all__ = ["audited", "clause", "pytest_runtest_makereport", "verdict"]


RESULTS = pytest.StashKey[Results]()


STATUS = pytest.StashKey[StatusLine | None]()


KNOWN = (*GATING, *INFORMING)


#: Marks of audits that run where an option or an argument names them: dear ones, and those that only inform.
OPTIONAL = ("heuristic", "relearning")


PROCESSES = pytest.StashKey[int]()


SPECS = pytest.StashKey[list[Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the command line."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Dry runs, searches and a cluster need one process: remember how many were asked for, and start none."""
    if config.option.audit_dry_run or config.option.audit_tune or config.option.audit_executor != "local":
        asked = getattr(config.option, "numprocesses", None)
        config.stash[PROCESSES] = (
            asked if isinstance(asked, int) and asked > 0 else (os.cpu_count() or 1 if asked else 1)
        )
        config.option.numprocesses, config.option.dist, config.option.tx = None, "no", []


def pytest_configure(config: pytest.Config) -> None:
    """Check the command line before anything costs time."""
    config.addinivalue_line(
        "markers",
        "audit(claim, control=None): the test judges 'poison', 'accuracy' or 'cost' of a cell; with a control it "
        "runs where no unlearner is asked for, on that control",
    )
    config.addinivalue_line(
        "markers", "heuristic: the audit informs and fails no run; it runs where it is asked for (-m heuristic)"
    )
    config.addinivalue_line(
        "markers", "relearning: the audit trains models on; it runs where it is asked for (-m relearning)"
    )
    config.addinivalue_line("markers", "audits(...): what harness.parametrize_with_audits gives a test")
    config.addinivalue_line("markers", "contract: the test asserts a line of an unlearner's contract, `clause`")
    config.stash[SETTINGS] = Settings(config)
    config.stash[RESULTS] = Results()
    if config.stash[SETTINGS].asked and not is_worker(config) and not config.option.help:
        config.stash[SETTINGS].check()


def is_worker(config: pytest.Config) -> bool:
    """Say whether this process is a worker of xdist."""
    return hasattr(config, "workerinput")


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> list[Any] | None:
    """Leave out audits of methods where only controls run, and audits of controls where a method is asked for."""
    marks = getattr(obj, "pytestmark", [])
    if any(getattr(m, "name", "") == "contract" for m in marks):  # controls break it on purpose
        return [] if collector.config.stash[SETTINGS].controls_only else None
    mark = next((m for m in marks if getattr(m, "name", "") == "audit"), None)
    if not _is_ours(mark):
        return None  # a mark of that name may be somebody else's
    is_control = mark.kwargs.get("control") is not None
    return [] if is_control != collector.config.stash[SETTINGS].controls_only else None


def _is_ours(mark: pytest.Mark | None) -> TypeGuard[pytest.Mark]:
    return mark is not None and mark.args[:1] in [(claim,) for claim in KNOWN]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every audit its cells, and the contract its methods and lines."""
    settings = metafunc.config.stash[SETTINGS]
    if (audits := metafunc.definition.get_closest_marker("audits")) is not None:
        parametrize(metafunc, audits, settings)
        return
    if "clause" in metafunc.fixturenames:
        clauses = settings.clauses(settings.unlearners, settings.tasks[0])
        metafunc.parametrize("clause", clauses, ids=map(str, clauses), indirect=True)
    mark = metafunc.definition.get_closest_marker("audit")
    if "audited" not in metafunc.fixturenames:
        return
    if not _is_ours(mark):
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} asks for a verdict; mark it with @pytest.mark.audit(claim), "
            f"claim one of {', '.join(map(repr, KNOWN))}"
        )
    control = mark.kwargs.get("control")
    cells = [
        cell
        for cell in settings.cells
        if (control is None or cell.unlearner.name == control) and (mark.args[0] != "accuracy" or cell.judges_accuracy)
    ]
    metafunc.parametrize("audited", cells, ids=[cell.id for cell in cells], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out optional audits unless an option or an argument names them."""
    # Of the arguments the files, modules, and what is in them: a folder may have any name.
    pyargs = config.option.pyargs
    files = [str(arg).replace("\\", "/").rpartition("/")[2] for arg in config.args if ".py" in str(arg) or pyargs]
    named = " ".join([config.option.markexpr, config.option.keyword, *files])
    unnamed = [mark for mark in OPTIONAL if mark not in named]
    left_out = [i for i in items if cell_of(i) is not None and any(i.get_closest_marker(mark) for mark in unnamed)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the trials before the audits that survived deselection; a listing shows the audits alone.

    Here and not while items are modified, because ``--lf`` and its like deselect and reorder last of all.
    """
    if not session.config.option.collectonly:
        with_trials(session, session.items)


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """In a dry run, say what the run would cost, and stop; search fields where that is asked for."""
    config = session.config
    if config.option.collectonly or not (config.option.audit_dry_run or config.option.audit_tune):
        return None
    writer = config.get_terminal_writer()
    writer.line()
    if config.option.audit_tune:
        _tune(config, writer)
        return True
    from harness.studies.forecast import remaining_cost

    if AUDITED not in config.stash:
        writer.line("no audits are selected: there is nothing to forecast")
        return True
    for line in forecast_lines(remaining_cost(study_of(config)), config.stash[PROCESSES]):
        writer.line(line)
    return True


def _tune(config: pytest.Config, writer: Any) -> None:
    """Search the fields of every method that is asked for, and write what was chosen after each of them."""
    from harness.studies.tuning import FINAL_SEEDS, TUNING_SEEDS, tune

    settings, n = config.stash[SETTINGS], config.option.audit_tune
    (task,) = settings.tasks
    poisons = list(dict.fromkeys(cell.poison for cell in settings.cells))
    file = Path(config.option.audit_tune_file).absolute()
    text = tuning_head(task.id, [each.id for each in poisons], n, TUNING_SEEDS, FINAL_SEEDS, settings.budget)
    lab = lab_of(config)
    written = False
    for method in settings.unlearners:
        writer.line(f"{method.id}: {n} settings, seeds {TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}")

        def show(tried: int, setting: Any, score: Any) -> None:
            writer.line(f"  {tried:>4}/{n}  {score_line(score):<60}  {setting.id}")

        try:
            tuned = tune(method, task, poisons, lab, n, show)
        except UnlearningError as error:
            writer.line(f"  {error}", red=True)
            continue
        text += tuned_lines(tuned)
        write_text(file, text)
        written = True
        writer.line(tuned_lines(tuned).strip(), bold=True)
    if not written:
        raise pytest.UsageError("nothing was tuned, and nothing written")
    writer.line(f"written to {file}; audit it with --unlearner=@{os.path.relpath(file)}")


def pytest_report_header(config: pytest.Config) -> list[str] | None:
    """Say what is audited, of whose making, and where the artefacts go."""
    settings = config.stash[SETTINGS]
    if not settings.asked or config.option.collectonly:
        return None
    lines = []
    if settings.controls_only and not settings.of_suites:  # tests of somebody's own name what they audit
        return [f"devices: {_devices(config)}   store: {settings.store.in_words()}"]
    if settings.controls_only:
        names = ", ".join(control.id for control in settings.unlearners)
        lines.append(f"unlearner: none asked for (--unlearner=NAME), so the controls: {names}")
    else:
        for method in settings.unlearners:
            fields = ", ".join(f"{name}={value}" for name, value in method.fields.items())
            lines.append(
                f"unlearner: {method.name}({fields})  {method.distribution} {method.version}".rstrip()
                + f", source {method.source[:8]}"
            )
    looks = ", ".join(map(str, settings.plan.looks))
    for task in settings.tasks:
        poisons = dict.fromkeys(cell.poison.id for cell in settings.cells if cell.task == task)
        lines.append(
            f"task: {task.id}   poisons: {', '.join(poisons)}   seeds: {looks}   "
            f"budget: {100 * settings.budget:g} % of retraining"
            + (f"   discovery: {100 * settings.discovery:g} %" if settings.discovery < 1 else "")
        )
    lines.append(f"devices: {_devices(config)}   store: {settings.store.in_words()}")
    return lines


def _devices(config: pytest.Config) -> str:
    if config.stash[SETTINGS].on_ray:
        return f"Ray cluster ({config.option.audit_executor})"
    specs = getattr(config.option, "tx", None) or []
    count = sum(int(spec.partition("*")[0]) if "*" in spec else 1 for spec in specs)
    return workers.in_words(count, workers.usable_gpus(config.option.audit_device))


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Let ``-n auto`` mean one worker per GPU; without one, xdist counts the cores."""
    if not Settings(config).asked:
        return None
    return len(workers.usable_gpus(config.option.audit_device)) or None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Give each worker its GPU, or its share of the cores, before it imports anything."""
    workers.assign(specs, workers.usable_gpus(config.option.audit_device))
    config.stash[SPECS] = specs


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker which run it belongs to."""
    node.workerinput["unlearning_run"] = run_id(node.config)
    node.workerinput[workers.SHARE] = workers.share_of(node.gateway.spec, node.config.stash[SPECS])


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """Let a trial whose worker died be made by the audits that need it: only what they say makes a run red."""
    if crashitem.startswith(f"{TRIALS}::"):
        report.outcome = "passed"
        report.unlearning = {"crashed": True}  # type: ignore[attr-defined]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what an item reported; workers have no results to write."""
    heard = getattr(report, "unlearning", None)
    if CONTROLLER is None or (heard is not None and heard.get("crashed")):
        return
    results = CONTROLLER.stash[RESULTS]
    results.hear(report)
    status = CONTROLLER.stash.get(STATUS, None)
    if heard is not None and "trial" in heard and status is not None:
        status.finished, status.trials = len(results.trials), heard["of"]


#: The configuration of the process that writes results; report hooks are not handed one.
CONTROLLER: pytest.Config | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember who writes results, and begin to show progress."""
    global CONTROLLER
    config = session.config
    CONTROLLER = None if is_worker(config) else config
    if CONTROLLER and config.stash[SETTINGS].asked and config.stash[SETTINGS].judging:
        config.stash[STATUS] = status_line(config, notes_folder(config))


def pytest_report_teststatus(report: Any) -> tuple[str, str, Any] | None:
    """Give trials and inconclusive audits words of their own."""
    heard = getattr(report, "unlearning", None)
    if heard is None:
        return None
    if heard.get("crashed"):
        return "crashed", "c", ("CRASHED", {"yellow": True})
    if "trial" in heard and report.when == "call":
        word = heard["word"]
        return word, {"trained": "t", "stored": "s", "raised": "r"}.get(word, "-"), (word.upper(), {"cyan": True})
    if "heuristic" in heard and report.when == "call" and report.passed:
        return "informed", "i", ("INFORMED", {"cyan": True})
    if "expected" in heard and report.when == "call":
        return "expected", "e", (f"EXPECTED {heard['expected']}", {"green": True})
    if heard.get("inconclusive"):
        return "inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})
    return None


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Show inconclusive audits in words, and the closing table."""
    results = config.stash[RESULTS]
    unclear = [
        a for a in results.audits.values() if a["verdict"] == "INCONCLUSIVE" and a["text"] and not as_expected(a)
    ]
    if unclear:
        terminalreporter.section("inconclusive audits")
        for audit in unclear:
            terminalreporter.section(audit["id"].partition("::")[2], sep="_")
            terminalreporter.write_line(audit["text"])
    if results.contract:
        terminalreporter.section("unlearning contract")
        for line in tables.contract_lines(list(results.contract.values())):
            terminalreporter.write_line(line)
    if results.heuristics:
        terminalreporter.section("usual metrics")
        for line in tables.heuristic_lines(results.methods()):
            terminalreporter.write_line(line)
    if results.audits:
        terminalreporter.section("unlearning audits")
        settings = config.stash[SETTINGS]
        for line in tables.table(results.methods()):
            terminalreporter.write_line(line)
        together = tables.methods_that_pass(results.methods(), settings.plan.alpha)
        if together is not None:
            terminalreporter.write_line(together)
    settings, audits = config.stash[SETTINGS], list(results.audits.values())
    if not settings.judging or not (settings.asked or audits):
        return
    stale, elsewhere = settings.unmatched(audits)
    if settings.expectations is not None:
        terminalreporter.section("expected verdicts")
        for line, markup in settings.expectations.lines(audits, stale, elsewhere):
            terminalreporter.write_line(line, **markup)
    if github.wanted():
        alone = not config.pluginmanager.hasplugin(github.ANNOTATE_FAILURES)
        contract, methods = results.contract.values(), settings.unlearners
        broken = [{**each, "red": True} for each in results.heuristics.values() if each["verdict"] == "ERROR"]
        for line in github.failing([*audits, *broken], contract, results.crashes, stale, methods, failures=alone):
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the progress and write the machine-readable result."""
    config = session.config
    if (status := config.stash.get(STATUS, None)) is not None:
        status.stop()
    if not is_worker(config) and (config.stash[SETTINGS].asked or config.stash[RESULTS].trials):
        shutil.rmtree(notes_folder(config), ignore_errors=True)
    if is_worker(config) or not config.stash[SETTINGS].judging:
        return
    settings, results = config.stash[SETTINGS], config.stash[RESULTS]
    if settings.expectations is not None:
        stale, _ = settings.unmatched(results.audits.values())
        if settings.expectations.updating:
            write_text(settings.expectations.path, settings.expectations.updated(results.audits.values(), stale))
        elif stale and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if settings.asked or results.audits:
        _write(config, results.document(config.invocation_params.args, settings, _devices(config)))


def _write(config: pytest.Config, document: Mapping[str, Any]) -> None:
    """Write what the options and the environment ask for; called once, in the process that has the results."""
    if config.option.audit_json:
        write_json(Path(config.option.audit_json).expanduser().absolute(), document)
    if config.option.audit_html:
        from harness.report.page import write_report

        write_report(document, Path(config.option.audit_html).expanduser().absolute(), config.option.audit_device)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        github.append_summary(document, Path(summary))
