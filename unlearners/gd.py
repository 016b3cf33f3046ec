"""GD: keep training on the retain set.

Source: the gradient-descent baseline of Pawelczyk et al. (arXiv 2406.17216), after Neel, Roth and Sharifi-Malvajerdi,
"Descent-to-Delete" (arXiv 2007.02923): theta <- theta - lr * grad L_retain(theta).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from harness.api import ForgetRequest


@dataclass(frozen=True)
class GD:
    """Continue training on the retain set with the recipe's optimiser at a constant rate.

    Never reads the forget set. Costs ``epochs`` passes over the retain set.

    Deviation from the paper: its learning rates and epochs are fields; the default was searched on this task.

    Attributes:
        lr: Learning rate, > 0.
        epochs: Passes over the retain set; None for as many whole passes as the budget allows.

    Raises:
        ValueError: A field is out of range.
    """

    lr: float = 0.02
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.lr > 0 or (self.epochs is not None and self.epochs < 1):
            raise ValueError("lr must be positive and epochs at least 1")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, trained on."""
        optimizer = request.optimizer(model, lr=self.lr)
        for batch in request.batches("retain", epochs=self.epochs or max(1, int(request.budget + 1e-9))):
            optimizer.zero_grad(set_to_none=True)
            request.loss(model, batch).backward()
            optimizer.step()
        return model
