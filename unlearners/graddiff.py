"""GradDiff, gradient difference: NegGrad+ with equal weights, as it is run on language models.

Source: Liu, Liu and Stone, "Continual Learning and Private Unlearning" (arXiv 2203.12817); under this name in Maini,
Feng, Schwarzschild, Lipton and Kolter, "TOFU: A Task of Fictitious Unlearning for LLMs" (arXiv 2401.06121); reference
code: locuslab/tofu at commit bdc209e, dataloader.py, ``grad_diff``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from harness import Search
from unlearners.neggrad_plus import NegGradPlus


@dataclass(frozen=True)
class GradDiff(NegGradPlus):
    """Minimise ``(L_retain - L_forget) / 2``, with as many points of each set per step; the forget set is cycled.

    That is NegGrad+ with ``beta = 0.5``, and it is the same code. It differs in what people run by that name: the two
    losses weigh the same, the batches are equally large, and the rate is that of the training. Costs a pass over the
    retain set and as many points of the forget set.

    Deviations from the reference code: the loss is half of theirs, which under Adam changes nothing, and under SGD
    halves the rate. There an epoch is a pass over the forget set, with as many retained points drawn at random; here
    the retain set is gone through, and the forget set as often as that takes. The rate falls.

    The defaults are as published, not searched: equal weights, and the rate of the training.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr=None`` is the recipe's own.
        beta: Weight of the retain set, in [0, 1]; the forget set has 1 - beta.
        forget_batch_size: Batch size on the forget set, >= 1; None for that of the retain set.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step.
    """

    beta: Annotated[float, Search(0.1, 0.99)] = 0.5
    forget_batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64, 128))] = None

    lr_of_recipe: ClassVar[float] = 1.0
