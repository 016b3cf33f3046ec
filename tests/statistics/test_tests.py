"""Properties and edge cases of the statistics; published numbers and simulation are in the file beside this one."""

import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, astuple, replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import harness.statistics
from harness.api import Outcome
from harness.statistics import (
    bad_seed_bound,
    clopper_pearson,
    eps_lower_single,
    equivalence,
    equivalence_paired,
    fieller,
    holm,
    mu_lower,
    one_run_eps,
    rejects,
    retention,
    seeds_needed,
    tost_power,
)

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
INF, NAN = math.inf, math.nan
ORDER = (PASS, INCONCLUSIVE, FAIL)

# Thousandths, so that ties, constants and values on a margin are common and rounding error is never a spread.
value = st.integers(-9_000, 9_000).map(lambda i: i / 1000)
runs = st.lists(value, min_size=3, max_size=12)
pairs = st.lists(st.tuples(value, value), min_size=3, max_size=12).map(lambda x: tuple(map(list, zip(*x, strict=True))))
triples = st.lists(st.tuples(value, value, value), min_size=3, max_size=12).map(
    lambda x: tuple(map(list, zip(*x, strict=True)))
)
level = st.floats(0.001, 0.499)
margins = st.tuples(value, value).filter(lambda m: m[0] < m[1])
bounds = margins | value.map(lambda m: (-INF, m)) | value.map(lambda m: (m, INF))


@st.composite
def biting(draw):
    """Poisoned, retrained and unlearned runs whose poison does something, mostly enough to be shown."""
    r, noise, u = draw(triples)
    return [a + b / 10 + draw(st.shared(st.integers(1, 20), key="size")) for a, b in zip(r, noise, strict=True)], r, u


def close(expected):
    return pytest.approx(expected, rel=1e-9, abs=1e-9)


def same(a, b):
    """Whether two results agree up to rounding."""
    return (a.outcome, a.reason, a.n, a.worst, a.degenerate) == (b.outcome, b.reason, b.n, b.worst, b.degenerate) and (
        (a.estimate, *a.interval, a.p_pass, a.p_fail, a.p_bite or 0, a.df, a.se, *a.bounds)
        == pytest.approx(
            (b.estimate, *b.interval, b.p_pass, b.p_fail, b.p_bite or 0, b.df, b.se, *b.bounds),
            rel=1e-9, abs=1e-9, nan_ok=True,
        )
    )  # fmt: skip


def decided(*results):
    """Leave out cases in which rounding could tip the outcome."""
    for result in results:
        for p in (result.p_pass, result.p_fail, *([] if result.p_bite is None else [result.p_bite])):
            assume(abs(p - 0.05) > 1e-7)
    return True


# ---- properties of equivalence


@given(runs, bounds, bounds, level)
def test_a_wider_margin_only_moves_towards_pass(d, narrow, other, alpha):
    wide = (min(narrow[0], other[0]), max(narrow[1], other[1]))
    assume(wide != (-INF, INF))
    before = equivalence(d, *narrow, alpha=alpha)
    after = equivalence(d, *wide, alpha=alpha)
    assert after.p_pass <= before.p_pass
    assert (before.outcome, after.outcome) not in ((PASS, INCONCLUSIVE), (PASS, FAIL))


@given(runs, bounds, value.map(abs), level)
def test_margins_wider_by_the_same_on_both_sides_only_move_towards_pass(d, narrow, more, alpha):
    before = equivalence(d, *narrow, alpha=alpha)
    after = equivalence(d, narrow[0] - more, narrow[1] + more, alpha=alpha)
    assert ORDER.index(after.outcome) <= ORDER.index(before.outcome)
    assert after.p_fail >= before.p_fail * (1 - 1e-9)


@given(pairs, value.filter(lambda m: m > 0))
def test_the_arms_can_be_swapped_under_a_symmetric_margin(arms, margin):
    u, r = arms
    one, other = equivalence_paired(u, r, -margin, margin), equivalence_paired(r, u, -margin, margin)
    assert one.outcome is other.outcome
    assert (one.p_pass, one.p_fail, one.se) == close((other.p_pass, other.p_fail, other.se))
    assert one.interval == close(tuple(-x for x in reversed(other.interval)))


@given(runs, bounds)
def test_a_change_of_sign_mirrors_the_result(d, margin):
    lo, hi = margin
    result, mirror = equivalence(d, lo, hi), equivalence([-x for x in d], -hi, -lo)
    assert decided(result)
    expected = replace(
        mirror, estimate=-mirror.estimate, bounds=(lo, hi), interval=(-mirror.interval[1], -mirror.interval[0])
    )
    assert same(result, expected)


@given(pairs, bounds, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(arms, margin, random):
    order = list(range(len(arms[0])))
    random.shuffle(order)
    u, r = arms
    su, sr = [u[i] for i in order], [r[i] for i in order]
    one, other = equivalence_paired(u, r, *margin), equivalence_paired(su, sr, *margin)
    assert one.worst is not None
    assert other.worst is not None
    assert replace(one, worst=None) == replace(other, worst=None)
    lo, hi = margin
    beyond = [max(lo - (a - b), (a - b) - hi) for a, b in zip(u, r, strict=True)]
    assert beyond[one.worst] == max(beyond) == beyond[order[other.worst]]


@given(pairs, bounds, st.integers(-8, 8))
def test_units_do_not_matter(arms, margin, exponent):
    k = 2.0**exponent
    u, r = ([x * k for x in arm] for arm in arms)
    lo, hi = margin
    one, other = equivalence_paired(*arms, lo, hi), equivalence_paired(u, r, lo * k, hi * k)
    assert decided(one)
    assume(all(abs(b - one.estimate) > 1e-9 for b in margin))
    interval = tuple(x * k for x in one.interval)
    assert same(other, replace(one, estimate=one.estimate * k, interval=interval, se=one.se * k, bounds=other.bounds))


@given(runs, bounds, level)
def test_outcome_and_interval_are_dual_and_exclusive(d, margin, alpha):
    (lo, hi), result = margin, equivalence(d, *margin, alpha=alpha)
    (low, high), eps = result.interval, 1e-9
    assert low <= result.estimate <= high
    if lo + eps < low and high < hi - eps:
        assert result.outcome is PASS
    elif (low < lo - eps and high > lo + eps) or (low < hi - eps and high > hi + eps):
        assert result.outcome is INCONCLUSIVE
    elif (high < lo - eps or low > hi + eps) and INF in (-lo, hi):
        assert result.outcome is FAIL
    if result.outcome is FAIL:  # with two margins near each other, not wherever the interval lies outside
        assert high < lo + eps or low > hi - eps
    assert (result.p_pass <= alpha) + (result.p_fail <= alpha) <= 1
    reasons = {PASS: "equivalent", FAIL: "outside-margin", INCONCLUSIVE: "need-more-seeds"}
    assert result.reason == reasons[result.outcome]


@given(runs, bounds, level, level, st.floats(0, 2), st.floats(0, 2))
def test_a_smaller_alpha_or_a_larger_floor_only_moves_towards_inconclusive(d, margin, a, b, floor, more):
    before = equivalence(d, *margin, alpha=max(a, b), sd_floor=floor)
    after = equivalence(d, *margin, alpha=min(a, b), sd_floor=floor + more)
    assert after.outcome in (before.outcome, INCONCLUSIVE)


@given(pairs, margins)
def test_two_sided_is_the_worse_of_the_sides_and_failing_adds_the_far_one(arms, margin):
    lo, hi = margin
    both, lower, upper = (equivalence_paired(*arms, *m) for m in ((lo, hi), (lo, INF), (-INF, hi)))
    assert both.p_pass == max(lower.p_pass, upper.p_pass)
    assert both.p_fail == min(1, upper.p_fail + lower.p_pass, lower.p_fail + upper.p_pass)
    assert both.interval == lower.interval == upper.interval


@given(runs, bounds, st.floats(0.001, 5))
def test_the_floor_replaces_a_smaller_standard_deviation(d, margin, floor):
    result = equivalence(d, *margin, sd_floor=floor)
    sd = float(np.std(d, ddof=1))
    assert result.se == close(max(sd, floor) / math.sqrt(len(d)))
    assert not result.degenerate


# ---- properties of retention


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


# ---- too few, not finite, without spread

TESTS = {
    "equivalence": lambda u, r, **kw: equivalence([a - b for a, b in zip(u, r, strict=True)], -1, 1, **kw),
    "paired": lambda u, r, **kw: equivalence_paired(u, r, -1, 1, **kw),
    "retention": lambda u, r, **kw: retention([x + 5 for x in r], r, u, **kw),
}
every_test = pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)


def check_unjudged(result, outcome, reason, n, worst):
    assert result.bounds in ((-1, 1), (-0.2, 0.2))
    assert (result.outcome, result.reason, result.n, result.worst) == (outcome, reason, n, worst)
    assert result.interval == (-INF, INF)
    assert (result.p_pass, result.p_fail, result.p_bite) == (1.0, 0.0 if outcome is FAIL else 1.0, None)
    assert math.isnan(result.df)
    assert math.isnan(result.se)
    assert not result.degenerate


@every_test
@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_than_three_seeds_are_not_judged(test, n):
    result = test([0.5, 1.0][:n], [0.0, 0.1][:n])
    check_unjudged(result, INCONCLUSIVE, "too-few-seeds", n, None)
    scale = 5 if test is TESTS["retention"] else 1
    assert result.estimate * scale == pytest.approx([NAN, 0.5, 0.7][n], nan_ok=True)


@every_test
@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e200, -1e150])
@pytest.mark.parametrize("n", [1, 4])
def test_a_diverged_model_fails_and_is_named(test, bad, n):
    u, r = [0.0] * 4, [0.0] * 4
    u[n - 1] = bad
    result = test(u[:n], r[:n])
    check_unjudged(result, FAIL, "diverged", n, n - 1)
    assert math.isnan(result.estimate)


@every_test
def test_the_first_diverged_model_is_named(test):
    assert test([0.0, NAN, INF, 0.0], [0.0] * 4).worst == 1


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("u", [[0.0] * 4, [NAN] * 4])
def test_a_reference_that_is_not_finite_is_nobodys_failure(bad, u):
    good, broken = [0.0, 0.1, 0.0, 0.1], [0.0, 0.1, bad, bad]
    for result in (
        equivalence_paired(u, broken, -1, 1),
        retention(broken, good, u),
        retention(good, broken, u),
    ):
        check_unjudged(result, INCONCLUSIVE, "nonfinite-reference", 4, 2)
        assert math.isnan(result.estimate)


@every_test
def test_the_largest_numbers_raise_nothing(test):
    result = test([9e149, -9e149, 9e149], [0.0, 0.0, 0.0])
    assert result.outcome is INCONCLUSIVE
    assert not math.isnan(result.p_pass)


@pytest.mark.parametrize(
    ("mean", "lo", "hi", "outcome"),
    [
        (0.5, -1, 1, PASS), (1.0, -1, 1, INCONCLUSIVE), (-1.0, -1, 1, INCONCLUSIVE), (1.001, -1, 1, FAIL),
        (-1.001, -1, 1, FAIL), (0.5, -INF, 1, PASS), (1.0, -INF, 1, INCONCLUSIVE), (2.0, -INF, 1, FAIL),
        (-0.01, -0.01, INF, INCONCLUSIVE), (0.0, 0.0, INF, INCONCLUSIVE), (0.1, 0.0, INF, PASS), (-0.1, 0.0, INF, FAIL),
    ],
)  # fmt: skip
def test_values_without_spread_are_judged_by_where_they_lie(mean, lo, hi, outcome):
    for result in (
        equivalence([mean] * 3, lo, hi),
        equivalence_paired([mean + 0.25] * 3, [0.25] * 3, lo, hi),
    ):
        assert result.outcome is outcome
        assert result.degenerate
        assert (result.se, result.n, result.worst) == (0, 3, 0)
        assert result.interval == close((mean, mean))
        assert (result.p_pass, result.p_fail) == (float(outcome is not PASS), float(outcome is not FAIL))


def test_the_worst_run_is_the_farthest_beyond_a_margin():
    u = [0.3, 0.9, -0.2, 0.5]
    assert [equivalence(u, *m).worst for m in ((-1, 1), (-0.3, 2), (-INF, 0), (0, INF))] == [1, 2, 1, 2]
    assert retention([1.0] * 4, [0.0] * 4, u).worst == 1


def test_a_floor_decides_where_nothing_varies():
    assert equivalence([0.5] * 3, -1, 1, sd_floor=0.01).outcome is PASS
    floored = equivalence([0.5] * 3, -1, 1, sd_floor=2)
    assert (floored.outcome, floored.degenerate) == (INCONCLUSIVE, False)
    assert floored.se == close(2 / math.sqrt(3))


@pytest.mark.parametrize("target", [0.0, 0.3, 0.8])
def test_rounding_error_is_no_spread(target):
    dust = [0.1 + 0.2 - 0.3 + target, target, target]
    for hi, outcome in ((target + 0.1, PASS), (target, INCONCLUSIVE), (target - 0.1, FAIL)):
        result = equivalence(dust, -9, hi)
        assert (result.outcome, result.degenerate) == (outcome, True)


def test_rounding_error_is_relative_to_the_numbers_that_were_subtracted():
    eps = 2.0**-52
    for scale in (1.0, 4096.0):
        small, large = ([0.0, 0.0, x * eps * scale] for x in (100, 130))  # sds of 58 and 75 eps
        r = [scale] * 3
        assert equivalence_paired([x + scale for x in small], r, -1, 1).degenerate
        assert not equivalence_paired([x + scale for x in large], r, -1, 1).degenerate
        assert retention([0.0] * 3, r, [x + scale for x in small], direction=-1).degenerate
        assert not retention([0.0] * 3, r, [x + scale for x in large], direction=-1).degenerate
    assert equivalence([0.0, 0.0, 100 * eps], -1, 1).degenerate
    assert equivalence([-64 * eps, 0.0, 64 * eps], -1, 1).degenerate  # exactly at the limit
    assert not equivalence([-64.5 * eps, 0.0, 64.5 * eps], -1, 1).degenerate
    assert equivalence([64 * eps] * 3, -1, 0).outcome is INCONCLUSIVE
    assert retention([64 * eps] * 3, [0.0] * 3, [0.0] * 3).p_bite == 1
    assert math.isnan(retention([64 * eps] * 3, [0.0] * 3, [0.0] * 3).estimate)
    # Whichever arm holds the large numbers.
    assert equivalence_paired([9000.0] * 3, [0.0, 0.0, 1e5 * eps], -1, 1).degenerate
    assert equivalence_paired([0.0, 0.0, 1e5 * eps], [9000.0] * 3, -1, 1).degenerate
    large, dust = [9000.0] * 3, [0.0, 0.0, 2000 * eps]
    one, none, shaky = [1.0] * 3, [0.0] * 3, [9000.0, 9000.0, 9000.0 + 1e5 * eps]
    assert retention(shaky, none, none).degenerate
    assert retention(none, shaky, none).degenerate
    assert retention(one, none, shaky).degenerate
    assert not retention(one, none, dust).degenerate
    # An effect of rounding error is none, so that there is no fraction of it.
    assert math.isnan(retention([9000 * (1 + 20 * eps)] * 3, large, large).estimate)
    assert retention([9000 * (1 + 1e-9)] * 3, large, large).estimate == 0
    assert equivalence([1 + 60 * eps] * 3, -1, 1).outcome is INCONCLUSIVE
    assert equivalence([1 + 70 * eps] * 3, -1, 1).outcome is FAIL


@given(triples)
def test_a_poison_without_effect_leaves_nothing_to_judge(arms):
    _, r, u = arms
    result = retention(r, r, u)
    assert (result.outcome, result.reason, result.p_bite) == (INCONCLUSIVE, "no-bite", 1.0)
    assert math.isnan(result.estimate)
    assert result.interval == (-INF, INF)
    better = [x - 0.5 for x in r]
    assert retention(better, r, u).reason == retention([x + 0.5 for x in r], r, u, direction=-1).reason == "no-bite"


@pytest.mark.parametrize("n", [3, 5])
def test_a_saturated_metric_passes_with_a_floor_of_half_a_count(n):
    p, r, u = [1.0] * n, [0.0] * n, [0.0] * n
    result = retention(p, r, u, sd_floor=0.5 / 50)
    assert (result.outcome, result.degenerate, result.estimate) == (PASS, False, 0)
    half = stats.t.isf(0.05, n - 1) * 0.01 / math.sqrt(n)
    assert result.interval == close((-half, half))
    doubled = retention([2 * x for x in p], r, u, sd_floor=0.5 / 50)
    assert doubled.interval == close((-half / 2, half / 2))
    assert retention(p, r, u).degenerate
    assert retention(p, r, u).outcome is PASS
    assert retention(p, r, p, sd_floor=0.5 / 50).outcome is FAIL


def test_the_interval_without_an_effect_to_divide_by_is_infinite():
    assert fieller([1, 2, 3], [-1, 0, 1]) == (-INF, INF)
    assert fieller([1, 2, 3], [0, 0, 0]) == (-INF, INF)
    assert fieller([1], [1]) == fieller([], []) == fieller([1, NAN], [1, 1]) == fieller([1, 1], [1, INF]) == (-INF, INF)
    low, high = fieller([1, 2], [1, 1.1], 0.3)
    assert -INF < low < high < INF


def test_a_p_value_of_exactly_alpha_rejects():
    assert rejects(0.05, 0.05)
    assert rejects(0.05 * (1 + 1e-9), 0.05)
    p = stats.fisher_exact([[3, 0], [0, 3]], alternative="greater").pvalue
    assert p > 0.05  # 1/20, but for rounding
    assert rejects(float(p), 0.05)
    assert not rejects(0.05 + 1e-9, 0.05)
    d = [0.1, 0.5, 0.4, 0.9]
    result = equivalence(d, -2, 1)
    assert equivalence(d, -2, 1, alpha=result.p_pass).outcome is PASS
    beyond = equivalence(d, -2, 0.2)
    assert equivalence(d, -2, 0.2, alpha=beyond.p_fail).outcome is FAIL


# ---- the plain API


def test_results_are_plain_python():
    arms = np.random.default_rng(0).normal(0, 0.1, (3, 5))
    arms[0] += 3
    for result in (
        equivalence(arms[0], 2, 4), equivalence([], -1, 1), equivalence([NAN], -1, 1),
        equivalence_paired(arms[2], arms[1], -np.float64(1), np.float64(1), sd_floor=np.float64(2)),
        retention(*arms, tau=np.float64(0.2), sd_floor=np.float64(2), alpha=np.float64(0.1)),
    ):  # fmt: skip
        json.dumps(asdict(result))
        fields = [*astuple(result), *result.interval, *result.bounds]
        assert {type(x) for x in fields} <= {Outcome, str, float, int, tuple, bool, type(None)}
        assert type(result.degenerate) is type(rejects(np.float64(0.1), np.float64(0.1))) is bool
        assert {type(x) for x in (*result.bounds, *result.interval, result.df, result.se)} == {float}
        with pytest.raises(FrozenInstanceError):
            result.outcome = PASS
    numbers = [
        tost_power(5, 1, 1), bad_seed_bound(5), mu_lower([4.0]), eps_lower_single(1e-4), one_run_eps(9, 9, 9),
        *clopper_pearson(0, 5), *clopper_pearson(1, 5), *fieller([1, 2, 3], [9, 8, 9]), *holm([0.1]),
    ]  # fmt: skip
    assert {type(x) for x in numbers} == {float}
    assert type(seeds_needed(1, 1)) is int


def test_importing_is_cheap():
    code = "import harness.statistics, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "scipy.special" in modules
    assert not {"torch", "scipy.stats", "scipy.optimize"} & set(modules)


def test_every_public_name_is_there_and_described():
    for name in harness.statistics.__all__:
        public = getattr(harness.statistics, name)
        assert name == "Why" or public.__doc__


@given(st.integers(1, 12), st.integers(0, 12), st.floats(0.01, 0.49))
def test_clopper_pearson_bounds_mirror_and_invert_the_binomial(n, k, alpha):
    k = min(k, n)
    low, high = clopper_pearson(k, n, 1 - 2 * alpha)
    assert (low, high) == close(tuple(1 - x for x in reversed(clopper_pearson(n - k, n, 1 - 2 * alpha))))
    assert 0 <= low < high <= 1
    assert low == 0 if k == 0 else stats.binom.sf(k - 1, n, low) == pytest.approx(alpha)
    assert high == 1 if k == n else stats.binom.cdf(k, n, high) == pytest.approx(alpha)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusted_p_values_keep_the_order_and_do_not_shrink(p):
    adjusted = holm(p)
    assert all(a <= b <= 1 for a, b in zip([x * (1 - 1e-12) for x in p], adjusted, strict=True))
    assert [b for _, b in sorted(zip(p, adjusted, strict=True))] == sorted(adjusted)


@given(st.integers(2, 40), st.floats(0.1, 5), st.floats(0, 5), level, st.booleans())
def test_power_is_a_probability_that_grows_with_seeds_and_margin(n, margin, sd, alpha, two_sided):
    power = tost_power(n, margin, sd, alpha, two_sided)
    assert 0 <= power <= 1
    assert tost_power(n, margin * 1.1, sd, alpha, two_sided) >= power - 1e-8
    if not two_sided:  # two-sided power may fall with a seed more, where it is next to nothing
        assert tost_power(n + 1, margin, sd, alpha, two_sided) >= power - 1e-8
        assert tost_power(n, margin, sd, alpha) <= power + 1e-8


@given(st.integers(2, 30), st.floats(0.1, 5), st.floats(0.01, 5), level, st.floats(-6, 6))
def test_power_at_a_mean_that_is_not_zero(n, margin, sd, alpha, true):
    both = tost_power(n, margin, sd, alpha, true=true)
    assert both == pytest.approx(tost_power(n, margin, sd, alpha, true=-true), abs=1e-8)
    sides = [tost_power(n, margin, sd, alpha, two_sided=False, true=x) for x in (true, -true)]
    assert sum(sides) - 1 - 1e-8 <= both <= min(sides) + 1e-8
    if true < margin:  # to one side, a mean is as good as a margin that is nearer
        assert sides[0] == pytest.approx(tost_power(n, margin - true, sd, alpha, two_sided=False), abs=1e-8)


def test_power_without_spread_is_certain():
    for true, passes in ((0.9, 1), (1.0, 0), (-1.0, 0), (-2.0, 0)):
        assert tost_power(3, 1, 0, true=true) == passes
    assert tost_power(3, 1, 0, two_sided=False, true=-2.0) == 1
    assert tost_power(3, 1, 0) == tost_power(3, 1, 0, two_sided=False) == 1
    assert seeds_needed(1, 0) == 3


def test_seeds_needed_is_the_first_number_that_suffices():
    n = seeds_needed(1, 1.3, 0.02, 0.7)
    assert tost_power(n - 1, 1, 1.3, 0.02) < 0.7 <= tost_power(n, 1, 1.3, 0.02)
    assert seeds_needed(1, 1.3, power=tost_power(7, 1, 1.3)) == 7
    assert seeds_needed(0.09261, 1) == 1000  # the limit
    assert seeds_needed(0.09256, 1) is None  # 1001 would do
    assert tost_power(1001, 0.09256, 1) > 0.8


def test_a_p_value_of_one_is_one():
    assert holm([1.0]) == [1.0]
    assert holm([0.0, 1.0]) == [0.0, 1.0]


def test_lower_bounds_prove_nothing_without_evidence():
    assert mu_lower([]) == mu_lower([NAN, 5.0]) == mu_lower([INF]) == 0
    assert eps_lower_single(0.0) == INF
    assert eps_lower_single(0.9) == eps_lower_single(0.01, 0.05, 0.05) == eps_lower_single(0.0, 0.05, 0.06) == 0
    assert eps_lower_single(0.05, 0.05, 0.0) == eps_lower_single(1.0) == 0


@given(st.integers(1, 60), st.data(), st.floats(0.01, 0.4), st.sampled_from([0, 1e-6, 1e-3]))
def test_more_right_guesses_prove_more(r, data, alpha, delta):
    v = data.draw(st.integers(0, r - 1))
    assert one_run_eps(r, r, v, alpha, delta) <= one_run_eps(r, r, v + 1, alpha, delta) + 1e-9
    assert one_run_eps(r + 5, r, v, alpha, delta) <= one_run_eps(r, r, v, alpha, delta) + 1e-9


THREE = [0.0, 0.1, 0.2]
BOUNDS = "the bounds must be in order and not both infinite, not "
LENGTHS = "paired runs must come in equal numbers, but "
ERRORS = [
    (lambda: equivalence(THREE, 1, 1), BOUNDS + "(1, 1)."),
    (lambda: equivalence(THREE, 1, 0), BOUNDS + "(1, 0)."),
    (lambda: equivalence(THREE, -INF, INF), BOUNDS + "(-inf, inf)."),
    (lambda: equivalence(THREE, NAN, 1), BOUNDS + "(nan, 1)."),
    (lambda: equivalence(THREE, -1, NAN), BOUNDS + "(-1, nan)."),
    (lambda: equivalence(THREE, -1, 1, alpha=0), "alpha must be in (0, 0.5), not 0."),
    (lambda: equivalence(THREE, -1, 1, alpha=0.5), "alpha must be in (0, 0.5), not 0.5."),
    (lambda: equivalence(THREE, -1, 1, alpha=NAN), "alpha must be in (0, 0.5), not nan."),
    (lambda: fieller(THREE, THREE, 0.5), "alpha must be in (0, 0.5), not 0.5."),
    (lambda: equivalence(THREE, -1, 1, sd_floor=-0.1), "sd_floor must be finite and at least 0, not -0.1."),
    (lambda: equivalence(THREE, -1, 1, sd_floor=INF), "sd_floor must be finite and at least 0, not inf."),
    (lambda: equivalence_paired(THREE, THREE[:2], -1, 1), LENGTHS + "u has 3, r has 2."),
    (lambda: retention(THREE, THREE, []), LENGTHS + "p has 3, r has 3, u has 0."),
    (lambda: retention([], THREE, THREE), LENGTHS + "p has 0, r has 3, u has 3."),
    (lambda: fieller(THREE, []), LENGTHS + "q has 3, e has 0."),
    (lambda: retention(THREE, THREE, THREE, tau=1), "tau must be in [0, 1), not 1."),
    (lambda: retention(THREE, THREE, THREE, tau=-0.1), "tau must be in [0, 1), not -0.1."),
    (lambda: retention(THREE, THREE, THREE, tau_over=-0.1), "tau_over must be at least 0, not -0.1."),
    (lambda: retention(THREE, THREE, THREE, tau_over=NAN), "tau_over must be at least 0, not nan."),
    (lambda: retention(THREE, THREE, THREE, direction=0), "direction must be +1 or -1, not 0."),
    (lambda: tost_power(1, 1, 1), "n must be at least 2, not 1."),
    (lambda: tost_power(5, 0, 1), "margin must be positive and sd at least 0, not 0 and 1."),
    (lambda: tost_power(5, INF, 1), "margin must be positive and sd at least 0, not inf and 1."),
    (lambda: tost_power(5, 1, -1), "margin must be positive and sd at least 0, not 1 and -1."),
    (lambda: tost_power(5, 1, INF), "margin must be positive and sd at least 0, not 1 and inf."),
    (lambda: tost_power(5, NAN, 1), "margin must be positive and sd at least 0, not nan and 1."),
    (lambda: tost_power(5, 1, 1, true=INF), "true must be finite, not inf."),
    (lambda: tost_power(5, 1, 1, alpha=0.5), "alpha must be in (0, 0.5), not 0.5."),
    (lambda: seeds_needed(1, 1, power=1), "power must be in (0, 1), not 1."),
    (lambda: seeds_needed(1, 1, power=0), "power must be in (0, 1), not 0."),
    (lambda: bad_seed_bound(-1), "n must be at least 0, not -1."),
    (lambda: holm([0.1, 1.1]), "a p-value must be in [0, 1], not 1.1."),
    (lambda: holm([NAN]), "a p-value must be in [0, 1], not nan."),
    (lambda: clopper_pearson(4, 3), "a count must satisfy 0 <= k <= n with n >= 1, not k=4, n=3."),
    (lambda: clopper_pearson(0, 0), "a count must satisfy 0 <= k <= n with n >= 1, not k=0, n=0."),
    (lambda: clopper_pearson(1, 2, 1), "conf must be in (0, 1), not 1."),
    (lambda: mu_lower([1.0], 1), "alpha must be in (0, 1), not 1."),
    (lambda: eps_lower_single(0.1, 0), "alpha must be in (0, 1), not 0."),
    (lambda: eps_lower_single(1.1), "p_null must be in [0, 1], not 1.1."),
    (lambda: eps_lower_single(-0.1), "p_null must be in [0, 1], not -0.1."),
    (lambda: eps_lower_single(NAN), "p_null must be in [0, 1], not nan."),
    (lambda: eps_lower_single(0.1, 0.05, 1), "delta must be in [0, 1), not 1."),
    (lambda: eps_lower_single(0.1, 0.05, -0.1), "delta must be in [0, 1), not -0.1."),
    (lambda: one_run_eps(3, 2, 3), "counts must satisfy 0 <= v <= r <= m, not v=3, r=2, m=3."),
    (lambda: one_run_eps(3, 4, 3), "counts must satisfy 0 <= v <= r <= m, not v=3, r=4, m=3."),
    (lambda: one_run_eps(3, 2, -1), "counts must satisfy 0 <= v <= r <= m, not v=-1, r=2, m=3."),
    (lambda: one_run_eps(3, 2, 1, 1), "alpha must be in (0, 1), not 1."),
    (lambda: one_run_eps(3, 2, 1, 0.05, 1), "delta must be in [0, 1), not 1."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[f"{i}-{m.split()[0]}" for i, (_, m) in enumerate(ERRORS)])
def test_bad_arguments_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared whole
        call()
    assert str(error.value) == message
