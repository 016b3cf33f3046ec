"""What is training where: workers write it beside the store, the controller shows it on the last line of a terminal.

Files, because a worker of xdist can reach its controller only through finished tests. Nothing is shown where the output
is not a terminal.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from harness.api import Trial

EVERY = 0.5  # seconds between two notes of a worker, and between two looks of the controller


class Notes:
    """A worker's side: notes what it trains, at most twice a second."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._path = folder / f"{worker}.json"
        self._written = 0.0

    def __call__(self, trial: Trial, arm: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` passes of a model are made."""
        names = {"P": f"{trial.cell.poison.id} model", "R": "retraining", "U": trial.cell.unlearner.id}
        names["D"] = "retraining on the rest"
        what = names.get(arm, f"{arm} for {trial.cell.poison.id}")
        self.say(f"{what}, seed {trial.seed}" + (f", pass {done}/{total}" if arm != "U" else ""))

    def say(self, text: str) -> None:
        """Note a sentence, unless one was noted just now."""
        now = time.monotonic()
        if now - self._written < EVERY:
            return
        self._written = now
        with contextlib.suppress(OSError):  # a full disk must not stop a training
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(text), encoding="utf-8")


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
            self._write(f"\0337\033[{self._size.lines};1H\033[2K{self.text()[: self._size.columns - 1]}\0338")
        self._write(f"\0337\033[r\033[{self._size.lines};1H\033[2K\0338")

    def stop(self) -> None:
        """Give the line back."""
        self._ended.set()
        if self.is_alive():
            self.join()

    def text(self) -> str:
        """Return the line: what each worker is at, how far the run is, and how long it may take."""
        notes = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                notes.append(f"{path.stem}: {json.loads(path.read_text(encoding='utf-8'))}")
            except (OSError, ValueError):
                continue  # being written right now
        text = " · ".join(notes) or "starting"
        if self.trials:
            text += f" — {self.finished} of {self.trials} trials"
            if self.finished >= 5:  # the first ones pay for the start
                from harness.report import duration

                left = (time.monotonic() - self._begun) / self.finished * (self.trials - self.finished)
                text += f", at most about {duration(left)} to go"
        return text

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def status_line(config: Any, folder: Path) -> StatusLine | None:
    """Return a started status line, or None where nobody would see it, or a debugger needs the terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.verbose < 0 or config.option.usepdb:
        return None
    out = config.get_terminal_writer()._file
    if not out.isatty():
        return None
    line = StatusLine(folder, out)
    line.start()
    return line
