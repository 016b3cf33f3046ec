"""Measures that every task has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Measure, Reading, predicted

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Task
    from harness.data import Data

#: Utility: test accuracy, judged by non-inferiority to retraining within the task's margin.
ACCURACY = Measure("accuracy", "test accuracy", worse="lower", test="non-inferiority", unit="%")

#: Compute that an unlearner used, as a fraction of retraining; a bound, without a test.
COST = Measure("cost", "compute, of retraining", worse="higher", test="budget", unit="%")


def accuracy(model: nn.Module, task: Task, data: Data) -> Reading:
    """Return the share of examples whose most likely class is their label, in [0, 1]."""
    import torch

    with torch.no_grad():
        correct = sum(int((predicted(task, model, batch) == batch.labels).sum()) for batch in data.chunks())
    return Reading(correct / len(data), resolution=0.5 / len(data))
