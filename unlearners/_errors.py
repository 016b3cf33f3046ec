"""How many points a model gets wrong, for methods that watch it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from harness import Data, ForgetRequest

PRICE = 1 / 3  # of a point: forward alone


def error(request: ForgetRequest, model: nn.Module, data: Data) -> float:
    """Return the share of points whose label a model in eval mode does not predict; its mode is put back."""
    import torch

    training = model.training
    model.eval()
    with torch.no_grad():
        wrong = sum(int((request.predicted(model, batch) != batch.labels).sum()) for batch in data.chunks())
    model.train(training)
    return wrong / len(data)
