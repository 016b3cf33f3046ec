"""The looks of the plan: what is said at each, at what level, and when an audit is given up."""

import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from arms import (
    ACCURACY,
    BAD,
    EDGE,
    ERROR,
    FAIL,
    GOOD,
    INCONCLUSIVE,
    LEFT,
    NAN,
    NEAR,
    PASS,
    PLAN,
    RETENTION,
    RIGHT,
    P,
    R,
    cycle,
    evidence,
    made,
    said,
    spliced,
    spread,
)
from scipy import optimize, stats

from harness import registry
from harness.judging.claims import Criterion
from harness.judging.judge import judge
from harness.judging.plan import Plan
from harness.studies.study import Study
from harness.trials.lab import Lab

# ---- cases by hand


def test_a_clean_method_passes_at_the_first_look_that_may_pass():
    judgement = judge(RETENTION, evidence(GOOD), PLAN)
    assert said(judgement) == (PASS, "equivalent", 5)
    assert judgement.final
    assert judgement.looked == 5
    assert judgement.level == pytest.approx(0.05 / 4)


def test_a_method_that_leaves_the_poison_fails_at_the_first_look():
    judgement = judge(RETENTION, evidence(BAD), PLAN)
    assert said(judgement) == (FAIL, "poison-left", 3)
    assert judgement.final
    assert judgement.looked == 3
    assert judgement.level == pytest.approx(0.05 / 5 / 2)


def test_the_published_example_passes():
    p, r, u = (0.98, 0.99, 0.97, 1, 0.99), (0, 0.01, 0, 0, 0.01), (0.05, 0.08, 0.02, 0.06, 0.04)
    judgement = judge(RETENTION, made(p, r, u, u), PLAN)
    assert said(judgement) == (PASS, "equivalent", 5)
    assert judgement.result.estimate == pytest.approx(0.0468, abs=5e-5)
    assert judgement.result.p_pass == pytest.approx(3.326e-5, rel=1e-3)


def test_a_method_near_the_margin_is_underpowered_at_the_end():
    judgement = judge(RETENTION, evidence(NEAR), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "underpowered", 16)
    assert judgement.final


def test_a_method_near_the_margin_needs_more_seeds_before():
    judgement = judge(RETENTION, evidence(NEAR).first(12), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "need-more-seeds", 12)
    assert not judgement.final
    assert judgement.looked == 12


@pytest.mark.parametrize(("n", "used"), [(3, 3), (4, 3), (5, 5), (7, 5), (8, 8), (11, 8), (12, 12), (15, 12), (16, 16)])
def test_seeds_between_looks_are_not_looked_at(n, used):
    assert judge(RETENTION, evidence(NEAR).first(n), PLAN).seeds == used


# ---- futility


def test_a_method_on_the_margin_is_given_up_at_five_seeds():
    judgement = judge(RETENTION, evidence(EDGE), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "futile", 5)
    assert judgement.final
    assert judge(RETENTION, evidence(EDGE).first(5), PLAN) == judgement


def test_a_plan_cut_short_gives_nothing_up_at_its_last_look():
    assert said(judge(RETENTION, evidence(EDGE), Plan(5))) == (INCONCLUSIVE, "need-more-seeds", 5)
    assert said(judge(RETENTION, evidence(EDGE), Plan(8))) == (INCONCLUSIVE, "futile", 5)


def test_nothing_is_given_up_before_a_pass_could_have_been_said():
    judgement = judge(RETENTION, evidence(EDGE).first(4), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "need-more-seeds", 3)
    assert not judgement.final


@pytest.mark.parametrize(("verdict", "level"), [(PASS, 0.05 / 4), (FAIL, 0.05 / 10)])
def test_an_audit_is_given_up_where_the_last_look_has_a_power_below_a_tenth(verdict, level):
    """The power is that of a one-sided t test of 16 seeds, with what was seen for the truth, from SciPy."""

    def power(distance):
        return stats.nct.sf(stats.t.isf(level, 15), 15, distance * 4)

    at = optimize.brentq(lambda distance: power(distance) - 0.1, 0.01, 1)
    side = 1 if verdict is FAIL else -1
    n, shape = 5, np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / math.sqrt(2.5)  # mean 0, standard deviation 1
    for distance, reason in ((0.98 * at, "futile"), (1.02 * at, "need-more-seeds")):
        left = tuple(0.2 + 0.05 * (shape + side * distance))
        judgement = judge(RETENTION, made((1.0,) * n, (0.0,) * n, left, (0.0,) * n), PLAN)
        assert said(judgement) == (INCONCLUSIVE, reason, 5)


def test_giving_up_changes_no_verdict_and_saves_seeds_on_the_margin():
    generator = np.random.default_rng(0)
    studies = {left: [tuple(generator.normal(left, 0.1, 16)) for _ in range(300)] for left in (0.0, 0.1, 0.2)}
    seeds, lost = {}, {}
    for left, of in studies.items():
        pairs = []
        for u in of:
            arms = made((1.0,) * 16, (0.0,) * 16, u, (0.0,) * 16)
            pairs.append((judge(RETENTION, arms, PLAN), judge(RETENTION, arms, Plan(futility=0))))
        assert all(stopped.reason == "futile" or said(stopped) == said(through) for stopped, through in pairs)
        assert all(through.reason != "futile" for _, through in pairs)
        seeds[left] = [fmean(each.seeds for each in of) for of in zip(*pairs, strict=True)]
        lost[left] = sum(stopped.outcome is not through.outcome for stopped, through in pairs)
    assert lost[0.0] == 0  # two standard deviations inside
    assert lost[0.1] <= 15  # one
    assert seeds[0.2][0] < 9
    assert seeds[0.2][1] > 15


@pytest.mark.parametrize(("name", "futility"), [("retrain", 0.0), ("identity", 0.0), ("scrub", Plan.futility)])
def test_an_audit_of_a_control_is_not_given_up(tmp_path, name, futility):
    cells = registry.cells([registry.resolve("unlearner", name)], [registry.resolve("task", "digits-cnn")])
    study = Study(cells, Lab.open(tmp_path, device="cpu"), PLAN, 0.2)
    assert study._plan_of(cells[0]) == Plan(futility=futility)


def test_controls_are_not_given_up():
    """The oracle comes near the margin at five seeds, passes at twelve, and the method with it."""
    oracle = spliced(EDGE, (5, GOOD))
    judgement = judge(RETENTION, evidence(GOOD, oracle=oracle), PLAN)
    assert (judgement.outcome, judgement.seeds, judgement.looked) == (PASS, 5, 12)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("u", [GOOD, BAD, (NAN,) * 16], ids=["good", "bad", "diverged"])
def test_nothing_is_judged_by_fewer_than_three_seeds(n, u):
    judgement = judge(RETENTION, evidence(u).first(n), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "too-few-seeds", n)
    assert not judgement.final
    assert (judgement.looked, judgement.result.n) == (n, n)
    assert judgement.level == pytest.approx(0.05 / 4)


@pytest.mark.parametrize(("margin", "u", "outcome"), [(0.5, EDGE, PASS), (0.2, EDGE, INCONCLUSIVE), (0.01, GOOD, FAIL)])
def test_the_margin_is_that_of_the_claim(margin, u, outcome):
    assert judge(Criterion(LEFT, margin), evidence(u, oracle=R), PLAN).outcome is outcome


@pytest.mark.parametrize("claim", [RETENTION, Criterion(LEFT, 0.2, 1), Criterion(LEFT, 0.2, 3)])
def test_directions_mirror(claim):
    mirrored = replace(claim, measure=replace(LEFT, worse="lower"))

    def turned(values):
        return tuple(-x for x in values)

    for u in (GOOD, BAD, EDGE, NEAR):
        there = judge(claim, evidence(u), PLAN)
        back = judge(mirrored, evidence(turned(u), turned(P), turned(R), turned(GOOD)), PLAN)
        assert said(there) == said(back)


# ---- levels


@pytest.mark.parametrize(
    ("judged", "p", "fails"),
    [
        (1, 0.0099, True),
        (1, 0.0101, False),
        (2, 0.00499, True),
        (2, 0.00501, False),
        (3, 0.0033, True),
        (3, 0.0034, False),
    ],
)
def test_fail_is_held_against_alpha_over_looks_and_judged_audits(judged, p, fails):
    beyond = spread(0.5, stats.t.isf(p, 2), 3)
    r = (0.9, 0.91, 0.92)
    u = tuple(x - 0.01 - d for x, d in zip(r, beyond, strict=True))
    judgement = judge(Criterion(RIGHT, 0.01, judged), made(r, r, u, r), PLAN)
    assert judgement.result.p_fail == pytest.approx(p, rel=1e-9)
    assert (judgement.outcome is FAIL) == fails


@pytest.mark.parametrize(("p", "passes"), [(0.0124, True), (0.0126, False)])
def test_pass_is_held_against_alpha_over_the_looks_that_may_pass(p, passes):
    inside = spread(0.004, stats.t.isf(p, 4), 5)
    r = (0.9, 0.91, 0.92, 0.93, 0.94)
    u = tuple(x - 0.01 + d for x, d in zip(r, inside, strict=True))
    judgement = judge(ACCURACY, made(r, r, u, r), PLAN)
    assert judgement.result.p_pass == pytest.approx(p, rel=1e-9)
    assert (judgement.outcome is PASS) == passes


@pytest.mark.parametrize(("p", "bites"), [(0.0099, True), (0.0101, False)])
def test_the_bite_is_held_against_alpha_over_the_looks(p, bites):
    effect = spread(1.0, stats.t.isf(p, 2), 3)
    judgement = judge(RETENTION, made(tuple(effect), (0.0,) * 3, (0.0,) * 3, (0.0,) * 3), PLAN)
    assert judgement.result.p_bite == pytest.approx(p, rel=1e-9)
    assert (judgement.reason != "no-bite") == bites


def test_levels_follow_the_plan():
    plan = Plan(alpha=0.2)
    assert judge(RETENTION, evidence(GOOD), plan).level == pytest.approx(0.05)
    assert judge(RETENTION, evidence(BAD), plan).level == pytest.approx(0.02)


@pytest.mark.parametrize("u", [GOOD, BAD])
def test_the_interval_agrees_with_the_verdict_at_its_level(u):
    judgement = judge(RETENTION, evidence(u), PLAN)
    low, high = judgement.result.interval
    assert high < 0.2 if judgement.outcome is PASS else low > 0.2


@pytest.mark.parametrize(
    ("claim", "rest", "level"),
    [
        (RETENTION, (0.01, 0.03, 0.02, 0.03, 0.01), 0.05 / 4),
        (RETENTION, (0.1, 0.4, 0.1), 0.05 / 4),
        (RETENTION, (0.9, 0.92, 0.88), 0.05 / 10),
        (ACCURACY, (0.01, 0.03, 0.02, 0.03, 0.01), 0.05 / 4),
        (ACCURACY, (-0.1, 0.1, 0.0), 0.05 / 4),
        (ACCURACY, (-0.9, -0.92, -0.88), 0.05 / 10),
    ],
)
def test_the_interval_is_that_of_a_t_test_at_the_level(claim, rest, level):
    n = len(rest)
    judgement = judge(claim, made((1.0,) * n, (0.0,) * n, rest, (0.0,) * n), PLAN)
    half = stats.t.isf(level, n - 1) * stats.tstd(rest) / math.sqrt(n)
    assert judgement.level == pytest.approx(level)
    assert judgement.result.interval == pytest.approx((fmean(rest) - half, fmean(rest) + half))


def test_the_resolution_is_a_floor_of_a_poisons_measure():
    p, r, u = (1.0,) * 16, (0.0,) * 16, (0.25,) * 16
    assert judge(RETENTION, made(p, r, u, r, 0.0), PLAN).outcome is FAIL
    assert said(judge(RETENTION, made(p, r, u, r, 0.5), PLAN)) == (INCONCLUSIVE, "futile", 5)


def test_the_resolution_is_a_floor():
    r = (0.9,) * 16
    u = (0.885,) * 16
    assert judge(ACCURACY, made(r, r, u, r, 0.0), PLAN).outcome is FAIL
    assert judge(ACCURACY, made(r, r, u, r, 0.5), PLAN).outcome is INCONCLUSIVE


def test_accuracy_may_be_better_and_error_smaller():
    r = cycle((0.9, 0.91, 0.89))
    better, worse, far = (tuple(x + d for x in r) for d in (0.3, -0.3, 0.9))
    assert judge(ACCURACY, made(r, r, better, r), PLAN).outcome is PASS
    assert judge(ACCURACY, made(r, r, worse, r), PLAN).outcome is FAIL
    assert judge(Criterion(ERROR, 0.01), made(r, r, better, r, wrecked=far), PLAN).outcome is FAIL
    assert judge(Criterion(ERROR, 0.01), made(r, r, worse, r, wrecked=far), PLAN).outcome is PASS


# ---- the plan


def test_levels_add_up_to_alpha():
    plan = Plan(alpha=0.05)
    assert plan.pass_level * 4 == pytest.approx(0.05)
    assert plan.bite_level * 5 == pytest.approx(0.05)
    assert plan.fail_level(2) * 5 * 2 == pytest.approx(0.05)


@pytest.mark.parametrize(("seeds", "looks"), [(3, (3,)), (8, (3, 5, 8)), (16, (3, 5, 8, 12, 16))])
def test_a_plan_cut_short_keeps_its_levels(seeds, looks):
    plan = Plan(seeds)
    assert plan.looks == looks
    assert (plan.pass_level, plan.bite_level, plan.fail_level(2)) == (
        PLAN.pass_level,
        PLAN.bite_level,
        PLAN.fail_level(2),
    )


def test_a_plan_cut_short_ends_with_what_is_missing():
    judgement = judge(RETENTION, evidence(NEAR), Plan(5))
    assert said(judgement) == (INCONCLUSIVE, "need-more-seeds", 5)
    assert judgement.final
    assert said(judge(RETENTION, evidence(GOOD), Plan(3))) == (INCONCLUSIVE, "need-more-seeds", 3)


@pytest.mark.parametrize("seeds", [2, 4, 17])
def test_a_plan_that_ends_between_looks_is_refused(seeds):
    with pytest.raises(ValueError, match=f"the plan takes 3, 5, 8, 12, 16 seeds, not {seeds}"):
        Plan(seeds)


@pytest.mark.parametrize("alpha", [0, 0.5, -0.1, NAN])
def test_a_plan_with_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match=f"alpha must .* not {alpha}"):
        Plan(alpha=alpha)


def test_seeds_are_used_in_a_fixed_order():
    assert list(PLAN.numbers(3)) == [0, 1, 2]
    assert list(Plan(first=100).numbers(4)) == [100, 101, 102, 103]
