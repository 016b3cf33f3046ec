"""The hooks of the plugin, thin: each asks the session, the items, the outcomes or the terminal.

Imports neither torch nor scipy.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Generator
from typing import Any

import pytest

import _pytest_unlearning as entry
from harness.api import DeviceLost, UnlearningError
from harness.judging.claims import CLAIMS
from harness.plugin import fixtures, instead, outcomes, terminal, workers
from harness.plugin.items import PLACE, REPORTED, TRIALS, add_trials, cell_of, is_control
from harness.plugin.parametrize import claims_in, parametrize
from harness.plugin.searching import SEARCH, put_settings
from harness.plugin.session import SELECTED, SESSION, Session

#: Marks of the audits that run only if they are asked for: they take long, or inform and do not gate.
OPTIONAL = tuple(dict.fromkeys(claim.mark for claim in CLAIMS.values() if claim.mark))


def register(config: pytest.Config) -> Hooks:
    """Register the plugin and its fixtures, and return it."""
    session = config.stash[SESSION] = Session(config)
    hooks = Hooks(session)
    if session.settings.one_process:
        hooks.keep_to_one_process()
    if session.worker is not None and workers.SHARE not in session.worker:
        workers.take(session.worker, workers.usable_gpus(session.settings.option.audit_device))
    config.pluginmanager.register(fixtures, f"{entry.NAME}-fixtures")
    config.pluginmanager.register(hooks, entry.NAME)
    return hooks


class Hooks:
    """The plugin: what pytest and xdist call in a run with audits.

    Args:
        session: What this process holds.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.config = session.config
        self._introduced = False
        self._collected = 0

    # ---- the command line

    def keep_to_one_process(self) -> None:
        """Start no workers, and remember how many were asked for."""
        option = self.config.option
        asked = getattr(option, "numprocesses", None)
        self.session.processes = (
            asked if isinstance(asked, int) and asked > 0 else (os.cpu_count() or 1 if asked else 1)
        )
        option.numprocesses, option.dist, option.tx = None, "no", []

    def auto_workers(self) -> int | None:
        """Return what ``-n auto`` means: one worker per GPU; None without a GPU."""
        return len(workers.usable_gpus(self.session.settings.option.audit_device)) or None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Register the marks, and check the command line before anything costs time."""
        for mark in OPTIONAL:
            claims = ", ".join(name for name, claim in CLAIMS.items() if claim.mark == mark)
            config.addinivalue_line("markers", f"{mark}: an audit of {claims}; it runs if it is asked for (-m {mark}).")
        self.session.check()

    # ---- collection

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Note in which place an item was collected, before other plugins shuffle them."""
        item.stash[PLACE] = self._collected
        self._collected += 1

    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> list[Any] | None:
        """Leave out audits of methods if only controls run, those of controls if not, and claims that apply nowhere."""
        marks = {mark.name: mark for mark in getattr(obj, "pytestmark", []) if isinstance(mark, pytest.Mark)}
        if "contract" in marks:  # controls break it on purpose
            return [] if self.session.settings.controls_only else None
        mark = marks.get("audit")
        claims = claims_in(mark) if mark is not None else []
        if mark is None or not claims:
            return None  # a mark of that name may be somebody else's
        settings = self.session.settings
        if (mark.kwargs.get("control") is not None) != settings.controls_only:
            return []
        return None if any(claim.applies(cell) for claim in claims for cell in settings.cells) else []

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give every audit its cells, and the contract its methods and lines."""
        parametrize(metafunc, self.session.settings)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out optional audits, unless a mark, a keyword or the name of their file asks for them."""
        words = [*re.findall(r"\w+", config.option.markexpr), *re.findall(r"\w+", config.option.keyword)]
        optional = [mark for mark in OPTIONAL if not any(mark in word for word in words)]
        files = entry.named(config)
        left_out = [
            item
            for item in items
            if cell_of(item) is not None
            and any(item.get_closest_marker(mark) for mark in optional)
            and item.path.resolve() not in files
        ]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            config.hook.pytest_deselected(items=left_out)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Put the trials before the audits that survived deselection; a listing shows the audits alone.

        Here and not while items are modified, because ``--lf`` and its like deselect and reorder last of all.
        """
        self.session.of_suites |= any(item.path.parent == entry.SUITES for item in session.items)
        if not self.config.option.collectonly:
            if self.session.settings.searching:
                put_settings(self.session, session)
            self.session.select(session.items)
            add_trials(self.session, session)
            if self.session.asked:
                self.session.check()
                self.session.check_data()
                self.session.begin()

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Forecast in place of running the audits, if that is asked for."""
        if self.config.option.collectonly or not self.session.settings.option.audit_dry_run:
            return None
        writer = self.config.get_terminal_writer()
        writer.line()
        try:
            instead.forecast(self.session, writer)
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from error
        return True

    # ---- xdist

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        """Give each worker its GPU, or its share of the cores, before it imports anything."""
        workers.assign(specs, workers.usable_gpus(self.session.settings.option.audit_device))
        self.session.specs = specs

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker which run it belongs to, and its share of its GPU."""
        node.workerinput[workers.RUN] = self.session.run_id
        node.workerinput[workers.SHARE] = workers.share_of(node.gateway.spec, self.session.specs)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Learn from a worker that has ended what was to be judged: the controller collects nothing."""
        told = getattr(node, "workeroutput", {})  # a worker that crashed left none
        self.session.selected = told.get(SELECTED, self.session.selected)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Leave a trial whose worker died to the audits that need it: only what they conclude makes a run red.

        And leave a setting to another worker, which takes it up.
        """
        if crashitem.startswith((f"{TRIALS}::", f"{SEARCH}::")):
            report.outcome = "passed"
            report.unlearning = {"crashed": True, "shown": outcomes.CRASHED}  # type: ignore[attr-defined]

    # ---- reports

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
        """Report failures in sentences, and attach what the controller needs."""
        report = yield
        error, headline = None, ""
        if call.excinfo is not None:
            error, headline = call.excinfo.value, call.excinfo.exconly().splitlines()[0]
        if isinstance(error, DeviceLost):
            self._lose_device(error)
        settings, reported = self.session.settings, item.stash.get(REPORTED, None)
        expected = None
        if settings.expectations is not None and reported is not None and "audit" in reported and not is_control(item):
            file = settings.expectations
            expected = outcomes.Expected(file.of(reported["audit"]), file.path, file.updating)
        verdict = getattr(item, "funcargs", {}).get("verdict")
        decided = outcomes.decide(
            outcomes.Happened(
                report.when,
                report.outcome,
                report.longrepr,
                reported,
                error,
                headline,
                str(item.path),
                verdict,
                ours=item.path.parent == entry.SUITES,
            ),
            lambda unlearner: settings.command(item, unlearner),
            expected,
            settings.option.audit_inconclusive == "warn",
        )
        if report.outcome == "skipped" != decided.outcome and hasattr(report, "wasxfail"):
            del report.wasxfail
        report.outcome, report.longrepr = decided.outcome, decided.text
        if decided.heard is not None:
            report.unlearning = {**decided.heard, "nodeid": report.nodeid, "place": item.stash.get(PLACE, sys.maxsize)}
        return report

    def _lose_device(self, error: DeviceLost) -> None:
        """End this process: nothing more can be computed in it, and what was stored is not lost."""
        if self.session.worker is not None:
            os._exit(1)  # xdist starts another worker on the same device
        pytest.exit(f"{error}; run again: everything finished is stored", returncode=3)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what an item reported; a worker has no results to write."""
        heard = getattr(report, "unlearning", None)
        if self.session.worker is not None or (heard is not None and heard.get("crashed")):
            return
        if heard is not None and "search" in heard:
            self.session.searching.hear(heard["search"], self.config.pluginmanager.get_plugin("terminalreporter"))
            return
        results, status = self.session.results, self.session.status
        results.hear(report)
        if heard is not None and "trial" in heard and status is not None:
            status.finished, status.trials = len(results.trials), heard["of"]

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, Any] | None:
        """Give trials and audits words of their own, unless another plugin runs the item again."""
        shown = (getattr(report, "unlearning", None) or {}).get("shown")
        if shown is None or report.outcome not in ("passed", "failed", "skipped"):
            return None
        word, letter, text, markup = shown
        return word, letter, (text, markup) if text else ""

    # ---- the terminal, and the end

    def pytest_report_header(self) -> list[str] | None:
        """Print what is audited, if the command line asks for it."""
        return self._introduction()

    def pytest_report_collectionfinish(self) -> list[str] | None:
        """Print what is audited, if only the collection shows it."""
        return self._introduction()

    def _introduction(self) -> list[str] | None:
        if not self.session.asked or self.config.option.collectonly or self._introduced:
            return None
        self._introduced = True
        return terminal.header(self.session)

    def pytest_sessionstart(self) -> None:
        """Begin to show progress, if the command line asks for audits."""
        if self.session.asked:
            self.session.begin()
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if self.session.settings.searching and reporter is not None:
            reporter.showfspath = False  # every setting has a line of its own

    def join(self) -> None:
        """Take part in a session of xdist's controller that has begun: a worker has reported an audit."""
        xdist: Any = self.config.pluginmanager.get_plugin("dsession")
        self.session.run_id = xdist.nodemanager.testrunuid
        self.session.begin()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print what the audits concluded."""
        if self.session.settings.searching:
            self.session.searching.summarise(terminalreporter)
        terminal.summarise(self.session, terminalreporter)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End the progress, and write the results."""
        if self.session.status is not None:
            self.session.status.stop()
        if self.session.worker is not None:
            return
        if self.session.asked:
            shutil.rmtree(self.session.notes_folder, ignore_errors=True)
        if self.session.settings.searching:
            session.exitstatus = self.session.searching.conclude(session.exitstatus)
        if self.session.settings.judging:
            session.exitstatus = terminal.conclude(self.session, session.exitstatus)
