"""How often a model is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Reading
from harness.conventions import predicted

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Task
    from harness.training.data import Data


def accuracy(model: nn.Module, task: Task, data: Data) -> Reading:
    """Return the share of examples whose most likely class is their label, in [0, 1]."""
    import torch

    with torch.no_grad():
        correct = sum(int((predicted(task, model, batch) == batch.labels).sum()) for batch in data.chunks())
    return Reading(correct / len(data), resolution=0.5 / len(data))
