"""EUk: re-initialise the last k layers and train them on the retain set (exact unlearning of these layers).

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
class EUk(Trained):
    """Re-initialise the last k blocks, freeze the others, and train on the retain set.

    Never reads the forget set. Counted in examples it costs ``epochs`` passes over the retain set. In operations it
    costs less, because no gradient goes below the first trained block.

    Deviations: those of CFk (k counts blocks, frozen blocks keep their running statistics, the rate falls). Batch
    normalisation inside the last k blocks is re-initialised with them; the reference code keeps it.

    On a language model the last block is the last normalisation with the head, and the others are transformer blocks.
    If a task starts from published weights, its blocks are reset to these, and its head is random.

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.33 of the poisons left on average, accuracy -0.7 points.

    Attributes:
        k: Blocks that are re-initialised, counted from the output, >= 1. The paper does not state its k;
            a search tries every share of the blocks.
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is 1.885 times the recipe's own. New
            layers learn little at the paper's rates of 5e-5 and below.

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
        """Return the model with new last blocks."""
        with last_blocks_trained(request, model, self.k) as blocks:
            fresh = request.blocks(request.new_model())[-self.k :]
            for block, new in zip(blocks, fresh, strict=True):
                block.load_state_dict(new.state_dict())
            return train_on_retained(request, model, self)
