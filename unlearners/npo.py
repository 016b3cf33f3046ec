"""NPO, negative preference optimisation: make the forget set less likely than the poisoned model finds it.

Source: Zhang, Lin, Bai and Mei, "Negative Preference Optimization: From Catastrophic Collapse to Effective Unlearning"
(arXiv 2404.05868), equation 3; reference code: licong-lin/negative-preference-optimization at commit 1207bbe,
TOFU/dataloader.py, ``npo_grad_diff``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._likelihood import likelihood
from unlearners._pairs import Paired
from unlearners._trained import check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


@dataclass(frozen=True)
class NPO(Paired):
    """Minimise ``weight * L_NPO + L_retain``, with a batch of each set per step; the forget set is cycled.

    With pi the model and pi_ref the poisoned one, in eval mode, and the mean over the examples (x, y) of the batch:

        L_NPO = -2 / beta * mean log sigmoid(-beta * log(pi(y | x) / pi_ref(y | x)))

    log pi(y | x) is the sum over the tokens of the text that are to be learned. On a classifier it is the
    log-likelihood of the label. L_retain is the task's loss. L_NPO is bounded below by 0, and becomes gradient ascent
    as beta goes to 0.

    Costs a pass over the retain set, and 4/3 of an example of the forget set, for the reference, as often as a step
    takes one.

    Deviations from the reference code: there an epoch is a pass over the forget set, with as many retained points drawn
    at random; here the retain set is gone through, and the forget set as often as that takes. The rate falls (there it
    rises over an epoch first). Their loss on the retain set may be a KL divergence instead, which is left out.

    The defaults are as published, not searched: beta = 0.1, equal weights, and the rate of the training.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is the recipe's own.
        forget_batch_size: As in `Paired`.
        beta: How soon an example that has become less likely is let go, > 0.
        weight: Of L_NPO, ``npo_coeff`` in the reference code, >= 0.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step, or the task's scores tell no likelihood of a label.
    """

    beta: Annotated[float, Search(0.01, 2.0, log=True)] = 0.1
    weight: Annotated[float, Search(0.05, 20.0, log=True)] = 1.0

    lr_of_recipe: ClassVar[float] = 1.0
    forget_price: ClassVar[float] = 4 / 3  # forward and backward through the model, forward through the reference

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.beta < float("inf"), f"beta must be positive, not {self.beta}")
        check(0 <= self.weight < float("inf"), f"weight must not be negative, not {self.weight}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, to which the forget set is less likely than it was."""
        import torch
        from torch.nn.functional import logsigmoid

        reference = copy.deepcopy(model).eval()

        def loss(retain: Batch, forget: Batch) -> Tensor:
            with torch.no_grad():
                before, _ = likelihood(request, reference, forget)
            now, _ = likelihood(request, model, forget)
            negative = -2 / self.beta * logsigmoid(-self.beta * (now - before)).mean()
            return self.weight * negative + request.loss(model, retain)

        return self.descend_on_pairs(model, request, loss)
