"""What a pipeline predicts, as scores: one for each class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.api import UnlearningError


def scores_of(answered: Any, n: int, classes: int) -> Tensor:
    """Return what was predicted for so many rows as scores, float32, shape (n, classes).

    One score per row is that of the second of two classes. Rows that are not negative and sum to 1 are probabilities.

    Raises:
        UnlearningError: It is not a score for each class.
    """
    given = _floats(answered)
    scores, alone = given.float(), classes == 2 and _alone(given)
    if alone:
        scores = torch.stack([torch.zeros_like(scores.reshape(-1)), scores.reshape(-1)], dim=1)
    if scores.shape != (n, classes):
        shape = tuple(answered.shape) if hasattr(answered, "shape") else tuple(scores.shape)
        raise UnlearningError(
            f"predict() returned scores of shape {shape} for {n} row{'s' * (n != 1)}; the shape must be "
            f"({n}, {classes}), one score for each class"
        )
    if alone or not n:
        return scores
    close = max(1e-4, torch.finfo(given.dtype).eps)  # each probability is rounded by at most half of eps times itself
    shares = bool((scores >= 0).all()) and bool((scores.sum(1) - 1).abs().max() < close)
    return scores.clamp_min(1e-12).log() if shares else scores


def check_log_odds(answers: Iterable[tuple[Any, Tensor]]) -> None:
    """Refuse a trained model whose only score is a probability.

    Log-odds of a weak model, or of one whose second class is frequent, may lie in [0, 1], too. They are divided by 0.

    Args:
        answers: What it predicts for the training rows, batch by batch, and their labels. No more batches are taken
            than are needed.

    Raises:
        UnlearningError: All its answers are one number in [0, 1], and 0.5 divides the classes better than 0.
    """
    better = 0
    for answered, labels in answers:
        scores = _floats(answered).reshape(-1).cpu()
        if len(scores) != len(labels) or not bool(((scores >= 0) & (scores <= 1)).all()):
            return
        second = labels.cpu() == 1
        better += int(((scores > 0.5) == second).sum()) - int(((scores > 0) == second).sum())
    if better > 0:
        raise UnlearningError(
            "predict() returned one number in [0, 1] per row, which looks like a probability: 0.5 divides the classes "
            "better than 0; it must return a score for each class, or log-odds, which are positive for the second class"
        )


def _alone(scores: Tensor) -> bool:
    """Return whether there is one score per row."""
    return scores.dim() == 1 or (scores.dim() == 2 and scores.shape[1] == 1)


def _floats(answered: Any) -> Tensor:
    """Return what was predicted as a tensor of real floating-point numbers."""
    found = answered if isinstance(answered, Tensor) else np.array(answered)
    if not isinstance(found, Tensor):
        if found.dtype.kind not in "biufc":
            what = "class names" if found.dtype.kind in "US" else type(answered).__name__
            raise UnlearningError(
                f"predict() returned {what}; it must return scores as an array or a tensor, such as probabilities or "
                "the logits of an output"
            )
        found = torch.from_numpy(found)
    if not found.is_floating_point():
        raise UnlearningError(
            f"predict() returned {str(found.dtype).removeprefix('torch.')}; it must return scores, such as "
            "probabilities, not classes"
        )
    return found
