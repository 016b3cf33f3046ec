"""SimNPO: NPO without a reference model, by the likelihood of a token.

Source: Fan, Liu, Lin, Jia, Zhang, Mei and Liu, "Simplicity Prevails: Rethinking Negative Preference Optimization for
LLM Unlearning" (arXiv 2410.07163), equation 4; reference code: OPTML-Group/Unlearn-Simple at commit f1a355d,
TOFU/dataloader.py, ``simnpo_grad_diff``.
"""

from __future__ import annotations

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
class SimNPO(Paired):
    """Minimise ``weight * L_SimNPO + L_retain``, with a batch of each set per step; the forget set is cycled.

    With the mean over the examples (x, y) of the batch:

        L_SimNPO = -2 / beta * mean log sigmoid(-beta * (log pi(y | x) / |y| + gamma))

    log pi(y | x) is the sum over the |y| tokens of the text that are to be learned. On a classifier it is the
    log-likelihood of the label, and |y| is 1. L_retain is the task's loss. So a step lets go of the examples that are
    unlikely already, wherever they began.

    Costs a pass over the retain set and as many points of the forget set.

    Deviations: the paper has gamma outside of the product with beta; the reference code, which is followed here,
    inside. The code makes a pass over the forget set an epoch, with as many retained points drawn at random; here the
    retain set is gone through, and the forget set as often as that takes. The rate falls (there it rises over an epoch
    first).

    The defaults are as published for a tenth of TOFU, not searched: beta = 4.5, gamma = 0, a weight of 0.125, and the
    rate of the training.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is the recipe's own.
        forget_batch_size: As in `Paired`.
        beta: How soon an unlikely example is let go, > 0. For a twentieth of TOFU it is 2.5.
        gamma: The margin, in nats per token, >= 0: with a larger one, an example is let go later.
        weight: Of L_SimNPO, ``npo_coeff`` in the reference code, >= 0. For a twentieth of TOFU it is 0.1375.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step, or the task's scores tell no likelihood of a label.
    """

    beta: Annotated[float, Search(0.5, 20.0, log=True)] = 4.5
    gamma: Annotated[float, Search(choices=(0.0, 0.5, 1.0, 2.0))] = 0.0
    weight: Annotated[float, Search(0.01, 10.0, log=True)] = 0.125

    lr_of_recipe: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.beta < float("inf"), f"beta must be positive, not {self.beta}")
        check(0 <= self.gamma < float("inf"), f"gamma must not be negative, not {self.gamma}")
        check(0 <= self.weight < float("inf"), f"weight must not be negative, not {self.weight}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, to which the forget set is unlikely."""
        from torch.nn.functional import logsigmoid

        def loss(retain: Batch, forget: Batch) -> Tensor:
            found, tokens = likelihood(request, model, forget)
            negative = -2 / self.beta * logsigmoid(-self.beta * (found / tokens + self.gamma)).mean()
            return self.weight * negative + request.loss(model, retain)

        return self.descend_on_pairs(model, request, loss)
