"""Judge by tests of equivalence: pure functions on floats.

A difference test that finds nothing proves nothing, and passes more the fewer seeds it sees. So the null hypothesis
here is always "outside the margin", and a PASS is its rejection. Every test takes one number per training seed and
returns a `Result`; p-values, intervals and outcome are dual to each other. Sequential looks, the oracle's gate and
multiplicity over audits are built on top of these functions, not in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from scipy import special

from harness.api import Outcome
from harness.statistics.levels import DUST, checked_level, is_finite, rejects, t_quantile

#: Why a test concludes what it does. A verdict adds reasons of its own: they are all in `harness.judging.reasons`.
Why = Literal[
    "equivalent", "outside-margin", "poison-left", "over-corrected", "nothing-found", "null-rejected",
    "need-more-seeds", "too-few-seeds", "no-bite", "nonfinite-reference", "diverged",
]  # fmt: skip

#: Fewest runs that are judged.
FEWEST = 3


@dataclass(frozen=True)
class Result:
    """What one test says about one set of runs.

    Attributes:
        outcome: PASS iff `p_pass` <= alpha, FAIL iff `p_fail` <= alpha, else INCONCLUSIVE.
        reason: one of `Why`; "need-more-seeds" if the interval straddles a margin.
        estimate: the mean difference, or kappa, the retained fraction; NaN where there is none.
        interval: its (1 - 2 alpha) interval, inside `bounds` iff PASS, and outside if FAIL; (-inf, inf) where there is
            none.
        p_pass: p-value of "outside the bounds".
        p_fail: p-value of "inside the bounds", at most 1.
        p_bite: p-value of "the poison did nothing"; None where no bite was tested.
        n: number of runs.
        df: degrees of freedom; NaN where nothing was tested.
        se: standard error of what was tested, for retention of the contrast against the margin that decides
            `p_pass`; NaN likewise.
        bounds: the margins; an infinite one is not tested.
        degenerate: whether the runs do not vary at all (and no floor was given), so that no t statistic exists.
        worst: index of the run farthest beyond a margin (or nearest to one), or of the first that is not finite.
        side: the reason that a FAIL has, or would have at a larger alpha; "" where nothing was tested.
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
    side: str = ""


def equivalence(d: Sequence[float], lo: float, hi: float, *, alpha: float = 0.05, sd_floor: float = 0.0) -> Result:
    """Test whether the mean of `d` lies strictly between `lo` and `hi` (two one-sided t tests; Schuirmann 1987).

    PASS rejects "outside" on both sides; FAIL rejects "inside" on either one. A mean on either margin could have been
    seen beyond the other, so `p_fail` is the sum of the p-values against both: the nearer margin's alone where they lie
    many standard errors apart, twice that where they meet. An infinite bound leaves non-inferiority. Values without any
    spread PASS strictly inside and FAIL strictly outside the margin.

    Args:
        d: one difference per seed, in the unit of the measure; its own values, not a reference, are on trial, so one
            that is not finite is a FAIL ("diverged").
        lo: lower margin, in the unit of `d`; -inf leaves it out.
        hi: upper margin; inf leaves it out.
        alpha: error rate of PASS, and of FAIL, in (0, 0.5).
        sd_floor: least standard deviation that is believed, in the unit of `d` (half a count, for a rate).

    Raises:
        ValueError: if the bounds are not in order or both infinite, or another argument is out of range.
    """
    values = list(d)
    return equivalence_paired(values, [0.0] * len(values), lo, hi, alpha=alpha, sd_floor=sd_floor)


def equivalence_paired(
    u: Sequence[float], r: Sequence[float], lo: float, hi: float, *, alpha: float = 0.05, sd_floor: float = 0.0
) -> Result:
    """Test the mean of `u` - `r`, paired by seed, against the margins as `equivalence` does.

    A `u` that is not finite is a FAIL ("diverged"); an `r` that is not finite leaves nothing to judge by.

    Raises:
        ValueError: as `equivalence`, and if the lengths differ.
    """
    u, r = _floats(u), _floats(r)
    _check(alpha, sd_floor)
    bounds = _bounds(lo, hi)
    _same_length(u=u, r=r)
    if unusable := _not_finite(u, (r,), bounds):
        return unusable
    d = [a - b for a, b in zip(u, r, strict=True)]
    if len(d) < FEWEST:
        return _unjudged(Outcome.INCONCLUSIVE, "too-few-seeds", len(d), bounds, fmean(d) if d else math.nan)
    return _against_margins(_mean(d, sd_floor, _scale(u, r)), d, bounds, alpha)


def retention(
    p: Sequence[float], r: Sequence[float], u: Sequence[float], *,
    tau: float = 0.2, tau_over: float | None = None, direction: int = +1, alpha: float = 0.05, sd_floor: float = 0.0,
) -> Result:  # fmt: skip
    """Test whether unlearning leaves a fraction of a poison's effect between -`tau_over` and `tau`, paired by seed.

    The fraction is kappa = E[u - r] / E[p - r]: 0 is as good as retraining, 1 is nothing unlearned, below 0 the model
    was moved beyond retraining. Instead of the unstable ratio two contrasts are tested, each by a one-sided t test:
    (u - r) - tau (p - r), the retention-of-effect test of Pigeot et al. (2003), and (u - r) + tau_over (p - r), the
    same at the other margin. PASS needs both: the first below 0 and the second above. FAIL needs either: the first
    above 0 ("poison-left"), or the second below ("over-corrected"); its p-value is that of `equivalence`. The tests are
    dual to the interval of Fieller (1954). First the bite, E[p - r] > 0, must be shown, else the outcome is
    INCONCLUSIVE ("no-bite"); the order makes a correction of alpha unnecessary, and makes it impossible that u = p
    PASSes. The p-values are returned either way. With both margins 0 nothing can PASS, and FAIL is the two-sided t test
    of u = r.

    Deviation: Fieller's interval is widened by `sd_floor`, if that is set, so that it stays dual to the outcome.

    Args:
        p: the measure of the poisoned models, one per seed.
        r: the measure of the retrained models.
        u: the measure of the unlearned models; one that is not finite is a FAIL ("diverged").
        tau: retained fraction that no longer passes, in [0, 1).
        tau_over: how far below 0 the fraction no longer passes, at least 0; None for `tau`, inf to test `tau` alone.
        direction: +1 if the poison makes the measure larger, -1 if smaller.
        alpha: error rate of PASS, of FAIL and of the bite, in (0, 0.5).
        sd_floor: least standard deviation that is believed of an effect or a contrast, in the unit of the measure.

    Raises:
        ValueError: if an argument is out of range or the lengths differ.
    """
    p, r, u = _floats(p), _floats(r), _floats(u)
    _check(alpha, sd_floor)
    if not 0 <= tau < 1:
        raise ValueError(f"tau must be in [0, 1), not {tau}.")
    tau_over = float(tau if tau_over is None else tau_over)
    if not tau_over >= 0:
        raise ValueError(f"tau_over must be at least 0, not {tau_over}.")
    if direction not in (+1, -1):
        raise ValueError(f"direction must be +1 or -1, not {direction}.")
    bounds = (0.0 - tau_over, float(tau))
    _same_length(p=p, r=r, u=u)
    if unusable := _not_finite(u, (p, r), bounds):
        return unusable

    n, scale = len(u), _scale(p, r, u)
    effect = [direction * (a - b) for a, b in zip(p, r, strict=True)]
    rest = [direction * (a - b) for a, b in zip(u, r, strict=True)]
    size = fmean(effect) if n else 0.0
    kappa = fmean(rest) / size if abs(size) > DUST * scale else math.nan
    if n < FEWEST:
        return _unjudged(Outcome.INCONCLUSIVE, "too-few-seeds", n, bounds, kappa)

    bite = _mean(effect, sd_floor, scale).p_above(0.0)
    left = [q - tau * e for q, e in zip(rest, effect, strict=True)]
    over = [q + tau_over * e for q, e in zip(rest, effect, strict=True)] if tau_over < math.inf else [math.inf] * n
    upper = _mean(left, sd_floor, scale)
    lower = _mean(over, sd_floor, scale) if tau_over < math.inf else upper._replace(value=math.inf)
    tests = _PValues.of(upper, 0.0, lower, 0.0)
    nearer = upper if upper.p_below(0.0) >= lower.p_above(0.0) else lower
    interval = (-math.inf, math.inf)
    if not math.isnan(kappa):
        # Where the floor exceeds the spread of the contrast, the dual set is kappa -+ this; it always holds kappa.
        floored = -t_quantile(n - 1, alpha) * float(sd_floor) / math.sqrt(n) / abs(size)
        low, high = fieller(rest, effect, alpha)
        interval = (min(low, kappa - floored), max(high, kappa + floored))
    side: Why = "poison-left" if tests.above <= tests.below else "over-corrected"
    outcome, reason = _outcome(tests, alpha, side)
    if not rejects(bite, alpha):
        outcome, reason = Outcome.INCONCLUSIVE, "no-bite"
    return Result(
        outcome, reason, kappa, interval, tests.passing, tests.failing, bite, n, nearer.df, nearer.se, bounds,
        nearer.se == 0, max(range(n), key=lambda i: max(left[i], -over[i])), side,
    )  # fmt: skip


def fieller(q: Sequence[float], e: Sequence[float], alpha: float = 0.05) -> tuple[float, float]:
    """Return the (1 - 2 `alpha`) interval of E[q] / E[e] from pairs (Fieller 1954).

    It holds every k for which a t test does not reject E[q - k e] = 0 at 2 `alpha`. It is (-inf, inf) if E[e] cannot
    be told from 0 at that level, and for fewer than two pairs or values that are not finite.

    Raises:
        ValueError: if the lengths differ, or `alpha` is not in (0, 0.5).
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


def _against_margins(mean: _Mean, differences: list[float], bounds: tuple[float, float], alpha: float) -> Result:
    lo, hi = bounds
    p = _PValues.of(mean, hi, mean, lo)
    half = -t_quantile(mean.df, alpha) * mean.se
    worst = max(range(len(differences)), key=lambda i: max(lo - differences[i], differences[i] - hi))
    return Result(
        *_outcome(p, alpha, "outside-margin"), mean.value, (mean.value - half, mean.value + half), p.passing, p.failing,
        None, mean.n, mean.df, mean.se, bounds, mean.se == 0, worst, "outside-margin",
    )  # fmt: skip


class _PValues(NamedTuple):
    """P-values against an upper and a lower margin: of "outside", "not above" and "not below"."""

    passing: float
    above: float
    below: float

    @classmethod
    def of(cls, upper: _Mean, hi: float, lower: _Mean, lo: float) -> _PValues:
        """Test `upper` against `hi` and `lower` against `lo`."""
        # With the truth on one margin, a FAIL on its side and one on the far side are both wrong. For a known standard
        # error the sum of the two p-values makes them add up to alpha exactly; with an estimated one to less.
        above = upper.p_above(hi) + lower.p_above(lo)
        below = lower.p_below(lo) + upper.p_below(hi)
        return cls(max(upper.p_below(hi), lower.p_above(lo)), min(1.0, above), min(1.0, below))

    @property
    def failing(self) -> float:
        return min(self.above, self.below)


def _outcome(p: _PValues, alpha: float, side: Why) -> tuple[Outcome, Why]:
    if rejects(p.failing, alpha):
        return Outcome.FAIL, side
    if rejects(p.passing, alpha):
        return Outcome.PASS, "equivalent"
    return Outcome.INCONCLUSIVE, "need-more-seeds"


def _unjudged(
    outcome: Outcome, reason: Why, n: int, bounds: tuple[float, float], estimate: float, worst: int | None = None
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


def _check(alpha: float, sd_floor: float) -> None:
    checked_level("alpha", alpha)
    if not 0 <= sd_floor < math.inf:
        raise ValueError(f"sd_floor must be finite and at least 0, not {sd_floor}.")


def _bounds(lo: float, hi: float) -> tuple[float, float]:
    if not lo < hi or (lo, hi) == (-math.inf, math.inf):
        raise ValueError(f"the bounds must be in order and not both infinite, not ({lo}, {hi}).")
    return float(lo), float(hi)


def _same_length(**arms: list[float]) -> None:
    if len({len(arm) for arm in arms.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(arm)}" for name, arm in arms.items())
        raise ValueError(f"paired runs must come in equal numbers, but {lengths}.")
