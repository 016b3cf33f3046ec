"""Rewind: go back to an early checkpoint of the training, and continue from there without the forget set.

Source: Mu and Klabjan, "Rewind-to-Delete: Certified Machine Unlearning for Nonconvex Functions" (arXiv 2409.09778).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._steps import train_on_retained
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class Rewind(Trained):
    """Restore the poisoned model from early in its training, and train it on the retain set.

    Never reads the forget set. Costs ``epochs`` passes over the retain set, and disk space for one checkpoint. The
    training must have kept it, so the method declares ``history``.

    Deviations from the paper: it makes as many steps as the budget pays for (the paper: as many as were rewound). It
    adds no noise at the end, so no certificate is claimed. The rate falls.

    The defaults are the best of 120 settings on digits-cnn (seeds 1000 to 1014, which no audit uses; see
    ci/benchmarks/results/tuned.txt): 0.03 of the poisons left on average, accuracy -1.4 points.

    Attributes:
        to: Where to go back to, as a share of the training, in [0, 1]; 0 is the initialisation.
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is 1.51 times the recipe's own.

    Raises:
        ValueError: A field is out of range.
    """

    to: Annotated[float, Search(choices=(0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9))] = 0.1

    lr_of_recipe: ClassVar[float] = 1.51
    reads_forget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.to <= 1, f"to must lie in [0, 1], not {self.to}")

    def history(self, epochs: int) -> list[int]:
        """Return the epoch whose checkpoint it goes back to."""
        return [round(self.to * epochs)]

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the checkpoint after further training."""
        (checkpoint,) = request.history.values()
        model.load_state_dict(dict(checkpoint))
        return train_on_retained(request, model, self)
