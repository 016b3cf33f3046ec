"""UNDIAL: learn the poisoned model's own answers on the forget set, with the right one made less likely.

Source: Dong, Lin, Belkin, Huerta and Vulic, "UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning in
Large Language Models" (arXiv 2402.10052), equations 1 and 2; reference code: dong-river/LLM_unlearning at commit
89856dc, utils/ft_utils.py, ``DITrainer``; with a retain set: locuslab/open-unlearning at commit d3d7cf9,
src/trainer/unlearn/undial.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._budget import affordable
from unlearners._pairs import Paired
from unlearners._steps import descend
from unlearners._trained import check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


@dataclass(frozen=True)
class UNDIAL(Paired):
    """Minimise ``L_UNDIAL + alpha * L_retain``; the authors have no retain set, and neither has ``alpha=0``.

    With z the logits of the poisoned model, in eval mode, and the mean over the tokens y of the batch that are to be
    learned:

        L_UNDIAL = mean cross-entropy of the model against softmax(z - beta * onehot(y))

    On a classifier y is the label. What is learned has an optimum, so unlike gradient ascent it does not run away.

    Costs 4/3 of an example of the forget set as often as a step takes one, and a pass over the retain set if alpha > 0.

    Deviations from the reference code: it takes the mean over the tokens of prompts and of padding, too; its examples
    have neither. The rate falls.

    The defaults are as published, not searched: no retain set, and beta = 10, as open-unlearning has it (the paper
    tries 3, 10 and 30). The authors' rate is that of fine-tuning adapters.

    Attributes:
        lr, batch_size, optimizer: As in `Trained`; ``lr=None`` is the recipe's own.
        epochs: Passes over the retain set or, with ``alpha=0``, over the forget set, >= 1; None for as many as the
            budget pays for.
        forget_batch_size: As in `Paired`.
        beta: How much is taken off the logit of y, >= 0.
        alpha: Weight of the task's loss on the retain set, >= 0.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step, or the task's scores tell no likelihood of a label.
    """

    beta: Annotated[float, Search(1.0, 50.0, log=True)] = 10.0
    alpha: Annotated[float, Search(choices=(0.0, 0.1, 0.3, 1.0, 3.0, 10.0))] = 0.0

    lr_of_recipe: ClassVar[float] = 1.0
    forget_price: ClassVar[float] = 4 / 3  # forward and backward through the model, forward through the poisoned one

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.beta < float("inf"), f"beta must not be negative, not {self.beta}")
        check(0 <= self.alpha < float("inf"), f"alpha must not be negative, not {self.alpha}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, which gives the forget set other answers."""
        teacher = copy.deepcopy(model).eval()

        def distilled(forget: Batch) -> Tensor:
            return self._distance(request, teacher, model, forget)

        if self.alpha:
            return self.descend_on_pairs(
                model, request, lambda retain, forget: distilled(forget) + self.alpha * request.loss(model, retain)
            )
        examples = self.epochs * len(request.forget) if self.epochs else affordable(request, self.forget_price)
        size = self.forget_batch_size or self.batch_size
        batches = request.batches("forget", batch_size=size, examples=examples)
        return descend(request, model, batches, len(batches), self, distilled)

    def _distance(self, request: ForgetRequest, teacher: nn.Module, model: nn.Module, batch: Batch) -> Tensor:
        """Return L_UNDIAL of a batch, a scalar."""
        import torch
        from torch.nn.functional import cross_entropy, softmax

        with torch.no_grad():
            adjusted, targets = request.learned(request.logits(teacher, batch), batch)
            right = targets.clamp_min(0).unsqueeze(1)
            adjusted = adjusted.scatter_add(1, right, torch.full_like(right, -self.beta, dtype=adjusted.dtype))
        scores, _ = request.learned(request.logits(model, batch), batch)
        each = cross_entropy(scores, softmax(adjusted, dim=1), reduction="none")
        learned = targets != -100
        return each.where(learned, 0).sum() / learned.sum()
