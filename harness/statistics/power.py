"""Power of the tests, and the seeds that they need."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from harness.statistics.levels import checked_level, t_quantile

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


def tost_power(
    n: int, margin: float, sd: float, alpha: float = 0.05, two_sided: bool = True, true: float = 0.0
) -> float:
    """Return the probability that `equivalence` PASSes `n` normal differences whose mean is `true`.

    Exact up to quadrature: the normal probability of the mean, integrated over the law of the standard deviation.

    Args:
        n: number of seeds, at least 2.
        margin: margin, in the unit of `sd`; the bounds are (-margin, margin), or (-inf, margin) if not `two_sided`.
        sd: standard deviation of one difference, at least 0.
        alpha: error rate of PASS, in (0, 0.5).
        two_sided: whether both bounds are tested.
        true: mean of a difference, in the unit of `sd`.

    Raises:
        ValueError: if an argument is out of range.
    """
    checked_level("alpha", alpha)
    if n < 2:
        raise ValueError(f"n must be at least 2, not {n}.")
    if not (0 < margin < math.inf and 0 <= sd < math.inf):
        raise ValueError(f"margin must be positive and sd at least 0, not {margin} and {sd}.")
    if not math.isfinite(true):
        raise ValueError(f"true must be finite, not {true}.")
    df, se = n - 1, sd / math.sqrt(n)
    if se == 0:
        return float(true < margin and (true > -margin or not two_sided))
    t = -t_quantile(df, alpha)
    above = (margin - true) / se  # PASS iff below + t s <= Z <= above - t s, for Z normal and s = estimated sd / sd
    below = -(margin + true) / se if two_sided else -math.inf
    # The integrand is 0 outside of these limits, to double precision.
    start = math.sqrt(special.chdtri(df, 1 - 1e-16) / df)
    stop = min(math.sqrt(special.chdtri(df, 1e-18) / df), (above - below) / (2 * t), (above + 9) / t, (9 - below) / t)
    if stop <= start:
        return 0.0
    s = start + (stop - start) * (NODES + 1) / 2
    log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2) + (df - 1) * np.log(s) - df * s * s / 2
    inside = special.ndtr(above - t * s) - special.ndtr(below + t * s)
    return min(1.0, float((stop - start) / 2 * (WEIGHTS @ (np.exp(log_density) * inside))))


def seeds_needed(
    margin: float, sd_diff: float, alpha: float = 0.05, power: float = 0.8, two_sided: bool = True, true: float = 0.0
) -> int | None:
    """Return the fewest seeds, 3 to 1,000, for which `tost_power` reaches `power`; None if these do not.

    With `sd_diff` from a small pilot plan for the upper end of its interval (1.56 times the estimate, at 5 seeds).

    Raises:
        ValueError: as `tost_power`, and if `power` is not in (0, 1).
    """
    if not 0 < power < 1:
        raise ValueError(f"power must be in (0, 1), not {power}.")
    enough = (n for n in range(3, 1001) if tost_power(n, margin, sd_diff, alpha, two_sided, true) >= power)
    return next(enough, None)
