"""What one process of a run holds: its settings, its study, what it has heard, its id."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import _pytest_unlearning as entry
from harness.api import UnlearningError
from harness.cells import Cell
from harness.plugin import workers
from harness.plugin.progress import StatusLine, status_line, watched
from harness.plugin.settings import Settings
from harness.report.collected import Heard
from harness.report.console import make_readable
from harness.store.artefacts import Store
from harness.studies.notes import Notes
from harness.studies.ray import Board

if TYPE_CHECKING:
    from harness.plugin.searching import Searching
    from harness.studies.executors import Executor
    from harness.studies.study import Study
    from harness.trials.datasets import Datasets
    from harness.trials.lab import Lab

SESSION = pytest.StashKey["Session"]()
#: What a worker tells its controller of: the node ids of the tests that are to be judged.
SELECTED = "unlearning_selected"


def session_of(config: pytest.Config) -> Session:
    """Return what this process holds."""
    return config.stash[SESSION]


class Session:
    """What one process of a run holds: the controller, a worker of xdist, or the only one.

    Args:
        config: pytest's configuration.

    Attributes:
        config: The same.
        settings: What the command line asks for.
        results: What the reports of the run have told.
        cells: The cells of the audits that survived deselection.
        selected: Node ids of the tests of this project's suites that survived it, in the process that reports.
        of_suites: Whether suites of this project run, and not only tests of the user's own.
        processes: How many processes were asked for.
        specs: xdist's specifications of the workers; empty without workers.
        status: The last line of the terminal, if it is shown.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = Settings(config)
        self.results = Heard()
        self.cells: Sequence[Cell] = ()
        self.selected: list[str] = []
        self.of_suites = any(entry.SUITES in (path, *path.parents) for path in entry.named(config))
        self.processes = 1
        self.specs: Sequence[Any] = ()
        self.status: StatusLine | None = None
        self._checked = False
        self._begun = False

    @property
    def asked(self) -> bool:
        """Whether the run has audits: the command line asks for them, or some were collected or reported."""
        results = self.results
        heard = results.audits or results.trials or results.contract or results.heuristics
        return bool(self.of_suites or entry.given(self.config) or self.cells or heard)

    @property
    def worker(self) -> dict[str, Any] | None:
        """What xdist's controller has told this worker; None in a process that is not a worker."""
        told: dict[str, Any] | None = getattr(self.config, "workerinput", None)
        return told

    def check(self) -> None:
        """Stop early, in one sentence, if the run cannot work.

        Raises:
            pytest.UsageError: A name, field, directory or device cannot be used.
        """
        if self.asked and self.worker is None and not self.config.option.help and not self._checked:
            self._checked = True
            self.settings.check()

    def check_data(self) -> None:
        """Stop early if a task's data cannot be used, in a process that would load them anyway.

        Raises:
            pytest.UsageError: The data of a task cannot be used.
        """
        if self.worker is not None or self.settings.on_ray or self.settings.option.audit_tune:
            return
        from harness.trials.lab import Lab

        try:
            for task in dict.fromkeys(cell.task for cell in self.cells):
                lab = self.study.lab
                assert isinstance(lab, Lab), "without Ray it computes here"
                lab.check(task)
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from error

    def select(self, items: Iterable[pytest.Item]) -> None:
        """Remember which tests of this project's suites are to be judged; a worker tells its controller at its end."""
        self.selected = [item.nodeid for item in items if item.path.parent == entry.SUITES]
        if self.worker is not None:
            self.config.workeroutput[SELECTED] = self.selected  # type: ignore[attr-defined]

    def not_judged(self) -> list[str]:
        """Return the tests of our suites that were selected and that nobody reports anything of."""
        return self.results.unanswered(self.selected) if self.settings.judging else []

    def begin(self) -> None:
        """Begin to show what goes on, in the process that reports."""
        if self.worker is None and self.config.pluginmanager.hasplugin("terminalreporter"):
            make_readable(self.config.get_terminal_writer()._file)
        if self.worker is None and self.settings.judging and not self._begun:
            self._begun = True
            self.status = status_line(self.config, self.notes_folder)

    @cached_property
    def searching(self) -> Searching:
        """The searches for settings of this process."""
        from harness.plugin.searching import Searching

        return Searching(self)

    @cached_property
    def study(self) -> Study:
        """The study of this process; the first item that asks for it makes it."""
        from harness.studies.study import Study

        return Study(self.cells, self._executor(), self.settings.plan, self.settings.tolerance)

    def _executor(self) -> Executor:
        """Return what runs this process's trials: its own lab, or a Ray cluster."""
        if not self.settings.on_ray:
            return self.lab()
        from harness.studies.ray import Cluster, Ray

        cluster = Cluster.of(self.settings.option.audit_executor)
        if self.settings.option.audit_device == "cpu":
            cluster = replace(cluster, gpus=0.0)
        if not watched(self.config):
            return Ray(self._lab_maker(), cluster, self.settings.budget)
        board = Board(self.notes_folder)
        maker = functools.partial(self._lab_maker(), show=board.notes)
        return Ray(maker, cluster, self.settings.budget, board)

    def lab(self) -> Lab:
        """Return a lab over this run's store, on this process's device."""
        told = self.worker or {}
        notes = Notes(self.notes_folder, told.get("workerid", "main"))
        return self._lab_maker()(show=notes, share=told.get(workers.SHARE, 1.0))

    def _lab_maker(self) -> functools.partial[Lab]:
        from harness.trials.lab import Lab

        settings = self.settings
        return functools.partial(
            Lab.open, str(settings.store), data=settings.folder, device=settings.option.audit_device,
            budget=settings.budget, run=self.run_id, timeout=settings.option.audit_timeout,
            group=settings.option.audit_group,
        )  # fmt: skip

    @cached_property
    def store(self) -> Store:
        """The store of this run, for what is not part of a trial."""
        return Store(str(self.settings.store), self.run_id)

    @cached_property
    def datasets(self) -> Datasets:
        """The data of tasks on which the contract is examined."""
        from harness.contract.examination import on_cpu

        return on_cpu(self.store, self.settings.folder)

    @cached_property
    def run_id(self) -> str:
        """An id of this run, the same in all of its processes."""
        told = self.worker
        if told is not None:  # by its controller, or by xdist if the controller did not know of audits
            return str(told.get(workers.RUN, told["testrunuid"]))
        return f"{time.time_ns():x}-{os.getpid()}"

    @property
    def notes_folder(self) -> Path:
        """Where the processes of this run note what they do."""
        return self.settings.store.scratch / "progress" / self.run_id

    @property
    def devices(self) -> str:
        """What the run computes on, in words."""
        option = self.settings.option
        if self.settings.on_ray:
            return f"Ray cluster ({option.audit_executor})"
        specs = getattr(self.config.option, "tx", None) or []
        count = sum(int(spec.partition("*")[0]) if "*" in spec else 1 for spec in specs)
        return workers.in_words(count, workers.usable_gpus(option.audit_device))
