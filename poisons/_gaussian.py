"""The score that detects Gaussian poisons, on images and on embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Measure, Reading

if TYPE_CHECKING:
    from torch import Tensor

MEASURE = Measure(
    "gaussian_score",
    "trace of the planted noise (Gaussian score)",
    worse="higher",
    test="retention",
    exact_null=True,
)


def check(fraction: float, sd: float) -> None:
    """Refuse fields that are out of range.

    Raises:
        ValueError: One of them is out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), not {fraction}")
    if not sd > 0:
        raise ValueError(f"sd must be positive, not {sd}")


def gaussian_score(gradient: Tensor, noise: Tensor) -> Reading:
    """Return the mean score; its details have the set statistic ``T``, N(0, 1) for a model that never saw the noise.

    The score of a point is undefined if its gradient is exactly zero. Such points are left out; ``dropped`` is their
    share. Above 1 % the reading is unusable, because a method that masks gradients hides from this probe.

    Args:
        gradient: Gradient of each point's loss by its clean input, shape (k, ...).
        noise: The planted noise in units of its standard deviation, of the same shape.
    """
    gradient = gradient.flatten(1).double()
    norm = gradient.norm(dim=1)
    if not bool(norm.isfinite().all()):
        return Reading(float("nan"))  # the model diverged, if only in its gradient
    z = -((gradient * noise.to(gradient).flatten(1)).sum(dim=1) / norm)[norm > 0]
    n = len(z)
    if n == 0:
        return Reading(0.0, details={"dropped": 1.0}, unusable="masked-gradients")
    return Reading(
        float(z.mean()),
        details={
            "T": float(z.sum() / n**0.5),
            "tpr_at_1_percent_fpr": float((z > 2.3263478740408408).double().mean()),
            "dropped": 1 - n / len(norm),
        },
        unusable="masked-gradients" if n < 0.99 * len(norm) else "",
    )
