"""Recipes that several tasks share: one of small networks, and the learning rate of language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Batch


@dataclass(frozen=True)
class OneCycle:
    """Cross-entropy, SGD with Nesterov momentum 0.9, and one cycle of the learning rate.

    Attributes:
        epochs: Passes over the training set.
        lr: Peak learning rate.
        batch_size: Examples per step.
        weight_decay: Of every parameter.

    Raises:
        ValueError: A field is out of range.
    """

    epochs: int
    lr: float
    batch_size: int

    weight_decay: ClassVar[float]
    utility_margin: ClassVar[float] = 0.01
    threads: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.lr > 0:
            raise ValueError("epochs must be at least 1, batch_size at least 2, lr positive")

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, batch.labels)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return SGD with Nesterov momentum 0.9 and the task's weight decay."""
        from torch.optim import SGD

        rate = self.lr if lr is None else lr
        return SGD(model.parameters(), rate, momentum=0.9, weight_decay=self.weight_decay, nesterov=True)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return one cycle: up to the optimiser's rate over 30 % of the steps, then down to zero on a cosine."""
        from torch.optim.lr_scheduler import OneCycleLR

        peak = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peak, total_steps=steps + 1, cycle_momentum=False)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the network's children, from input to output."""
        return list(model.children())


def warmed_up(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a rate that rises over the first tenth of the steps and falls linearly to zero."""
    from torch.optim.lr_scheduler import LambdaLR

    warm = max(1, steps // 10)
    return LambdaLR(optimizer, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm))))
