"""Test scores whose law is known exactly for every model that never saw what was planted.

If the scores z_1 ... z_k of a model are independent N(0, 1), their sum of squares is chi-squared with k degrees of
freedom, whatever the model. So it needs no reference, and a few runs of it are enough to show that a model is not
independent. They can never show that it is: what does not reject has only not been found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from scipy import special

from harness.api import Outcome
from harness.statistics.equivalence import FEWEST, Result
from harness.statistics.levels import checked_level, is_finite, rejects

#: A score that rejects at this level, two-sided, does not pass. It is not divided by looks: that is only stricter.
PLAIN = 0.05
#: Smallest probability that is told from 0; its normal score is -37.5.
TINIEST = 2.2250738585072014e-308


def chi2_score(total: float, k: int) -> float:
    """Return the normal score of a sum of squares: N(0, 1) if `total` is chi-squared with `k` degrees of freedom.

    It is Phi^-1(F(total)), from whichever tail is smaller, so that it is accurate in both; at most 37.5 either way.

    Raises:
        ValueError: if `total` is negative or not a number, or `k` is below 1.
    """
    if not total >= 0 or k < 1:
        raise ValueError(f"a sum of squares must be at least 0, of at least 1 number, not {total} of {k}.")
    below, above = float(special.gammainc(k / 2, total / 2)), float(special.gammaincc(k / 2, total / 2))
    score = float(special.ndtri(max(min(below, above), TINIEST)))
    return score if below <= above else -score


def exact_null(p: Sequence[float], r: Sequence[float], u: Sequence[float], *, alpha: float = 0.05) -> Result:
    """Test whether unlearned models still know what was planted, by a score that is N(0, 1) for any that do not.

    Runs are pooled by Z = sum / sqrt(n) (Stouffer et al. 1949), and Z is tested two-sided. First the bite must be
    shown, that the Z of `p` rejects, else the outcome is INCONCLUSIVE ("no-bite"). FAIL: the Z of `u` rejects at
    `alpha` ("null-rejected"). PASS: it does not even reject at 0.05 ("nothing-found"). In between: INCONCLUSIVE.

    A PASS is no proof of independence, and has no p-value. It says that nothing was found by a test that finds the
    poisoned models. Since `u` = `p` cannot both reject at 0.05 and not reject, doing nothing cannot pass.

    Args:
        p: the score of the poisoned models, one per run, with what was planted drawn afresh for each.
        r: the score of the retrained models; only asked to be finite, since their law is known.
        u: the score of the unlearned models; one that is not finite is a FAIL ("diverged").
        alpha: error rate of FAIL, and level of the bite, in (0, 0.5).

    Returns:
        The result. Its estimate is the mean of `u`, in standard deviations, with its interval at 1 - `alpha`. There is
        no `p_pass`, `df` or margin: they are NaN, and the bounds infinite.

    Raises:
        ValueError: if the lengths differ, or `alpha` is out of range.
    """
    checked_level("alpha", alpha)
    p, r, u = ([float(x) for x in arm] for arm in (p, r, u))
    n = len(u)
    if not len(p) == len(r) == n:
        raise ValueError(f"paired runs must come in equal numbers, but p has {len(p)}, r has {len(r)}, u has {n}.")
    nowhere, mean = (-math.inf, math.inf), fmean(u) if n else math.nan

    def result(
        outcome: Outcome, reason: str, *, p_fail: float = 1.0, bite: float | None = None,
        half: float = math.inf, worst: int | None = None,
    ) -> Result:  # fmt: skip
        ends = (mean - half, mean + half) if is_finite(half) else nowhere
        se = 1 / math.sqrt(n) if n else math.nan
        numbers = (mean, ends, math.nan, p_fail, bite, n, math.nan, se, nowhere)
        return Result(outcome, reason, *numbers, False, worst, "null-rejected")

    for arm, outcome, reason in ((p + r, Outcome.INCONCLUSIVE, "nonfinite-reference"), (u, Outcome.FAIL, "diverged")):
        if bad := [i for i, x in enumerate(arm) if not is_finite(x)]:
            mean = math.nan
            return result(outcome, reason, p_fail=float(outcome is not Outcome.FAIL), worst=bad[0] % n)
    if n < FEWEST:
        return result(Outcome.INCONCLUSIVE, "too-few-seeds")
    bite, p_fail = two_sided(stouffer(p)), two_sided(stouffer(u))
    if not rejects(bite, alpha):
        said: tuple[Outcome, str] = (Outcome.INCONCLUSIVE, "no-bite")
    elif rejects(p_fail, alpha):
        said = (Outcome.FAIL, "null-rejected")
    elif rejects(p_fail, PLAIN):
        said = (Outcome.INCONCLUSIVE, "need-more-seeds")
    else:
        said = (Outcome.PASS, "nothing-found")
    half = -float(special.ndtri(alpha / 2)) / math.sqrt(n)
    worst = max(range(n), key=lambda i: abs(u[i]))
    return result(*said, p_fail=p_fail, bite=bite, half=half, worst=worst)


def stouffer(z: Sequence[float]) -> float:
    """Return the sum of independent N(0, 1) scores over the root of their number, which is N(0, 1) again."""
    return math.fsum(z) / math.sqrt(len(z))


def two_sided(z: float) -> float:
    """Return the probability that a N(0, 1) score is at least as far from 0."""
    return 2 * float(special.ndtr(-abs(z)))
