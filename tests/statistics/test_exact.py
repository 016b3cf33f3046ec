"""The test of scores whose law is exact: known answers, both tails, calibration, and what cannot pass."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.api import Outcome
from harness.statistics import chi2_score, exact_null, stouffer
from harness.statistics.exact import two_sided

FAR = [-3.0] * 5
QUIET = [0.3, -0.2, 0.1, 0.5, -0.4]


@pytest.mark.parametrize(
    ("total", "k", "score"),
    [
        (1.0, 1, 0.4752328),  # P(chi2_1 < 1) = P(|N| < 1) = 0.6826895
        (2 * math.log(2), 2, 0.0),  # the median of an exponential law
        (2 * math.log(1e6), 2, 4.7534243),  # its upper tail is 1e-6
        (-2 * math.log1p(-1e-6), 2, -4.7534243),
    ],
)
def test_the_normal_score_of_a_sum_of_squares(total, k, score):
    assert chi2_score(total, k) == pytest.approx(score, abs=1e-6)
    assert chi2_score(total, k) == pytest.approx(stats.norm.ppf(stats.chi2.cdf(total, k)), abs=1e-6)


def test_both_tails_are_accurate_and_never_infinite():
    # The upper tail of two degrees of freedom is exp(-x / 2): here 1e-100, which 1 - F rounds to 0.
    assert chi2_score(200 * math.log(10), 2) == pytest.approx(-stats.norm.ppf(1e-100), rel=1e-9)
    assert chi2_score(2e-100, 2) == pytest.approx(stats.norm.ppf(1e-100), rel=1e-9)
    assert chi2_score(1e6, 2) == -chi2_score(0.0, 2) == pytest.approx(37.5, abs=0.1)


@given(st.integers(1, 3000), st.lists(st.floats(0, 1e5), min_size=2, max_size=6))
def test_more_is_never_a_lower_score(k, totals):
    scores = [chi2_score(total, k) for total in sorted(totals)]
    assert all(math.isfinite(score) for score in scores)
    assert all(low <= high + 1e-6 for low, high in pairwise(scores))


@pytest.mark.parametrize(("total", "k"), [(-1.0, 3), (math.nan, 3), (1.0, 0)])
def test_what_is_no_sum_of_squares_is_refused(total, k):
    with pytest.raises(ValueError, match="a sum of squares must be"):
        chi2_score(total, k)


def test_scores_are_pooled_by_stouffer():
    assert stouffer([1.0, 2.0, 3.0, 2.0]) == 4.0
    assert two_sided(1.959963984540054) == two_sided(-1.959963984540054) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("u", "outcome", "reason"),
    [
        ([0.1, -0.3, 0.8, -1.0, 0.4], Outcome.PASS, "nothing-found"),
        ([-1.2, -1.0, -0.6, -1.4, -0.6], Outcome.INCONCLUSIVE, "need-more-seeds"),  # Z = -2.15, p = .032
        ([-1.6, -1.3, -0.9, -1.4, -1.6], Outcome.FAIL, "null-rejected"),  # Z = -3.04, p = .0024
        ([1.6, 1.3, 0.9, 1.4, 1.6], Outcome.FAIL, "null-rejected"),
        (FAR, Outcome.FAIL, "null-rejected"),
        ([0.1, math.nan, 0.8, 0.2, 0.3], Outcome.FAIL, "diverged"),
    ],
)
def test_what_is_concluded(u, outcome, reason):
    found = exact_null(FAR, QUIET, u, alpha=0.005)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert math.isnan(found.p_pass)


def test_the_estimate_is_the_mean_and_its_interval_excludes_0_where_it_rejects():
    found = exact_null(FAR, QUIET, [-1.6, -1.3, -0.9, -1.4, -1.6], alpha=0.005)
    assert found.estimate == pytest.approx(-1.36)
    assert found.interval == pytest.approx((-1.36 - 1.2553, -1.36 + 1.2553), abs=1e-3)  # 2.807 / sqrt(5)
    assert found.p_fail == pytest.approx(0.00236, abs=1e-5)
    assert found.p_bite == pytest.approx(stats.norm.sf(3 * math.sqrt(5)) * 2)
    assert found.worst == 0


def test_without_a_bite_nothing_is_concluded():
    for u in (QUIET, FAR):
        assert exact_null(QUIET, QUIET, u).reason == "no-bite"
    assert exact_null(FAR[:2], QUIET[:2], QUIET[:2]).reason == "too-few-seeds"
    assert exact_null([math.inf, -3, -3], QUIET[:3], QUIET[:3]).reason == "nonfinite-reference"
    assert exact_null(FAR, [math.nan, *QUIET[1:]], QUIET).reason == "nonfinite-reference"
    with pytest.raises(ValueError, match="p has 5, r has 5, u has 4"):
        exact_null(FAR, FAR, FAR[:4])


@given(st.lists(st.floats(-30, 30), min_size=3, max_size=16), st.floats(1e-4, 0.05))
def test_doing_nothing_never_passes(p, alpha):
    assert exact_null(p, [0.0] * len(p), p, alpha=alpha).outcome is not Outcome.PASS


def test_an_independent_model_fails_at_the_level_and_passes_in_19_of_20():
    """The scores are those of real sums of squares: 35 points, 5 runs, 4,000 studies."""
    rng = np.random.default_rng(0)
    totals = (rng.standard_normal((4000, 5, 35)) ** 2).sum(axis=2)
    scores = [[chi2_score(total, 35) for total in study] for study in totals]
    assert stats.kstest([score for study in scores for score in study], "norm").pvalue > 0.01
    outcomes = [exact_null(FAR, [0.0] * 5, study, alpha=0.01).outcome for study in scores]
    assert outcomes.count(Outcome.PASS) / 4000 == pytest.approx(0.95, abs=0.011)  # 3 standard errors
    assert outcomes.count(Outcome.FAIL) / 4000 == pytest.approx(0.01, abs=0.005)
