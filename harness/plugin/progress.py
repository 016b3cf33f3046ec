"""The last line of the terminal: what is training where."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from harness.guards.events import ours
from harness.report.words import duration
from harness.studies.notes import EVERY


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
        try:
            while not self._ended.wait(EVERY):
                with ours():
                    line = self.text(self._size.columns - 1)
                self._write(f"\0337\033[{self._size.lines};1H\033[2K{line}\0338")
        finally:
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
                left = (time.monotonic() - self._begun) / self.finished * (self.trials - self.finished)
                far += f", at most about {duration(left)} to go"
        if width is not None and len(text) + len(far) > width:
            text = f"{text[: max(0, width - len(far) - 1)]}…"
        return (text + far)[:width]

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def watched(config: Any) -> bool:
    """Return whether a status line can be seen: the output is a terminal, and no debugger needs it."""
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
