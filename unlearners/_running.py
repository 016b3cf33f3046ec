"""Running statistics of normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


def renew(request: ForgetRequest, model: nn.Module, layers: Sequence[Any], batch_size: int | None) -> None:
    """Make the running statistics of these layers plain means over the batches of one pass over the retain set."""
    import torch

    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a moving average would keep a part of what it was reset to
    with torch.no_grad():
        for batch in request.batches("retain", batch_size=batch_size):
            request.logits(model, batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
