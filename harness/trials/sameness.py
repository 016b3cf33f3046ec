"""Whether two models answer alike, whatever bytes they are stored as: a pickle may hold the seed itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from harness.training.data import Data


def answers(task: Any, model: nn.Module, *rows: Data) -> str:
    """Return the SHA-256 of a model's scores of rows; ``""`` if not all of them are numbers.

    Args:
        task: Its task.
        model: In eval mode, on the device of the data.
        rows: Sets of rows. Models that are sure of one set may differ on another.
    """
    import torch

    from harness.training.data import digest

    with torch.no_grad():
        if getattr(task, "causal", False):  # what follows each text: the scores of all tokens would fill the memory
            scores = [task.following(model, batch) for of in rows for batch in of.chunks(task.batch_size)]
        else:
            scores = [task.logits(model, batch) for of in rows for batch in of.chunks()]
    if any(bool(each.isnan().any()) for each in scores):
        return ""
    return digest({f"scores.{place}": each for place, each in enumerate(scores)})
