"""GD: keep training on the retain set.

Source: the gradient-descent baseline of Pawelczyk et al. (arXiv 2406.17216), after Neel, Roth and Sharifi-Malvajerdi,
"Descent-to-Delete" (arXiv 2007.02923): theta <- theta - lr * grad L_retain(theta).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._steps import check_training, train_on_retained

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class GD:
    """Continue training on the retain set with the recipe's optimiser, at a rate that falls linearly to zero.

    Never reads the forget set. Costs ``epochs`` passes over the retain set.

    Deviation from the paper: the rate falls (at a constant rate of 0.1 four points of accuracy are lost on digits).

    The defaults are the best of 120 settings on digits-cnn (seeds 1000 to 1014, which no audit uses; see
    ci/benchmarks/results/tuned.txt): 0.61 of the poisons left on average, accuracy -0.6 points. Higher rates remove
    more and cost more accuracy.

    Attributes:
        lr: Initial learning rate, > 0; None for 0.476 times the recipe's own. The paper searched
            [1e-6, 5e-5] on CIFAR-10.
        epochs: Passes over the retain set (the paper: 2 to 10 of 100); None for as many as the budget pays for.

    Raises:
        ValueError: A field is out of range.
    """

    lr: Annotated[float | None, Search(0.005, 5, log=True, of_recipe=True)] = None
    epochs: int | None = None

    lr_of_recipe: ClassVar[float] = 0.476
    reads_forget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_training(self.lr, self.epochs)

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after further training."""
        return train_on_retained(request, model, self, self.epochs)
