"""Evidence that is too little, not finite or without spread, and numbers at the edge of floats."""

import math

import pytest
from drawn import FAIL, INCONCLUSIVE, INF, NAN, PASS, close, triples
from hypothesis import given
from scipy import stats

from harness.statistics import (
    equivalence,
    equivalence_paired,
    fieller,
    rejects,
    retention,
)

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
