"""SCRUB: push away from the poisoned model on the forget set, stay close to it on the retain set.

Source: Kurmanji, Triantafillou, Hayes and Triantafillou, "Towards Unbounded Machine Unlearning" (arXiv 2302.09880),
equation 3 and algorithm 1; reference code ``SCRUB`` at commit 98ffb11.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch, ForgetRequest


@dataclass(frozen=True)
class SCRUB:
    """Alternate max epochs on the forget set with min epochs on the retain set, the poisoned model as teacher.

    With KL_T(x) = T^2 KL(softmax(teacher(x) / T) || softmax(student(x) / T)), averaged over the batch:

        max epoch, for the first ``max_epochs`` epochs:  minimise  -KL_T  over the forget set
        min epoch:                                       minimise  gamma * cross-entropy + alpha * KL_T  over the rest

    Costs, per epoch, 4/3 of a pass over the retain set (the teacher's pass is forward only) and as much of the
    forget set where there is a max epoch.

    Deviations from the reference code: the optimiser is the task's (there: SGD or Adam by configuration) and its rate
    falls linearly to zero (there: in steps); the teacher is in eval mode; the number of epochs follows the budget by
    default. The defaults come from a search on digits-cnn over 64 settings (lr .01 to .3, alpha .05 and .5, T 2 and 4,
    forget batches of 32 and 140, one or three rounds) and four tuning seeds, nine of them over twelve more. There a
    round's min epoch was cut to what the budget left; the default is the nearest setting of whole epochs.

    Attributes:
        lr: Initial learning rate, > 0.
        alpha: Weight of staying close to the teacher on the retain set, >= 0.
        gamma: Weight of the task's loss on the retain set, >= 0.
        temperature: T, > 0.
        max_epochs: Epochs that begin with a max epoch, >= 0.
        forget_batch_size: Batch size on the forget set, >= 1.
        epochs: Epochs in all; None for as many as the budget allows.

    Raises:
        ValueError: A field is out of range.
    """

    lr: float = 0.01
    alpha: float = 0.5
    gamma: float = 1.0
    temperature: float = 2.0
    max_epochs: int = 1
    forget_batch_size: int = 256
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.temperature > 0:
            raise ValueError("lr and temperature must be positive")
        if not (self.alpha >= 0 and self.gamma >= 0 and self.max_epochs >= 0):
            raise ValueError("alpha, gamma and max_epochs must not be negative")
        if self.forget_batch_size < 1 or (self.epochs is not None and self.epochs < 1):
            raise ValueError("forget_batch_size and epochs must be at least 1")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the student."""
        import torch
        from torch.nn.functional import cross_entropy
        from torch.optim.lr_scheduler import LinearLR

        teacher = copy.deepcopy(model).eval()
        epochs = self.epochs or self._affordable(request)
        rounds = [
            (
                request.batches("forget", batch_size=self.forget_batch_size) if epoch < self.max_epochs else (),
                request.batches("retain"),
            )
            for epoch in range(epochs)
        ]
        optimizer = request.optimizer(model, lr=self.lr)
        steps = sum(len(batches) for both in rounds for batches in both)
        decay = LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=steps)

        def divergence_and_logits(batch: Batch) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                target = request.logits(teacher, batch)
            logits = request.logits(model, batch)
            return self._divergence(target, logits), logits

        def step(loss: Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()

        for forget, retain in rounds:
            for batch in forget:
                step(-divergence_and_logits(batch)[0])
            for batch in retain:
                near, logits = divergence_and_logits(batch)
                step(self.gamma * cross_entropy(logits, batch.labels) + self.alpha * near)
        return model

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return T^2 KL(teacher || student) at temperature T, mean over the batch."""
        from torch.nn.functional import kl_div, log_softmax

        t = self.temperature
        return (
            t
            * t
            * kl_div(
                log_softmax(student / t, dim=1), log_softmax(teacher / t, dim=1), reduction="batchmean", log_target=True
            )
        )

    def _affordable(self, request: ForgetRequest) -> int:
        """Return how many epochs the budget pays for, at least one."""
        left = request.budget * len(request.retain) * 3 / 4
        epochs = 0
        while True:
            left -= len(request.retain) + (len(request.forget) if epochs < self.max_epochs else 0)
            if left < -1e-6:
                return max(1, epochs)
            epochs += 1
