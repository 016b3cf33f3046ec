"""What the methods share that take a batch of the retain set and one of the forget set in every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._budget import enough
from unlearners._steps import descend
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


@dataclass(frozen=True)
class Paired(Trained):
    """A method whose steps take a batch of each set. The retain set sets the pace, and the forget set is cycled.

    Attributes:
        forget_batch_size: Batch size on the forget set, >= 1; None for that of the retain set.

    Raises:
        ValueError: A field is out of range.
    """

    forget_batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64, 128))] = None

    #: What an example of each set costs, in examples forward and backward; a subclass says it, and it is no field.
    forget_price: ClassVar[float] = 1.0
    retain_price: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.forget_batch_size
        check(size is None or size >= 1, f"forget_batch_size must be at least 1, not {size}")

    def descend_on_pairs(
        self, model: nn.Module, request: ForgetRequest, loss: Callable[[Batch, Batch], Tensor]
    ) -> nn.Module:
        """Descend on a loss of a retain batch and a forget batch; return the model, which is changed in place.

        Raises:
            UnlearningError: The budget pays for no step.
        """
        examples = self._affordable(request) if self.epochs is None else self.epochs * len(request.retain)
        batches = request.batches("retain", batch_size=self.batch_size, examples=examples)
        pairs = zip(batches, self._forever(request), strict=False)
        return descend(request, model, pairs, len(batches), self, lambda pair: loss(*pair))

    def _affordable(self, request: ForgetRequest) -> int:
        """Return how many retained points the budget pays for, a forget batch beside each of their batches."""
        forget, most = len(request.forget), self._most(request)
        beside = min(most, forget) + (forget > most and forget % most == 1)  # a last batch of one joins the one before
        price, retained = self.forget_price * beside, len(request.retain)
        size = min(self.batch_size or request.batch_size, retained)
        steps_per_pass = request.batches("retain", batch_size=self.batch_size).per_epoch
        passes, rest = divmod(request.affordable(), self.retain_price * retained + steps_per_pass * price)
        steps, rest = divmod(rest, self.retain_price * size + price)
        left = max(0.0, rest - price) / self.retain_price
        return enough(request, int(passes) * retained + int(steps) * size + int(left + 1e-6))

    def _forever(self, request: ForgetRequest) -> Iterator[Batch]:
        size = self._most(request)
        passes = (request.batches("forget", batch_size=size) for _ in itertools.count())
        return itertools.chain.from_iterable(passes)

    def _most(self, request: ForgetRequest) -> int:
        return self.forget_batch_size or self.batch_size or request.batch_size
