"""A search for settings (``--audit-tune``) as pytest items, each of which does what is next; its printing and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import UnlearningError
from harness.cells import Registered
from harness.plugin.items import REPORTED, TrialHooks
from harness.report.document import write_json, write_text
from harness.report.fronts import found_of, front_lines, head_of, plain_of, setting_line, spec_lines

if TYPE_CHECKING:
    from harness.plugin.session import Session
    from harness.studies.tuning import Tuning

SEARCH = "search"  # where settings stand in node ids


class Searching:
    """What one process of a run knows of its searches.

    Args:
        run: What the process holds.

    Attributes:
        found: What was found of each method that is finished, in the process that reports.
        failed: Why nothing was found of a method, likewise.
    """

    def __init__(self, run: Session) -> None:
        self._run = run
        self._tunings: dict[Registered, Tuning] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}

    @property
    def count(self) -> int:
        """How many settings of each method are to be tried."""
        return int(self._run.settings.option.audit_tune)

    def tuning(self, method: Registered) -> Tuning:
        """Return the search of a method's fields, as this process takes part in it.

        Raises:
            UnlearningError: The method cannot be tuned.
        """
        from harness.studies.tuning import Tuning

        if method not in self._tunings:
            settings = self._run.settings
            poisons = list(dict.fromkeys(cell.poison for cell in settings.cells))
            lab = next((each.lab for each in self._tunings.values()), None) or self._run.lab()
            self._tunings[method] = Tuning(method, settings.tasks[0], poisons, lab, self.count)
        return self._tunings[method]

    # ---- in the process that reports

    def hear(self, heard: dict[str, Any], reporter: Any) -> None:
        """Print what an item did; if it ended the search of a method, print and write what was found."""
        for tried in heard["tried"]:
            place = "   again " if tried["final"] else f"{tried['number'] + 1:>4}/{self.count}"
            _say(reporter, f"  {place}  {setting_line(tried)}")
        if error := heard["error"]:
            if not heard["stopped"]:
                self.failed[heard["unlearner"]] = error
            _say(reporter, f"{heard['unlearner']}: {error}", red=True)
        if heard["found"]:
            self.found[heard["unlearner"]] = heard["found"]
            document = self.document()
            for line in front_lines(heard["found"], document):
                _say(reporter, line)
            write_text(self.file, spec_lines(document))
            write_json(self.all_tried, document)

    @property
    def file(self) -> Path:
        """Where the chosen settings are written."""
        return Path(self._run.settings.option.audit_tune_file).expanduser().absolute()

    @property
    def all_tried(self) -> Path:
        """Where all that was tried is written."""
        return self.file.with_name(f"{self.file.name}.json")

    def document(self) -> dict[str, Any]:
        """Return all that was found so far."""
        from harness.studies.tuning import FINAL_SEEDS, TUNING_SEEDS

        settings = self._run.settings
        task = settings.tasks[0]
        poisons = list(dict.fromkeys(cell.poison.id for cell in settings.cells))
        seeds, margin = (TUNING_SEEDS, FINAL_SEEDS), task.value.utility_margin
        head = head_of(task.id, poisons, self.count, seeds, settings.budget, margin)
        asked = [method.id for method in settings.unlearners]
        return {**head, "methods": [self.found[name] for name in asked if name in self.found]}

    @property
    def unfinished(self) -> list[str]:
        """The methods whose search did not come to its end."""
        return [each.id for each in self._run.settings.unlearners if each.id not in {**self.found, **self.failed}]

    def summarise(self, reporter: Any) -> None:
        """Print where the result is, and what is missing."""
        if left := self.unfinished:
            _say(reporter, f"not finished: {', '.join(left)}; the same command goes on where this run stopped")
        if self.found:
            name = os.path.relpath(self.file)
            _say(reporter, f"written to {self.file}, and all that was tried to {self.all_tried.name}")
            _say(reporter, f"audit it with --unlearner=@{name}")
        else:
            _say(reporter, "nothing was tuned, so nothing was written", red=True)

    def conclude(self, exitstatus: int | pytest.ExitCode) -> int | pytest.ExitCode:
        """Return the exit status: a search that found nothing, or is not finished, is no success."""
        if exitstatus != pytest.ExitCode.OK:
            return exitstatus
        if self.unfinished:
            return pytest.ExitCode.TESTS_FAILED
        return exitstatus if self.found else pytest.ExitCode.USAGE_ERROR


class SettingItem(pytest.Item):
    """Does what is next in the search of a method's fields: tries a setting, or measures a finalist again.

    Which one that is, only the search knows; several workers share it. The last item of a method does all that is left,
    waits for what others are at, and reports what was found.
    """

    def __init__(self, *, method: Registered, last: bool, run: Session, hooks: TrialHooks, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._method, self._last, self._run, self._hooks = method, last, run, hooks

    @property
    def ihook(self) -> Any:
        """What pytest calls around it."""
        return self._hooks

    def runtest(self) -> None:
        """Take part in the search."""
        said: dict[str, Any] = {"unlearner": self._method.id, "tried": [], "error": "", "found": None}
        said["stopped"] = False
        self.stash[REPORTED] = {"search": said}
        from harness.studies.tuning import Stopped

        try:
            tuning = self._run.searching.tuning(self._method)
            while (tried := tuning.step()) is not None:
                said["tried"].append({**plain_of(tried), "final": tried.final})
                if not self._last:
                    break
            if self._last:
                said["found"] = found_of(tuning.result())
        except UnlearningError as error:
            said["error"] = str(error) if self._last else ""
            said["stopped"] = isinstance(error, Stopped)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return where it is from: not from a file."""
        return SEARCH, None, self.name


def put_settings(run: Session, session: pytest.Session) -> None:
    """Put the searches in the place of all items: one item for each setting and finalist, and a last one."""
    from harness.studies.tuning import FINALISTS

    hooks, count = TrialHooks(session), run.searching.count + FINALISTS
    session.items[:] = [
        SettingItem.from_parent(
            session, name=f"{method.id}-{i}", nodeid=f"{SEARCH}::{method.id}::{i}", method=method, last=i == count,
            run=run, hooks=hooks,
        )
        for method in run.settings.unlearners
        for i in range(count + 1)
    ]  # fmt: skip


def _say(reporter: Any, line: str, **markup: bool) -> None:
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(line, **markup)
