"""Potion: dampen ever more weights that matter to the known poison, until the model stops obeying it.

Source: Schoepf, Foster and Brintrup, "Potion: Towards Poison Unlearning" (arXiv 2406.09173), XLF and PTN search;
reference code: if-loops/towards_poison_unlearning at commit 5b5e83f, ``XALFSSD`` in src/methods.py and
``ParameterPerturber`` in src/utils.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from harness import Search
from unlearners._budget import enough
from unlearners._errors import PRICE, error
from unlearners._trained import check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batches, ForgetRequest

STEP, TRIES = 1.1, 500  # of the search: each step takes 10 % more than the one before


@dataclass(frozen=True)
class Potion:
    """Dampen weights as SSD does, by label-free importances, at the first step of a search that breaks the poison.

    The importance of a weight is the mean over batches of the absolute gradient of the mean length of the class scores,
    in eval mode: f_u on the forget set, f_d on the retain set. Where f_u / f_d is in the top share q, the weight is
    multiplied by min(f_d / f_u, 1). In step k of the search the share q is log(1 + 4 s 1.1^k) percent, with s the
    forget set's share of all points. The first step is taken at which the accuracy on the forget set, by its own
    labels, is at most ``rho`` times that of the poisoned model; if none is, the last.

    It was made for the case that only a part of the poison is known, see docs/discovery.md. No training. Costs one pass
    over both sets, and a third of the forget set for every step that is tried.

    Deviations from the reference code: it tries step by step; here the step is found by bisection, which is the same
    if accuracy falls from step to step, and costs at most eleven readings. If no step suffices, there the model comes
    back unchanged. f_d comes from a sample if the budget does not pay for the retain set.

    Not searched. The authors try a rho of 0 to 0.75.

    Attributes:
        rho: Share of the accuracy on the forget set that may be left, in [0, 1).
        batch_size: Examples per batch, >= 1; None for the recipe's.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget does not pay for the forget set, the search and one retained point.
    """

    rho: Annotated[float, Search(0.0, 0.75)] = 0.2
    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = None

    def __post_init__(self) -> None:
        check(0 <= self.rho < 1, f"rho must lie in [0, 1), not {self.rho}")
        check(self.batch_size is None or self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model with dampened weights."""
        import torch

        forget, retain = len(request.forget), len(request.retain)
        readings = 2 + math.ceil(math.log2(TRIES))
        examples = enough(request, min(retain, request.affordable(reserve=forget * (1 + readings * PRICE))))
        of_retain = request.batches("retain", batch_size=self.batch_size, examples=examples)
        f_u = self._importance(model, request, request.batches("forget", batch_size=self.batch_size))
        f_d = self._importance(model, request, of_retain)
        poisoned = [parameter.detach().clone() for parameter in model.parameters()]
        ratios = torch.cat([(u / d).flatten() for u, d in zip(f_u, f_d, strict=True)])
        ratios = ratios[ratios.isfinite()].sort().values
        limit = self.rho * (1 - error(request, model, request.forget))

        def suffices(step: int) -> bool:
            threshold = _percentile(ratios, math.log1p(4 * forget / (forget + retain) * STEP**step))
            with torch.no_grad():
                for parameter, u, d, before in zip(model.parameters(), f_u, f_d, poisoned, strict=True):
                    factor = torch.where(u > threshold * d, (d / u).clamp(max=1), 1.0)
                    parameter.copy_(factor * before)
            return 1 - error(request, model, request.forget) <= limit

        low, high = -1, TRIES - 1  # the first step that suffices is in (low, high], or none does
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(middle) else (middle, high)
        suffices(high)
        return model

    def _importance(self, model: nn.Module, request: ForgetRequest, batches: Batches) -> list[Tensor]:
        """Return the mean absolute gradient of the scores' length, parameter by parameter; 0 for what takes no part."""
        import torch

        model.eval()
        parameters = list(model.parameters())
        total = [torch.zeros_like(parameter) for parameter in parameters]
        trained = [pair for pair in zip(total, parameters, strict=True) if pair[1].requires_grad]
        for batch in batches:
            scores = request.logits(model, batch)
            length = (torch.linalg.vector_norm(scores, dim=1) if scores.dim() > 1 else scores.abs()).mean()
            gradients = torch.autograd.grad(length, [each for _, each in trained], allow_unused=True)
            for (sum_, _), gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    sum_.add_(gradient.abs(), alpha=1 / len(batches))
        return total


def _percentile(ascending: Tensor, top: float) -> Tensor:
    """Return the value that ``top`` percent of the others exceed, linear between neighbours."""
    place = (1 - top / 100) * (len(ascending) - 1)
    below = int(place)
    return ascending[below].lerp(ascending[min(below + 1, len(ascending) - 1)], place - below)
