"""Judge by tests of equivalence: pure functions on floats.

A difference test that finds nothing proves nothing, and passes more the fewer seeds it sees. So the null hypothesis
here is always "outside the margin", and a PASS is its rejection. Every test takes one number per training seed and
returns a `Result`; p-values, intervals and outcome are dual to each other. Sequential looks, the oracle's gate and
multiplicity over audits are built on top of these functions, not in them. Counts and proven lower bounds are in
`harness.bounds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from scipy import special

from harness.api import Outcome
from harness.statistics.levels import DUST, checked_level, is_finite, ranked, rejects, t_quantile


@dataclass(frozen=True)
class Result:
    """What one test says about one set of runs.

    Attributes:
        outcome: PASS iff `p_pass` <= alpha, FAIL iff `p_fail` <= alpha_fail, else INCONCLUSIVE.
        reason: "equivalent", "outside-margin", "need-more-seeds" (the interval straddles a margin), "too-few-seeds",
            "no-bite", "nonfinite-reference" or "diverged".
        estimate: the mean difference, or kappa, the retained fraction; NaN where there is none.
        interval: its (1 - 2 alpha) interval, inside `bounds` iff PASS; (-inf, inf) where there is none.
        p_pass: p-value of "outside the bounds".
        p_fail: p-value of "inside the bounds".
        p_bite: p-value of "the poison did nothing"; None where no bite was tested.
        n: number of runs (of the smaller arm, if the arms differ).
        df: degrees of freedom; NaN where nothing was tested.
        se: standard error of what was tested, for retention of the contrast against `bounds[1]`; NaN likewise.
        bounds: the margins; an infinite one is not tested.
        degenerate: whether the runs do not vary at all (and no floor was given), so that no t statistic exists.
        worst: index of the run farthest beyond a margin (or nearest to one), or of the first that is not finite.
    """

    outcome: Outcome
    reason: str
    estimate: float
    interval: tuple[float, float]
    p_pass: float
    p_fail: float
    p_bite: float | None
    n: int
    df: float
    se: float
    bounds: tuple[float, float]
    degenerate: bool
    worst: int | None


def equivalence(
    d: Sequence[float], lo: float, hi: float, *,
    alpha: float = 0.05, alpha_fail: float | None = None, sd_floor: float = 0.0, min_n: int = 3,
) -> Result:  # fmt: skip
    """Test whether the mean of `d` lies strictly between `lo` and `hi` (two one-sided t tests; Schuirmann 1987).

    PASS rejects "outside" on both sides; FAIL rejects "inside" on either one. An infinite bound leaves
    non-inferiority. Values without any spread PASS strictly inside and FAIL strictly outside the margin.

    Args:
        d: one difference per seed, in the unit of the measure; its own values, not a reference, are on trial, so one
            that is not finite is a FAIL ("diverged").
        lo: lower margin, in the unit of `d`; -inf leaves it out.
        hi: upper margin; inf leaves it out.
        alpha: error rate of PASS, in (0, .5).
        alpha_fail: error rate of FAIL; `alpha` unless given.
        sd_floor: least standard deviation that is believed, in the unit of `d` (half a count, for a rate).
        min_n: fewest runs that are judged, at least 2.

    Raises:
        ValueError: if the bounds are not in order or both infinite, or another argument is out of range.
    """
    values = list(d)
    return equivalence_paired(
        values, [0.0] * len(values), lo, hi, alpha=alpha, alpha_fail=alpha_fail, sd_floor=sd_floor, min_n=min_n
    )


def equivalence_paired(
    u: Sequence[float], r: Sequence[float], lo: float, hi: float, *,
    alpha: float = 0.05, alpha_fail: float | None = None, sd_floor: float = 0.0, min_n: int = 3,
) -> Result:  # fmt: skip
    """Test the mean of `u` - `r`, paired by seed, against the margins as `equivalence` does.

    A `u` that is not finite is a FAIL ("diverged"); an `r` that is not finite leaves nothing to judge by.

    Raises:
        ValueError: as `equivalence`, and if the lengths differ.
    """
    u, r = _floats(u), _floats(r)
    levels = _levels(alpha, alpha_fail, sd_floor, min_n)
    bounds = _bounds(lo, hi)
    _same_length(u=u, r=r)
    if unusable := _not_finite(u, (r,), bounds):
        return unusable
    d = [a - b for a, b in zip(u, r, strict=True)]
    if len(d) < min_n:
        return _unjudged(Outcome.INCONCLUSIVE, "too-few-seeds", len(d), bounds, fmean(d) if d else math.nan)
    return _against_margins(_mean(d, sd_floor, _scale(u, r)), d, bounds, levels)


def equivalence_welch(
    u: Sequence[float], r: Sequence[float], lo: float, hi: float, *,
    alpha: float = 0.05, alpha_fail: float | None = None, sd_floor: float = 0.0, min_n: int = 3,
) -> Result:  # fmt: skip
    """Test mean(`u`) - mean(`r`) of independent runs against the margins (two one-sided Welch t tests).

    Only for arms with different seeds; paired arms correlate, and ignoring that costs nearly all power. Degrees of
    freedom by Welch (1947) and Satterthwaite; `sd_floor` and `min_n` hold for each arm.

    Raises:
        ValueError: as `equivalence`.
    """
    u, r = _floats(u), _floats(r)
    levels = _levels(alpha, alpha_fail, sd_floor, min_n)
    bounds = _bounds(lo, hi)
    n = min(len(u), len(r))
    if unusable := _not_finite(u, (r,), bounds):
        return unusable
    if n < min_n:
        estimate = fmean(u) - fmean(r) if n else math.nan
        return _unjudged(Outcome.INCONCLUSIVE, "too-few-seeds", n, bounds, estimate)
    scale = _scale(u, r)
    a, b = _mean(u, sd_floor, scale), _mean(r, sd_floor, scale)
    se = math.hypot(a.se, b.se)
    share = (a.se / se) ** 2 if se else 0.5  # of the variance, due to u; as a share it cannot overflow
    df = 1 / (share**2 / a.df + (1 - share) ** 2 / b.df)
    difference = _Mean(a.value - b.value, se, df, a.dust, n)
    return _against_margins(difference, [x - b.value for x in u], bounds, levels)


def retention(
    p: Sequence[float], r: Sequence[float], u: Sequence[float], *,
    tau: float = 0.2, tau_over: float | None = None, bite_min: float = 0.0, direction: int = +1,
    alpha: float = 0.05, alpha_fail: float | None = None, alpha_bite: float | None = None,
    sd_floor: float = 0.0, min_n: int = 3,
) -> Result:  # fmt: skip
    """Test whether unlearning leaves less than the fraction `tau` of a poison's effect, paired by seed.

    The fraction is kappa = E[u - r] / E[p - r]: 0 is as good as retraining, 1 is nothing unlearned, below 0 is
    over-recovery. Instead of the unstable ratio the contrast (u - r) - tau (p - r) is tested by a one-sample t test:
    the retention-of-effect test of Pigeot et al. (2003), dual to the interval of Fieller (1954). First the bite,
    E[p - r] > `bite_min`, must be shown, else the outcome is INCONCLUSIVE ("no-bite"); the order makes a correction
    of alpha unnecessary, and makes it impossible that u = p PASSes. The p-values are returned either way.

    Deviation: Fieller's interval is widened by `sd_floor`, where that is set, so that it stays dual to the outcome.

    Args:
        p: the measure of the poisoned models, one per seed.
        r: the measure of the retrained models.
        u: the measure of the unlearned models; one that is not finite is a FAIL ("diverged").
        tau: retained fraction that no longer passes, in [0, 1).
        tau_over: over-recovered fraction that no longer passes, at least 0; None does not test it.
        bite_min: effect that the poison must exceed, at least 0, in the unit of the measure.
        direction: +1 if the poison makes the measure larger, -1 if smaller.
        alpha: error rate of PASS, in (0, .5).
        alpha_fail: error rate of FAIL; `alpha` unless given.
        alpha_bite: error rate of the bite; `alpha` unless given.
        sd_floor: least standard deviation that is believed of an effect or a contrast, in the unit of the measure.
        min_n: fewest runs that are judged, at least 2.

    Raises:
        ValueError: if an argument is out of range or the lengths differ.
    """
    p, r, u = _floats(p), _floats(r), _floats(u)
    levels = _levels(alpha, alpha_fail, sd_floor, min_n)
    alpha_bite = checked_level("alpha_bite", alpha if alpha_bite is None else alpha_bite)
    if not 0 <= tau < 1:
        raise ValueError(f"tau must be in [0, 1), not {tau}.")
    if tau_over is not None and not 0 <= tau_over < math.inf:
        raise ValueError(f"tau_over must be None or finite and at least 0, not {tau_over}.")
    if not 0 <= bite_min < math.inf:
        raise ValueError(f"bite_min must be finite and at least 0, not {bite_min}.")
    if direction not in (+1, -1):
        raise ValueError(f"direction must be +1 or -1, not {direction}.")
    bounds = _bounds(-math.inf if tau_over is None else -tau_over, tau)
    _same_length(p=p, r=r, u=u)
    if unusable := _not_finite(u, (p, r), bounds):
        return unusable

    n, scale = len(u), _scale(p, r, u)
    effect = [direction * (a - b) for a, b in zip(p, r, strict=True)]
    rest = [direction * (a - b) for a, b in zip(u, r, strict=True)]
    size = fmean(effect) if n else 0.0
    kappa = fmean(rest) / size if abs(size) > DUST * scale else math.nan
    if n < min_n:
        return _unjudged(Outcome.INCONCLUSIVE, "too-few-seeds", n, bounds, kappa)

    bite = _mean(effect, sd_floor, scale).p_above(bite_min)
    left = [q - tau * e for q, e in zip(rest, effect, strict=True)]
    contrast = _mean(left, sd_floor, scale)
    p_pass, p_fail = contrast.p_below(0.0), contrast.p_above(0.0)
    beyond = left
    if tau_over is not None:
        over = [-q - tau_over * e for q, e in zip(rest, effect, strict=True)]
        mirrored = _mean(over, sd_floor, scale)
        p_pass, p_fail = max(p_pass, mirrored.p_below(0.0)), min(p_fail, mirrored.p_above(0.0))
        beyond = [max(pair) for pair in zip(left, over, strict=True)]

    interval = (-math.inf, math.inf)
    if not math.isnan(kappa):
        # Where the floor exceeds the spread of the contrast, the dual set is kappa -+ this; it always holds kappa.
        floored = -t_quantile(n - 1, alpha) * float(sd_floor) / math.sqrt(n) / abs(size)
        low, high = fieller(rest, effect, alpha)
        interval = (min(low, kappa - floored), max(high, kappa + floored))
    outcome, reason = _outcome(p_pass, p_fail, levels)
    if not rejects(bite, alpha_bite):
        outcome, reason = Outcome.INCONCLUSIVE, "no-bite"
    return Result(
        outcome, reason, kappa, interval, p_pass, p_fail, bite, n, contrast.df, contrast.se, bounds,
        contrast.se == 0, max(range(n), key=beyond.__getitem__),
    )  # fmt: skip


def fieller(q: Sequence[float], e: Sequence[float], alpha: float = 0.05) -> tuple[float, float]:
    """Return the (1 - 2 `alpha`) interval of E[q] / E[e] from pairs (Fieller 1954).

    It holds every k for which a t test does not reject E[q - k e] = 0 at 2 `alpha`. It is (-inf, inf) where E[e] is
    not told from 0 at that level, and for fewer than two pairs or values that are not finite.

    Raises:
        ValueError: if the lengths differ, or `alpha` is not in (0, .5).
    """
    q, e = _floats(q), _floats(e)
    checked_level("alpha", alpha)
    _same_length(q=q, e=e)
    n = len(q)
    if n < 2 or not all(map(is_finite, q + e)):
        return -math.inf, math.inf
    size = fmean(e)
    spread = [x - size for x in e]
    h = t_quantile(n - 1, alpha) ** 2 / n / (n - 1)
    a = size * size - h * _dot(spread, spread)
    if a <= 0:
        return -math.inf, math.inf
    # Around the ratio itself the quadratic a x^2 + 2 b x - c = 0 loses no digits to cancellation.
    ratio = fmean(q) / size
    residual = [y - ratio * x for y, x in zip(q, e, strict=True)]
    b, c = h * _dot(residual, spread), h * _dot(residual, residual)
    root = math.sqrt(b * b + a * c)
    return ratio + (-b - root) / a, ratio + (-b + root) / a


def bh(p: Sequence[float], dependent: bool = False) -> list[float]:
    """Return `p` adjusted to control the false discovery rate (Benjamini & Hochberg 1995).

    Valid under independence or positive dependence; with `dependent`, under any (Benjamini & Yekutieli 2001).

    Raises:
        ValueError: if a value is not in [0, 1].
    """
    adjusted, running, m = [0.0] * len(p), 1.0, len(p)
    factor = m * math.fsum(1 / rank for rank in range(1, m + 1)) if dependent else m
    for rank, (value, index) in reversed(list(enumerate(ranked(p), start=1))):
        running = min(running, factor * value / rank)
        adjusted[index] = running
    return adjusted


class _Mean(NamedTuple):
    """A mean with its standard error; a gap of at most `dust` is rounding error."""

    value: float
    se: float
    df: float
    dust: float
    n: int

    def p_above(self, bound: float) -> float:
        """Return the p-value of H0 "the mean is at most `bound`"."""
        return self._upper_tail(self.value - bound)

    def p_below(self, bound: float) -> float:
        """Return the p-value of H0 "the mean is at least `bound`"."""
        return self._upper_tail(bound - self.value)

    def _upper_tail(self, gap: float) -> float:
        if self.se == 0 or math.isinf(gap):
            return 0.0 if gap > self.dust else 1.0
        return float(special.stdtr(self.df, -gap / self.se))


def _mean(values: list[float], sd_floor: float, scale: float) -> _Mean:
    """Return the mean of values that came from numbers of size `scale`; spread within rounding error is none."""
    n, mean, dust = len(values), fmean(values), DUST * scale
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
    return _Mean(mean, max(sd if sd > dust else 0.0, float(sd_floor)) / math.sqrt(n), float(n - 1), dust, n)


def _against_margins(
    mean: _Mean, differences: list[float], bounds: tuple[float, float], levels: tuple[float, float]
) -> Result:
    lo, hi = bounds
    p_pass = max(mean.p_above(lo), mean.p_below(hi))
    p_fail = min(mean.p_above(hi), mean.p_below(lo))
    half = -t_quantile(mean.df, levels[0]) * mean.se
    worst = max(range(len(differences)), key=lambda i: max(lo - differences[i], differences[i] - hi))
    return Result(
        *_outcome(p_pass, p_fail, levels), mean.value, (mean.value - half, mean.value + half), p_pass, p_fail, None,
        mean.n, mean.df, mean.se, bounds, mean.se == 0, worst,
    )  # fmt: skip


def _outcome(p_pass: float, p_fail: float, levels: tuple[float, float]) -> tuple[Outcome, str]:
    if rejects(p_fail, levels[1]):
        return Outcome.FAIL, "outside-margin"
    if rejects(p_pass, levels[0]):
        return Outcome.PASS, "equivalent"
    return Outcome.INCONCLUSIVE, "need-more-seeds"


def _unjudged(
    outcome: Outcome, reason: str, n: int, bounds: tuple[float, float], estimate: float, worst: int | None = None
) -> Result:
    """Return a result without a test; only a divergence counts as proof, of failure."""
    p_fail = 0.0 if outcome is Outcome.FAIL else 1.0
    nowhere = (-math.inf, math.inf)
    return Result(
        outcome, reason, estimate, nowhere, 1.0, p_fail, None, n, math.nan, math.nan, bounds, False, worst
    )  # fmt: skip


def _not_finite(u: list[float], references: tuple[list[float], ...], bounds: tuple[float, float]) -> Result | None:
    """Return the result that values without a number force, the references' first; None if all are finite."""
    n = min(map(len, (u, *references)))
    for arm in (*references, u):
        if bad := [i for i, x in enumerate(arm) if not is_finite(x)]:
            if arm is u:
                return _unjudged(Outcome.FAIL, "diverged", n, bounds, math.nan, bad[0])
            return _unjudged(Outcome.INCONCLUSIVE, "nonfinite-reference", n, bounds, math.nan, bad[0])
    return None


def _floats(values: Sequence[float]) -> list[float]:
    return [float(x) for x in values]


def _scale(*arms: list[float]) -> float:
    return max([1.0, *(abs(x) for arm in arms for x in arm)])


def _dot(x: list[float], y: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def _levels(alpha: float, alpha_fail: float | None, sd_floor: float, min_n: int) -> tuple[float, float]:
    """Check what all tests share and return the error rates of PASS and FAIL."""
    if not 0 <= sd_floor < math.inf:
        raise ValueError(f"sd_floor must be finite and at least 0, not {sd_floor}.")
    if min_n < 2:
        raise ValueError(f"min_n must be at least 2, not {min_n}.")
    return checked_level("alpha", alpha), checked_level("alpha_fail", alpha if alpha_fail is None else alpha_fail)


def _bounds(lo: float, hi: float) -> tuple[float, float]:
    if not lo < hi or (lo, hi) == (-math.inf, math.inf):
        raise ValueError(f"the bounds must be in order and not both infinite, not ({lo}, {hi}).")
    return float(lo), float(hi)


def _same_length(**arms: list[float]) -> None:
    if len({len(arm) for arm in arms.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(arm)}" for name, arm in arms.items())
        raise ValueError(f"paired runs must come in equal numbers, but {lengths}.")
