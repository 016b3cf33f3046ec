"""What a worker notes of its progress: in a file beside the store, or on a bar."""

from __future__ import annotations

import builtins
import contextlib
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.specs import called

if TYPE_CHECKING:
    from harness.cells import Trial


EVERY = 0.5  # seconds between two notes of a worker, and between two looks of the controller


class Noting(ABC):
    """A worker's side: notes what it trains, each model as soon as it begins and then at most twice a second."""

    _of: tuple[Trial, str] | None = None
    _noted = -math.inf

    def __call__(self, trial: Trial, arm: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` passes of a model are made, unless the model was noted just now."""
        now = time.monotonic()
        if (trial, arm) == self._of and now - self._noted < EVERY:
            return
        self._of, self._noted = (trial, arm), now
        names = {"P": f"{trial.cell.poison.id} model", "R": "retraining", "U": called(trial.cell.unlearner.id)}
        names["D"] = "retraining on the rest"
        what = names.get(arm, f"{arm} for {trial.cell.poison.id}")
        self._note(trial, f"{what}, seed {trial.seed}" + (f", pass {done}/{total}" if arm != "U" else ""))

    @abstractmethod
    def _note(self, trial: Trial, text: str) -> None:
        """Bring a note to where the controller looks."""


class Bar(Noting):
    """A bar on standard error: how many trials are done, of those that are certainly needed, and what is trained.

    Nothing is shown while nothing is trained. tqdm draws it; where that is missing there is no bar.

    Args:
        shown: Whether to show it; None where somebody can see it: on a terminal, or in a notebook.

    Attributes:
        count: Returns how many trials are done, and how many are done or certainly needed.
    """

    def __init__(self, shown: bool | None) -> None:
        # A notebook shows standard error as it comes, though it is no terminal; some programs have none.
        seen = sys.stderr is not None and (sys.stderr.isatty() or hasattr(builtins, "__IPYTHON__"))
        self._shown = (seen if shown is None else shown) and find_spec("tqdm") is not None
        self._bar: Any = None
        self.count: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._show()
            self._bar.close()

    def _note(self, trial: Trial, text: str) -> None:
        if self._shown:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(desc=f"audit of {called(trial.cell.unlearner.id)}", unit="trial", file=sys.stderr)
            self._bar.set_postfix_str(text, refresh=False)
            self._show()

    def _show(self) -> None:
        self._bar.n, self._bar.total = self.count()
        self._bar.refresh()


class Notes(Noting):
    """A process on the controller's machine: it notes in a file.

    Args:
        folder: Where the processes of this run note what they do.
        worker: What this one is called.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._worker = worker

    def _note(self, trial: Trial, text: str) -> None:
        write_note(self._folder, self._worker, f"{self._worker}: {text}")


def write_note(folder: Path, name: str, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not stop a training
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(text), encoding="utf-8")
