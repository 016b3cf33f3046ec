"""Properties of the test of equivalence."""

import math
from dataclasses import replace

import numpy as np
from drawn import FAIL, INCONCLUSIVE, INF, ORDER, PASS, bounds, close, decided, level, margins, pairs, runs, same, value
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.statistics import (
    equivalence,
    equivalence_paired,
)


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
