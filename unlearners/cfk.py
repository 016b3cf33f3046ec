"""CFk: continue training the last k layers on the retain set, in the hope of catastrophic forgetting.

Source: Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine Unlearning"
(arXiv 2201.06640), section 4; reference code: shash42/Evaluating-Inexact-Unlearning, src/methods.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._blocks import last_blocks_trained
from unlearners._steps import train_on_retained
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class CFk(Trained):
    """Freeze all but the last k blocks and train those on the retain set.

    Never reads the forget set. Counted in examples it costs ``epochs`` passes over the retain set. In operations it
    costs less, because no gradient goes below the first trained block.

    Deviations: k counts the task's blocks (a convolution or a transformer block with its normalisation); the reference
    code counts convolutions and linear layers. Frozen blocks keep their running statistics here; the reference code
    lets the batch normalisation between frozen layers adapt. The rate falls.

    On a language model the last block is the last normalisation with the head, and the others are transformer blocks.

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.36 of the poisons left on average, accuracy -0.7 points.

    Attributes:
        k: Blocks that are trained, counted from the output, >= 1. The paper does not state its k;
            a search tries every share of the blocks.
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is 1.885 times the recipe's own.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The model has fewer than k blocks.
    """

    k: Annotated[int, Search(0.01, 1, of="blocks")] = 2
    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = 32
    lr: Annotated[float | None, Search(0.005, 50, log=True, of="rate")] = None

    lr_of_recipe: ClassVar[float] = 1.885
    reads_forget: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.k >= 1, f"k must be at least 1, not {self.k}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after further training of its last blocks."""
        with last_blocks_trained(request, model, self.k):
            return train_on_retained(request, model, self)
