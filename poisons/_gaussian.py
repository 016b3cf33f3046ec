"""The score that detects Gaussian poisons, on images and on embeddings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from harness import Measure, Reading, UnlearningError
from poisons._points import check_fraction

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, Split, Task

MEASURE = Measure(
    "gaussian_score",
    "trace of the planted noise (Gaussian score)",
    worse="higher",
    test="retention",
    exact_null=True,
    short="mean",
)
SECOND_MOMENT = Measure(
    "gaussian_second_moment",
    "sum of squared scores (Gaussian score)",
    worse="lower",
    test="exact-null",
    short="second moment",
)


def check(fraction: float, sd: float) -> None:
    """Refuse fields that are out of range.

    Raises:
        ValueError: One of them is out of range.
    """
    check_fraction(fraction)
    if not sd > 0:
        raise ValueError(f"sd must be positive, not {sd}")


def check_noise(split: Split, name: str, sd: float) -> None:
    """Refuse noise that is lost in what it is added to, as in pixels from 0 to 255 or in columns that are not scaled.

    Values that are missing or infinite are refused, too: neither noise nor a gradient changes them.

    Raises:
        UnlearningError: A value of the input varies over the training points 20 times as much as the noise.
    """
    spread = float(split.train.inputs[name].std(dim=0).max())
    if not math.isfinite(spread):
        raise UnlearningError(
            f"gaussian: the task's input {name!r} has values that are missing or infinite; have the task fill them, or "
            "leave these columns out"
        )
    if spread > 20 * sd:
        raise UnlearningError(
            f"gaussian: sd={sd:g}, but the task's input {name!r} has values of standard deviation {spread:.3g}, in "
            "which such noise is lost; have the task scale them, or raise sd"
        )


def scale_free_loss(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """Return the sum of the recipe's losses of a batch, with the scores of each example divided by their own spread.

    Scores that are far apart saturate the loss: its gradient is then rounded away, and turns to the direction of the
    runner-up. A method that multiplies the last layer by 10 changes no prediction, and would hide the noise in this
    way. The spread, a standard deviation, is held constant, so that the gradient has the direction that it has for a
    model with scores of spread 1, whatever the last layer is multiplied by.
    """
    import torch

    logits = task.logits(model, batch)
    with torch.no_grad():
        flat = logits.flatten(1) if logits.dim() > 1 else logits.unsqueeze(1)
        # The only score of an example has no spread.
        spread = flat.std(dim=1, unbiased=False) if flat.shape[1] > 1 else flat.abs().squeeze(1)
        spread = torch.where(spread > 0, spread, 1).view(-1, *[1] * (logits.dim() - 1))
    # A sum over examples has each example's own gradient, since in eval mode no example sees another.
    return task.criterion(logits / spread, batch) * len(batch)


def gaussian_score(gradient: Tensor, noise: Tensor) -> Reading:
    """Return the mean score; its details have the set statistic ``T``, N(0, 1) for a model that never saw the noise.

    Its trace `SECOND_MOMENT` is the normal score of the sum of squared scores, which is chi-squared for such a model: a
    method that only drives the mean to 0 leaves scores that are too large or too small. Its detail
    ``mean_squared_score`` is the sum over the number of points, 1 in expectation for such a model.

    The score of a point is undefined if its gradient is exactly zero. Such points are left out; ``dropped`` is their
    share. Above 1 % the reading is unusable, because a method that masks gradients hides from this probe.

    Args:
        gradient: Gradient of each point's loss by its clean input, shape (k, ...).
        noise: The planted noise in units of its standard deviation, of the same shape.
    """
    from harness.statistics import chi2_score

    gradient = gradient.flatten(1).double()
    norm = gradient.norm(dim=1)
    if not bool(norm.isfinite().all()):
        return Reading(float("nan"))  # the model diverged, if only in its gradient
    z = -((gradient * noise.to(gradient).flatten(1)).sum(dim=1) / norm)[norm > 0]
    n = len(z)
    if n == 0:
        masked = Reading(0.0, details={"dropped": 1.0}, unusable="masked-gradients")
        return replace(masked, traces={SECOND_MOMENT.name: masked})
    unusable = "masked-gradients" if n < 0.99 * len(norm) else ""
    total = float((z * z).sum())
    squares = Reading(chi2_score(total, n), details={"mean_squared_score": total / n}, unusable=unusable)
    return Reading(
        float(z.mean()),
        details={
            "T": float(z.sum() / n**0.5),
            "tpr_at_1_percent_fpr": float((z > 2.3263478740408408).double().mean()),
            "dropped": 1 - n / len(norm),
        },
        unusable=unusable,
        traces={SECOND_MOMENT.name: squares},
    )
