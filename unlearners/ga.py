"""GA: climb the loss of the forget set.

Source: the gradient-ascent baseline of Pawelczyk et al. (arXiv 2406.17216): theta <- theta + lr * grad L_forget(theta).
The first author's code for language models (In-Context-Unlearning at e740b1d, eval.py, ``untrain``) makes one epoch
with one example per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._steps import descend
from unlearners._trained import Trained

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class GA(Trained):
    """Ascend on the loss of the forget set; the retain set is not used.

    The loss has no upper bound, so only stopping early keeps the model alive. Costs ``epochs`` passes over the
    forget set, far below the budget.

    Deviation: the rate falls.

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.84 of the poisons left on average, accuracy -0.5 points. More epochs remove
    more and cost more accuracy.

    Attributes:
        lr, batch_size, optimizer: As in `Trained`; ``lr=None`` is 0.02535 times the recipe's own. The paper searched
            [1e-6, 5e-5] on CIFAR-10, where the model collapsed.
        epochs: Passes over the forget set, >= 1.

    Raises:
        ValueError: A field is out of range.
    """

    lr: Annotated[float | None, Search(1e-4, 1, log=True, of="rate")] = None
    epochs: Annotated[int, Search(1, 10)] = 1

    lr_of_recipe: ClassVar[float] = 0.02535

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, worse on the forget set."""
        batches = request.batches("forget", self.epochs, self.batch_size)
        return descend(request, model, batches, len(batches), self, lambda batch: -request.loss(model, batch))
