"""What is read of a model: accuracy, and readings as plain values for the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.api import Reading, predicted

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


def as_plain(reading: Reading) -> dict[str, Any]:
    """Return a reading as plain values."""
    return {
        "value": _plain(reading.value),
        "resolution": float(reading.resolution),
        "details": {name: _plain(value) for name, value in reading.details.items()},
        "unusable": reading.unusable,
    }


def from_plain(info: Mapping[str, Any]) -> Reading:
    """Return the reading of plain values.

    Raises:
        KeyError, TypeError, ValueError: They are none of one.
    """
    value = math.nan if info["value"] is None else info["value"]
    details: dict[str, Any] = dict(info["details"])
    if not all(isinstance(number, int | float | None) for number in (value, *details.values())):
        raise TypeError("readings are numbers")
    return Reading(value, float(info["resolution"]), details, str(info["unusable"]))


def heuristics_from_plain(info: Mapping[str, Any]) -> list[dict[str, dict[str, Reading]]]:
    """Return, for each trial by heuristic and arm, the readings of plain values.

    Raises:
        KeyError, TypeError, ValueError: They are none of them.
    """
    return [
        {name: {arm: from_plain(reading) for arm, reading in dict(by).items()} for name, by in dict(of).items()}
        for of in info["readings"]
    ]


def _plain(value: float) -> float | None:
    """Numbers cross process and file borders as plain floats; what is not finite crosses as null."""
    value = float(value)
    return value if math.isfinite(value) else None
