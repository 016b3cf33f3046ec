"""L1-sparse: keep training on the retain set, with a penalty that drives weights to zero.

Source: Jia, Liu, Ram et al., "Model Sparsity Can Simplify Machine Unlearning" (arXiv 2304.04934), equation 3; reference
code: OPTML-Group/Unlearn-Sparse at commit 80ba55d, ``FT_l1`` in unlearn/FT.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from harness import Search
from unlearners._budget import retained
from unlearners._steps import descend
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


@dataclass(frozen=True)
class L1Sparse(Trained):
    """Minimise ``loss + gamma_t * (sum of |weights|)`` over the retain set.

    gamma_t falls linearly from pass to pass: it is ``gamma`` in the first one, and would be 0 after the last. Every
    weight that can be trained is penalised, those of normalisation layers and biases too. Never reads the forget set.
    Costs ``epochs`` passes over the retain set.

    Deviation from the reference code: the rate falls (there it is constant for 91 epochs).

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.33 of the poisons left on average, accuracy -0.7 points. The authors' commands
    leave gamma open, and the default in their code, 0.2, is that of another method. JingWu321/Scissorhands runs the
    same code with 1e-4 on CIFAR-10.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is 1.135 times the recipe's own.
        gamma: Weight of the penalty, >= 0; 0 is GD.

    Raises:
        ValueError: A field is out of range.
    """

    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = 64
    optimizer: Annotated[Literal["recipe", "adam", "sgd"], Search(choices=("recipe", "adam", "sgd"))] = "adam"
    gamma: Annotated[float, Search(1e-6, 1e-2, log=True)] = 6e-4

    lr_of_recipe: ClassVar[float] = 1.135
    reads_forget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.gamma < float("inf"), f"gamma must not be negative, not {self.gamma}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after further training."""
        import torch

        batches = retained(request, self)
        passes = -(-len(batches) // batches.per_epoch)
        falling = [self.gamma * (1 - step // batches.per_epoch / passes) for step in range(len(batches))]

        def loss(step: tuple[Batch, Tensor]) -> Tensor:
            batch, gamma = step
            size = sum(parameter.abs().sum() for parameter in model.parameters() if parameter.requires_grad)
            return request.loss(model, batch) + gamma.to(size) * size

        steps = zip(batches, torch.tensor(falling, dtype=torch.float64, device=request.device), strict=True)
        return descend(request, model, steps, len(batches), self, loss)
