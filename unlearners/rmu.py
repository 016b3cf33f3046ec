"""RMU, representation misdirection: steer what a layer says of the forget set towards a random vector.

Source: Li, Pan, Gopal et al., "The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning" (arXiv
2403.03218), section 4; reference code: centerforaisafety/wmdp at commit bc5e1ba, rmu/unlearn.py, read in the port of
locuslab/open-unlearning at commit d3d7cf9, src/trainer/unlearn/rmu.py, with which this was compared.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from harness import Search
from unlearners._activations import activations, layer_of
from unlearners._pairs import Paired
from unlearners._trained import check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


@dataclass(frozen=True)
class RMU(Paired):
    """Minimise ``mean (h - c u)^2`` on the forget set plus ``alpha * mean (h - h_P)^2`` on the retain set.

    h is what the layer returns, h_P the same of the poisoned model, in eval mode, and u a vector of uniform numbers,
    scaled to length 1 and drawn once. Of texts h is a vector for every token, and the means are over the tokens of a
    text, and over texts; padding is left out. Of other examples it is all that the layer returns, as one vector.

    The layer is the block that ends at ``depth``; among several modules in a block, the one with most trained weights.
    If no weight up to there is trained, it is the first block behind that has some. All trained weights up to the layer
    are updated, be they adapters or the model's own; the others have no gradient and stay.

    Costs a pass over the retain set and a third for the frozen model, and as many points of the forget set. The harness
    counts less: the backward pass ends at the layer, and is no part of the count of examples.

    Deviations from the reference code: it updates one matrix in the layer and in each of the two before; its port, all
    weights, as here. The port leaves prompts out of the means, and divides the sum of each text by the length of every
    one; the reference code takes padding in. Both make their steps with as many points of each set; here the retain set
    is gone through, and the forget set as often as that takes. The rate falls.

    The defaults are as published, not searched: c = 20, alpha = 100, Adam, but for the depth: the authors' layer ends
    at 8 of 32, and a model of two layers has none there.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is the recipe's own, in the unit of Adam.
        forget_batch_size: As in `Paired`.
        depth: Where the layer ends, as a share of the model's blocks, in (0, 1].
        c: Length of the vector, >= 0, in units of h.
        alpha: Weight of the retain set, >= 0. Under SGD it multiplies the rate, and 100 is too much.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step, no weight is trained, or the layer is never called.
    """

    optimizer: Annotated[Literal["recipe", "adam", "sgd"], Search(choices=("recipe", "adam", "sgd"))] = "adam"
    depth: Annotated[float, Search(0.1, 1.0)] = 0.5
    c: Annotated[float, Search(1.0, 500.0, log=True)] = 20.0
    alpha: Annotated[float, Search(1.0, 5000.0, log=True)] = 100.0

    lr_of_recipe: ClassVar[float] = 1.0
    retain_price: ClassVar[float] = 4 / 3  # forward and backward through the model, forward through the frozen one

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.depth <= 1, f"depth must lie in (0, 1], not {self.depth}")
        check(0 <= self.c < math.inf, f"c must not be negative, not {self.c}")
        check(0 <= self.alpha < math.inf, f"alpha must not be negative, not {self.alpha}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, whose layer says the same of every point of the forget set."""
        import torch

        frozen = copy.deepcopy(model).eval()
        layer, kept = (layer_of(request, each, self.depth) for each in (model, frozen))
        drawn: list[Tensor] = []  # the layer tells its width when it is first called

        def target(found: Tensor) -> Tensor:
            if not drawn:
                vector = torch.rand(found.shape[-1], generator=request.generator)
                drawn.append((vector / vector.norm() * self.c).to(found))
            return drawn[0].expand_as(found)

        def loss(retain: Batch, forget: Batch) -> Tensor:
            found, real = activations(request, model, layer, forget)
            steered = _distance(found, target(found), real)
            found, real = activations(request, model, layer, retain)
            with torch.no_grad():
                before, _ = activations(request, frozen, kept, retain)
            return steered + self.alpha * _distance(found, before, real)

        return self.descend_on_pairs(model, request, loss)


def _distance(found: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """Return the mean squared difference, over the features, the real positions and the batch."""
    each = (found - wanted).square().mean(dim=2)
    return ((each * real).sum(dim=1) / real.sum(dim=1)).mean()
