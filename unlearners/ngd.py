"""NGD: keep training on the retain set, with noise in every gradient.

Source: noisy gradient descent in Pawelczyk et al. (arXiv 2406.17216), after Chien, Wang, Chen and Li, "Langevin
Unlearning" (arXiv 2401.10371): theta <- theta - lr * (grad L_retain(theta) + xi), xi ~ N(0, sigma^2 I).
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
class NGD(Trained):
    """Continue training on the retain set, with fresh Gaussian noise added to the gradient of every step.

    Never reads the forget set. Costs ``epochs`` passes over the retain set.

    Deviations: as in Pawelczyk et al., gradients are not clipped and the noise is not scaled with the rate. So no
    guarantee is claimed (Langevin unlearning clips each example's gradient and adds sqrt(2 lr) sigma xi to the
    weights). Through the optimiser's momentum the noise of one step acts on the next. The rate falls.

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.44 of the poisons left on average, accuracy -0.8 points.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is 0.4805 times the recipe's own.
        variance: sigma^2, of the noise on each coordinate of the gradient, >= 0. The paper's example is 1e-7.

    Raises:
        ValueError: A field is out of range.
    """

    variance: Annotated[float, Search(1e-8, 1e-2, log=True)] = 1.44e-4

    lr_of_recipe: ClassVar[float] = 0.4805
    reads_forget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.variance < float("inf"), f"variance must not be negative, not {self.variance}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after further training with noise."""
        import torch

        def add_noise() -> None:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.add_(torch.randn_like(parameter), alpha=self.variance**0.5)

        return train_on_retained(request, model, self, before_step=add_noise)
