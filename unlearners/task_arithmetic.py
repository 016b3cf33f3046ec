"""Task arithmetic: learn the forget set still better, and go the other way.

Source: Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi and Farhadi, "Editing Models with Task Arithmetic"
(arXiv 2212.04089), section 3; reference code: mlfoundations/task_vectors at commit 826a64c, src/task_vectors.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._budget import affordable
from unlearners._running import renew
from unlearners._steps import descend
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class TaskArithmetic(Trained):
    """Return ``theta - alpha (theta_ft - theta)``: theta is the model, theta_ft a copy fine-tuned on the forget set.

    Of adapters the vector is that of their two factors, not of their product. Frozen weights are in no vector.

    Costs the passes over the forget set. Reads the retain set only where running statistics are made anew, at a third
    of a pass.

    Deviations from the paper: there theta has not seen the forget set, and the vector is large; here it was trained on
    it, and what is left to learn is little. The reference code extrapolates buffers of floating-point numbers, too,
    which its models lack; here the running statistics of normalisation layers begin anew, as in `MSA`. The rate falls.

    The defaults are as published, not searched: alpha = 0.5 as in the example of the reference code (the paper chooses
    it on held-out points), and the rate of the training.

    Attributes:
        lr, batch_size, optimizer: As in `Trained`; ``lr=None`` is the recipe's own.
        epochs: Passes over the forget set, >= 1; None for as many as the budget pays for.
        alpha: How much of the vector is subtracted, >= 0.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step.
    """

    alpha: Annotated[float, Search(0.05, 5.0, log=True)] = 0.5

    lr_of_recipe: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.alpha < float("inf"), f"alpha must not be negative, not {self.alpha}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, moved away from what it would learn from the forget set."""
        import torch

        running = [module for module in model.modules() if getattr(module, "track_running_stats", False)]
        reserve = len(request.retain) / 3 if running else 0.0
        examples = self.epochs * len(request.forget) if self.epochs else affordable(request, reserve=reserve)
        batches = request.batches("forget", batch_size=self.batch_size, examples=examples)
        tuned = copy.deepcopy(model)
        descend(request, tuned, batches, len(batches), self, lambda batch: request.loss(tuned, batch))
        with torch.no_grad():
            for weight, learned in zip(model.parameters(), tuned.parameters(), strict=True):
                if weight.requires_grad:
                    weight.sub_(learned - weight, alpha=self.alpha)
        if running:
            renew(request, model, running, self.batch_size)
        return model
