"""What is training where: workers note it, the controller shows it on the last line of a terminal.

A worker of xdist, which can reach its controller only through finished tests, notes it in a file beside the store. A
worker of Ray, which may be on any machine, sends it to an actor, and the controller asks that. Nothing is shown where
the output is not a terminal, and on Ray nothing is sent then.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from harness.api import Trial

EVERY = 0.5  # seconds between two notes of a worker, and between two looks of the controller


class _Noting(ABC):
    """A worker's side: notes what it trains, each model as soon as it begins and then at most twice a second."""

    _of: tuple[Trial, str] | None = None
    _noted = -math.inf

    def __call__(self, trial: Trial, arm: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` passes of a model are made, unless the model was noted just now."""
        now = time.monotonic()
        if (trial, arm) == self._of and now - self._noted < EVERY:
            return
        self._of, self._noted = (trial, arm), now
        names = {"P": f"{trial.cell.poison.id} model", "R": "retraining", "U": trial.cell.unlearner.id}
        names["D"] = "retraining on the rest"
        what = names.get(arm, f"{arm} for {trial.cell.poison.id}")
        self._note(trial, f"{what}, seed {trial.seed}" + (f", pass {done}/{total}" if arm != "U" else ""))

    @abstractmethod
    def _note(self, trial: Trial, text: str) -> None:
        """Bring a note to where the controller looks."""


class Notes(_Noting):
    """A process on the controller's machine: it notes in a file.

    Args:
        folder: Where the processes of this run note what they do.
        worker: What this one is called.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._worker = worker

    def _note(self, trial: Trial, text: str) -> None:
        _write(self._folder, self._worker, f"{self._worker}: {text}")


class RayNotes(_Noting):
    """A worker of Ray: it sends its notes to the run's board, and waits for nothing.

    Args:
        board: Name of the actor.
    """

    def __init__(self, board: str) -> None:
        self._board = board

    def _note(self, trial: Trial, text: str) -> None:
        with contextlib.suppress(Exception):  # whatever ails the cluster, a training does not end for a note
            self._send.remote(trial.id, f"{platform.node()}: {text}")

    @cached_property
    def _send(self) -> Any:
        import ray

        return ray.get_actor(self._board).note.options(num_returns=0)


class _Board:
    """The actor: the last note of every trial."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def note(self, trial: str, text: str) -> None:
        self._notes[trial] = text

    def read(self, trials: Sequence[str]) -> dict[str, str]:
        return {trial: self._notes[trial] for trial in trials if trial in self._notes}


class Board:
    """The controller's side of Ray: has a board, an actor that ends with the run, and looks at it in passing.

    It waits for no answer, so a board that is starting, busy or gone costs nothing but news. One whose node died is
    started elsewhere, empty: within a pass, those at work have told it again.

    Args:
        folder: Where the processes of this run note what they do.
    """

    def __init__(self, folder: Path) -> None:
        import ray

        self._ray: Any = ray
        self._folder = folder
        self._name = f"pytest-unlearning-{folder.name}"
        self._asked = -math.inf
        self._answer: Any = None
        self._heard: dict[str, str] = {}
        self.notes = RayNotes(self._name)

    @cached_property
    def _actor(self) -> Any:
        """The board; made at the first look, when the first trials have taken the processes that Ray keeps ready."""
        return self._ray.remote(num_cpus=0, max_restarts=-1)(_Board).options(name=self._name).remote()

    def __call__(self, at_work: Iterable[Trial]) -> None:
        """Show what was heard of the trials at work, and ask again; at most twice a second."""
        now = time.monotonic()
        if now - self._asked < EVERY:
            return
        self._asked = now
        trials = [trial.id for trial in at_work]
        if self._answer is None or self._ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._heard = self._ray.get(self._answer) if self._answer is not None else {}
            self._answer = self._actor.read.remote(trials)
        heard = [self._heard[trial] for trial in trials if trial in self._heard]
        silent = len(trials) - len(heard)
        _write(self._folder, "ray", " · ".join([*heard, *([f"{silent} starting"] if silent else [])]))


def _write(folder: Path, name: str, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not stop a training
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(text), encoding="utf-8")


class StatusLine(threading.Thread):
    """The controller's side: keeps the last line of the terminal for what goes on."""

    def __init__(self, folder: Path, out: TextIO) -> None:
        super().__init__(daemon=True)
        self.finished = 0
        self.trials = 0
        self._folder = folder
        self._out = out
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._size = shutil.get_terminal_size()

    def run(self) -> None:
        """Show the workers' notes until stopped."""
        # As package managers do: the last line is taken out of the scrolling region while we run.
        self._write(f"\n\0337\033[1;{self._size.lines - 1}r\0338\033[1A")
        while not self._ended.wait(EVERY):
            self._write(f"\0337\033[{self._size.lines};1H\033[2K{self.text(self._size.columns - 1)}\0338")
        self._write(f"\0337\033[r\033[{self._size.lines};1H\033[2K\0338")
        self._out.close()

    def stop(self) -> None:
        """Give the line back."""
        self._ended.set()
        if self.is_alive():
            self.join()

    def text(self, width: int | None = None) -> str:
        """Return the line: what each worker is at, how far the run is, and how long it may take.

        Where that is too wide, the last workers are left out.
        """
        notes = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                notes.append(str(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError):
                continue  # being written right now
        text, far = " · ".join(notes) or "starting", ""
        if self.trials:
            far = f" — {self.finished} of {self.trials} trials"
            if self.finished >= 5:  # the first ones pay for the start
                from harness.report import duration

                left = (time.monotonic() - self._begun) / self.finished * (self.trials - self.finished)
                far += f", at most about {duration(left)} to go"
        if width is not None and len(text) + len(far) > width:
            text = f"{text[: max(0, width - len(far) - 1)]}…"
        return (text + far)[:width]

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def watched(config: Any) -> bool:
    """Say whether a status line can be seen: the output is a terminal, and no debugger needs it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.verbose < 0 or config.option.usepdb:
        return False
    return bool(reporter.isatty)


def status_line(config: Any, folder: Path) -> StatusLine | None:
    """Return a started status line, or None where nobody would see it."""
    if not watched(config):
        return None
    # The terminal itself: while an item runs in this process, what is written to stdout is captured as the item's.
    terminal = os.dup(config.get_terminal_writer()._file.fileno())
    line = StatusLine(folder, os.fdopen(terminal, "w", encoding="utf-8", errors="replace"))
    line.start()
    return line
