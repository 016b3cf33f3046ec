"""Properties of the test of retention."""

import math

import numpy as np
import pytest
from drawn import FAIL, INCONCLUSIVE, INF, NAN, ORDER, PASS, biting, close, decided, level, pairs, triples, value
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from harness.statistics import (
    equivalence,
    equivalence_paired,
    fieller,
    rejects,
    retention,
)


@given(biting(), st.floats(0, 0.99), st.floats(0, 2) | st.just(INF), st.floats(0.001, 2))
def test_retention_is_a_t_test_of_each_contrast_behind_one_of_the_bite(arms, tau, over, floor):
    p, r, u = map(np.array, arms)
    result = retention(*arms, tau=tau, tau_over=over, sd_floor=floor)
    upper = equivalence(u - r - tau * (p - r), -INF, 0, sd_floor=floor)
    above = (upper.p_fail, upper.p_pass, upper.se)
    below = (1.0, 0.0, NAN)
    if over < INF:
        lower = equivalence(u - r + over * (p - r), 0, INF, sd_floor=floor)
        below = (lower.p_fail, lower.p_pass, lower.se)
    bite = equivalence(p - r, -INF, 0, sd_floor=floor).p_fail
    sides = (above[0] + below[1], below[0] + above[1])
    assert (result.p_pass, result.p_fail) == close((max(above[1], below[1]), min(1, *sides)))
    assert (result.p_bite, result.df, result.n) == close((bite, upper.df, upper.n))
    assert result.bounds == (-over, tau)
    assert decided(result)
    assume(abs(above[1] - below[1]) > 1e-9 and abs(sides[0] - sides[1]) > 1e-9)
    assert result.se == close(above[2] if above[1] > below[1] else below[2])
    assert result.side == ("poison-left" if sides[0] < sides[1] else "over-corrected")
    said = (result.outcome, result.reason)
    if bite > 0.05:
        assert said == (INCONCLUSIVE, "no-bite")
    elif result.p_fail <= 0.05:
        assert said == (FAIL, result.side)
    else:
        assert said == ((PASS, "equivalent") if result.p_pass <= 0.05 else (INCONCLUSIVE, "need-more-seeds"))


@given(biting(), st.floats(0, 0.99), st.floats(0, 2) | st.just(INF), st.floats(0, 2), level)
def test_outcome_and_fiellers_interval_are_dual(arms, tau, over, floor, alpha):
    result = retention(*arms, tau=tau, tau_over=over, sd_floor=floor, alpha=alpha)
    (low, high), eps = result.interval, 1e-7
    assert math.isnan(result.estimate) or low <= result.estimate <= high
    if result.reason == "no-bite":
        assert result.outcome is INCONCLUSIVE
    elif -over + eps < low and high < tau - eps:
        assert result.outcome is PASS
    elif (low < -over - eps and high > -over + eps) or (low < tau - eps and high > tau + eps):
        assert result.outcome is INCONCLUSIVE
    elif low > tau + eps and over == INF:
        assert result.outcome is FAIL
    if result.reason == "poison-left":
        assert low > tau - eps
    if result.reason == "over-corrected":
        assert high < -over + eps
    assert rejects(result.p_pass, alpha) + rejects(result.p_fail, alpha) <= 1 or result.reason == "no-bite"


@given(biting(), st.floats(0, 0.99), st.floats(0, 2), level)
def test_a_model_reflected_through_retraining_gets_the_mirrored_result(arms, tau, floor, alpha):
    p, r, u = arms
    reflected = [2 * b - c for b, c in zip(r, u, strict=True)]
    one = retention(p, r, u, tau=tau, alpha=alpha, sd_floor=floor)
    other = retention(p, r, reflected, tau=tau, alpha=alpha, sd_floor=floor)
    assume(all(abs(x - alpha) > 1e-7 for x in (one.p_pass, one.p_fail, one.p_bite)))
    assert one.outcome is other.outcome
    assert (one.p_pass, one.p_fail, one.p_bite) == close((other.p_pass, other.p_fail, other.p_bite))
    assert (other.estimate, *other.interval) == pytest.approx(
        tuple(-x for x in (one.estimate, *reversed(one.interval))), rel=1e-6, abs=1e-9, nan_ok=True
    )
    turned = {"poison-left": "over-corrected", "over-corrected": "poison-left"}
    assume(one.outcome is not FAIL or (one.p_fail < 1 and abs(one.estimate) > 1e-6))
    assert other.reason == turned.get(one.reason, one.reason)


@given(biting(), st.floats(0.001, 0.499))
def test_without_any_tolerance_failing_is_the_two_sided_t_test(arms, alpha):
    p, r, u = arms
    result = retention(p, r, u, tau=0, alpha=alpha, sd_floor=0.001)
    difference = equivalence_paired(u, r, -INF, 0, sd_floor=0.001)
    assert result.p_fail == close(min(1, 2 * min(difference.p_pass, difference.p_fail)))
    assert result.outcome is not PASS
    assert result.bounds == (0, 0)
    assert result.se == close(difference.se)


@given(pairs, level)
def test_fieller_holds_what_a_t_test_does_not_reject(arms, alpha):
    q, e = map(np.array, arms)
    low, high = fieller(q, e, alpha)
    sd, size = float(np.std(e, ddof=1)), abs(float(np.mean(e)))
    t = stats.t.isf(alpha, len(e) - 1)
    assume(abs(size - t * sd / math.sqrt(len(e))) > 1e-6)
    if size < t * sd / math.sqrt(len(e)):
        assert (low, high) == (-INF, INF)
        return
    assert low <= q.mean() / e.mean() <= high
    for end in (low, high):
        residual = q - end * e
        se = float(np.std(residual, ddof=1)) / math.sqrt(len(e))
        assert abs(float(residual.mean())) == pytest.approx(t * se, rel=1e-6, abs=1e-6 * max(1, abs(end)))


@given(biting(), st.integers(-8, 8), value)
def test_retention_ignores_unit_origin_and_direction(arms, exponent, shift):
    k = 2.0**exponent
    one = retention(*arms)
    moved = retention(*([x * k + shift for x in arm] for arm in arms))
    mirror = retention(*([-x for x in arm] for arm in arms), direction=-1)
    assert decided(one)
    assume(one.se > 1e-6 and abs(one.p_bite - 1) > 1e-9)
    assert (moved.outcome, moved.reason, mirror.outcome, mirror.reason) == 2 * (one.outcome, one.reason)
    for other, unit in ((moved, k), (mirror, 1)):
        assert (other.estimate, other.p_pass, other.p_fail, other.p_bite, other.se) == pytest.approx(
            (one.estimate, one.p_pass, one.p_fail, one.p_bite, one.se * unit), rel=1e-6, abs=1e-9, nan_ok=True
        )


@given(triples, st.floats(0, 0.999), level, st.floats(0, 1))
def test_doing_nothing_never_passes(arms, tau, alpha, floor):
    p, r, _ = arms
    assert retention(p, r, p, tau=tau, alpha=alpha, sd_floor=floor).outcome is not PASS


@given(biting(), st.lists(st.floats(-0.5, 1.5), min_size=2, max_size=5))
def test_a_synthetic_dose_is_recovered_and_judged_monotonically(arms, doses):
    p, r, _ = arms
    doses = sorted(doses, key=abs)
    results = [retention(p, r, [k * a + (1 - k) * b for a, b in zip(p, r, strict=True)], alpha=0.1) for k in doses]
    ranks = [ORDER.index(x.outcome) for x in results]
    assert ranks == sorted(ranks)
    if results[0].reason != "no-bite":
        assert [x.estimate for x in results] == close(doses)


@given(biting(), st.floats(0, 0.9), st.floats(0, 0.09), st.floats(0, 1), st.floats(0, 1))
def test_retention_moves_with_its_margins_and_floor(arms, tau, wider, floor, more):
    before = retention(*arms, tau=tau, sd_floor=floor)
    after = retention(*arms, tau=tau + wider, sd_floor=floor)
    assert (before.outcome, after.outcome) not in ((PASS, INCONCLUSIVE), (PASS, FAIL), (INCONCLUSIVE, FAIL))
    assert retention(*arms, tau=tau, sd_floor=floor + more).outcome in (before.outcome, INCONCLUSIVE)


def test_a_model_beyond_retraining_fails_unless_that_side_is_left_out():
    p, r, u = [1.0, 0.9, 1.1, 1.0], [0.0, 0.1, 0.0, 0.1], [-0.5, -0.4, -0.6, -0.4]
    found = retention(p, r, u)
    assert (found.outcome, found.reason, found.worst) == (FAIL, "over-corrected", 2)
    assert found.estimate == close(-2.1 / 3.8)
    one_sided = retention(p, r, u, tau_over=INF)
    assert (one_sided.outcome, one_sided.reason, one_sided.worst) == (PASS, "equivalent", 1)
    assert retention(p, r, u, tau_over=0.7).outcome is PASS


def test_the_bite_comes_first_and_the_other_p_values_are_there_all_the_same():
    p, r, u = [1.0, -2.0, 3.0, 2.5], [0.0, 0.0, 0.0, 0.0], [-1.0, -2.1, -1.4, -1.2]
    found = retention(p, r, u, tau_over=INF)
    assert found.p_bite == close(stats.ttest_1samp(p, 0, alternative="greater").pvalue)
    assert found.reason == "no-bite"
    assert found.p_pass < 0.05 < found.p_bite < 0.2
    assert retention(p, r, u, tau_over=INF, alpha=0.2).outcome is PASS


def test_retention_fails_at_its_level():
    p, r, u = [1.0, 1.1, 0.9, 1.0], [0.0] * 4, [0.2, 0.5, 0.3, 0.4]
    assert 0.01 < retention(p, r, u).p_fail < 0.05
    assert retention(p, r, u).outcome is FAIL
    assert retention(p, r, u, alpha=0.01).outcome is INCONCLUSIVE


def test_without_the_lower_margin_the_worst_seed_is_the_one_of_which_most_is_left():
    p, r, u = [1.0, 1.1, -0.05, 1.0], [0.0] * 4, [0.1, 0.9, 0.0, 0.1]  # the poison made the third seed better
    assert retention(p, r, u, tau_over=INF).worst == 1


def test_a_tie_of_both_margins_is_certain_of_nothing():
    found = retention([1.0, 1.0, 1.0], [0.0] * 3, [0.0] * 3, tau=0.0)
    assert (found.outcome, found.p_pass, found.p_fail, found.side) == (INCONCLUSIVE, 1.0, 1.0, "poison-left")
