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

    from harness.api import ForgetRequest


@dataclass(frozen=True)
class SCRUB:
    """Alternate max epochs on the forget set with min epochs on the retain set, the poisoned model as teacher.

    With KL_T(x) = T^2 KL(softmax(teacher(x) / T) || softmax(student(x) / T)), averaged over the batch:

        max epoch, for the first ``max_epochs`` epochs:  minimise  -KL_T  over the forget set
        min epoch:                                       minimise  gamma * cross-entropy + alpha * KL_T  over the rest

    Costs, per epoch, 4/3 of a pass over the retain set (the teacher's pass is forward only) and as much of the
    forget set where there is a max epoch.

    Deviations from the reference code: the optimiser is the task's (there: SGD or Adam by configuration) at a
    constant rate; the teacher is in eval mode; the number of epochs follows the budget by default.

    Attributes:
        lr: Learning rate, > 0.
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
    temperature: float = 4.0
    max_epochs: int = 1
    forget_batch_size: int = 32
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0 or not self.temperature > 0:
            raise ValueError("lr and temperature must be positive")
        if min(self.alpha, self.gamma, self.max_epochs) < 0:
            raise ValueError("alpha, gamma and max_epochs must not be negative")
        if self.forget_batch_size < 1 or (self.epochs is not None and self.epochs < 1):
            raise ValueError("forget_batch_size and epochs must be at least 1")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the student."""
        import torch

        teacher = copy.deepcopy(model).eval()
        optimizer = request.optimizer(model, lr=self.lr)

        def step(loss: Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        for epoch in range(self.epochs or self._affordable(request)):
            if epoch < self.max_epochs:
                for batch in request.batches("forget", batch_size=self.forget_batch_size):
                    with torch.no_grad():
                        target = request.logits(teacher, batch)
                    step(-self._divergence(target, request.logits(model, batch)))
            for batch in request.batches("retain"):
                with torch.no_grad():
                    target = request.logits(teacher, batch)
                logits = request.logits(model, batch)
                near = self._divergence(target, logits)
                step(self.gamma * torch.nn.functional.cross_entropy(logits, batch.labels) + self.alpha * near)
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
