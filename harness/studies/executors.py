"""Where trials are run: the protocol that a `Study` asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from harness.api import Reading
from harness.cells import Cell, Trial

if TYPE_CHECKING:
    from harness.trials.lab import TrialResult
    from harness.trials.models import Soon


class Executor(Protocol):
    """Runs trials; what each method does and raises stands in `harness.trials.lab.Lab`.

    Attributes:
        budget: Compute an unlearner may use, as a fraction of retraining.
    """

    budget: float

    @property
    def made_on(self) -> str:
        """Class of the device that models are made on, ``"cpu"`` or ``"cuda"``."""

    def will_need(self, cells: Iterable[Cell], soon: Soon | None = None) -> None: ...
    def run(self, trial: Trial) -> TrialResult: ...
    def unlearn(self, trial: Trial) -> None: ...
    def relearned(self, trial: Trial) -> dict[str, Reading]: ...
    def heuristics(self, trials: Sequence[Trial]) -> list[dict[str, dict[str, Reading]]]: ...
