"""GD: keep training on the retain set.

Source: the gradient-descent baseline of Pawelczyk et al. (arXiv 2406.17216), after Neel, Roth and Sharifi-Malvajerdi,
"Descent-to-Delete" (arXiv 2007.02923): theta <- theta - lr * grad L_retain(theta).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._steps import train_on_retained
from unlearners._trained import Trained

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class GD(Trained):
    """Continue training on the retain set, at a rate that falls linearly to zero.

    Never reads the forget set. Costs ``epochs`` passes over the retain set.

    Deviation from the paper: the rate falls (at a constant rate of 0.1 four points of accuracy are lost on digits).

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.34 of the poisons left on average, accuracy -0.7 points. Higher rates remove
    more and cost more accuracy.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is 0.1495 times the recipe's own. The paper
            searched [1e-6, 5e-5] on CIFAR-10, and made 2 to 10 passes (of 100).

    Raises:
        ValueError: A field is out of range.
    """

    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = 32

    lr_of_recipe: ClassVar[float] = 0.1495
    reads_forget: ClassVar[bool] = False

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after further training."""
        return train_on_retained(request, model, self)
