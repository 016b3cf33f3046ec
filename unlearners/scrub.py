"""SCRUB: push away from the poisoned model on the forget set, stay close to it on the retain set.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning" (arXiv 2302.09880),
equation 3 and algorithm 1; reference code ``SCRUB`` at commit 98ffb11.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._budget import enough
from unlearners._steps import descend
from unlearners._teachers import divergence
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, Batches, ForgetRequest

PRICE = 4 / 3  # of an example: forward and backward through the student, forward through the teacher


@dataclass(frozen=True)
class SCRUB(Trained):
    """Alternate max epochs on the forget set with min epochs on the retain set; the poisoned model is the teacher.

    With KL_T(x) = T^2 KL(softmax(teacher(x) / T) || softmax(student(x) / T)), averaged over the batch:

        max epoch:  minimise  -KL_T  over the forget set
        min epoch:  minimise  gamma * loss + alpha * KL_T  over the retain set

    They alternate for as long as there are both. Surplus max epochs come first, surplus min epochs last, so that the
    last epoch is a min epoch. The teacher is in eval mode. A pass over either set costs 4/3 of it.

    Deviations from the reference code: the rate falls linearly to zero (there: in steps). The min epochs have equal
    lengths. Without ``epochs``, they together use the budget that the max epochs leave.

    The defaults were chosen from 50 settings on digits-cnn, on seeds that no audit uses
    (ci/benchmarks/results/tuned.txt): 0.50 of the poisons left on average, accuracy -0.6 points.

    Attributes:
        lr, batch_size, optimizer: As in `Trained`; ``lr=None`` is 0.034 times the recipe's own.
        alpha, gamma: Weights of staying close to the teacher, and of the task's loss, on the retain set, >= 0.
        temperature: T, > 0. The reference code has 2 and 4.
        max_epochs: Max epochs, each a pass over the forget set, >= 0.
        min_epochs: Min epochs, >= 1; None for ``epochs`` or, without these, as many as max epochs, at least one.
        forget_batch_size: Batch size on the forget set, >= 1.
        epochs: Passes over the retain set, of all min epochs together; None for as many as the budget pays for.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: ``epochs`` is None, and the max epochs use up the budget.
    """

    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = 64
    alpha: Annotated[float, Search(1e-3, 10, log=True)] = 1.06
    gamma: Annotated[float, Search(0.1, 10, log=True)] = 0.905
    temperature: Annotated[float, Search(choices=(1.0, 2.0, 4.0, 8.0))] = 2.0
    max_epochs: Annotated[int, Search(0, 5)] = 3
    min_epochs: Annotated[int | None, Search(choices=(None, 1, 2, 3, 5, 8))] = 2
    forget_batch_size: Annotated[int, Search(choices=(16, 32, 64, 128, 256, 512))] = 256

    lr_of_recipe: ClassVar[float] = 0.034

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.temperature < float("inf"), f"temperature must be positive, not {self.temperature}")
        check(self.alpha >= 0 and self.gamma >= 0, "alpha and gamma must not be negative")
        check(self.max_epochs >= 0, f"max_epochs must not be negative, not {self.max_epochs}")
        check(self.min_epochs is None or self.min_epochs >= 1, f"min_epochs must be at least 1, not {self.min_epochs}")
        check(self.forget_batch_size >= 1, f"forget_batch_size must be at least 1, not {self.forget_batch_size}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the student."""
        return self.alternate(model, request, lambda: None)

    def alternate(self, model: nn.Module, request: ForgetRequest, after_min: Callable[[], None]) -> nn.Module:
        """Return the student; ``after_min`` is called after every min epoch."""
        import torch

        teacher = copy.deepcopy(model).eval()

        def loss(step: tuple[str, Batch]) -> Tensor:
            kind, batch = step
            with torch.no_grad():
                target = request.logits(teacher, batch)
            logits = request.logits(model, batch)
            distance = divergence(target, logits, self.temperature, batch)
            return -distance if kind == "max" else self.gamma * request.criterion(logits, batch) + self.alpha * distance

        rounds = self._rounds(request)

        def steps() -> Iterator[tuple[str, Batch]]:
            for kind, batches in rounds:
                yield from ((kind, batch) for batch in batches)
                if kind == "min":
                    after_min()

        return descend(request, model, steps(), sum(len(batches) for _, batches in rounds), self, loss)

    @property
    def minimal(self) -> int:
        """Number of min epochs."""
        return self.min_epochs or self.epochs or max(1, self.max_epochs)

    def _rounds(self, request: ForgetRequest) -> list[tuple[str, Batches]]:
        """Return the phases in order: ``"max"`` or ``"min"``, and its batches."""
        if self.epochs is None:
            examples = request.affordable(PRICE, reserve=PRICE * self.max_epochs * len(request.forget))
        else:
            examples = self.epochs * len(request.retain)
        length = enough(request, examples // self.minimal)
        rounds = max(self.max_epochs, self.minimal)
        phases = []
        for epoch in range(rounds):
            if epoch < self.max_epochs:
                phases.append(("max", request.batches("forget", batch_size=self.forget_batch_size)))
            if epoch >= rounds - self.minimal:
                phases.append(("min", request.batches("retain", batch_size=self.batch_size, examples=length)))
        return phases
