"""Levels, p-values and quantiles that the tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

HUGE = 1e150  # a larger number counts as infinite, because its square is
DUST = 64 * np.finfo(float).eps.item()  # rounding error of a difference, relative to its terms (at least to 1)


def t_statistic(p: float, df: float) -> float:
    """Return the t with `df` degrees of freedom whose upper tail is `p`; infinite for a `p` of 0 or 1."""
    return -float(special.stdtrit(df, p)) if 0 < p < 1 else math.copysign(math.inf, 0.5 - p)


def bad_seed_bound(n: int) -> float:
    """Return the largest fraction of bad seeds that `n` good ones and no bad one do not exclude, at 95 %.

    Raises:
        ValueError: if `n` is negative.
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, not {n}.")
    return 1 - 0.05 ** (1 / n) if n else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return `p` adjusted to control the familywise error rate under any dependence (Holm 1979).

    Raises:
        ValueError: if a value is not in [0, 1].
    """
    for value in p:
        if not 0 <= value <= 1:
            raise ValueError(f"a p-value must be in [0, 1], not {value}.")
    adjusted, running, m = [0.0] * len(p), 0.0, len(p)
    for rank, (value, index) in enumerate(sorted((float(value), index) for index, value in enumerate(p))):
        running = max(running, min(1.0, (m - rank) * value))
        adjusted[index] = running
    return adjusted


def rejects(p: float, alpha: float) -> bool:
    """Return whether `p` <= `alpha`, forgiving rounding: 1/20 may come out above 0.05."""
    return bool(p <= alpha * (1 + 1e-9))


def is_finite(x: float) -> bool:
    return abs(x) < HUGE  # False for NaN


def t_quantile(df: float, alpha: float) -> float:
    return float(special.stdtrit(df, alpha))


def checked_level(name: str, alpha: float) -> float:
    if not 0 < alpha < 0.5:
        raise ValueError(f"{name} must be in (0, 0.5), not {alpha}.")
    return alpha
