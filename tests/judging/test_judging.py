"""From evidence to a judgement: the looks of the plan, the levels at each, the oracle's gate."""

import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import optimize, stats

from harness import registry
from harness.api import Measure, Outcome
from harness.judging.claims import Criterion
from harness.judging.judge import doses, judge, judge_budget, seeds_to_decide
from harness.judging.plan import LOOKS, Plan
from harness.judging.verdict import AuditFailure, Evidence, InconclusiveAudit, Verdict
from harness.judging.yardsticks import CPU_FLOOR, shares
from harness.studies.study import Study
from harness.trials.lab import Lab

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
NAN, INF = math.nan, math.inf

LEFT = Measure("left", "what is left", worse="higher", test="retention")
RIGHT = Measure("right", "what is right", worse="lower", test="non-inferiority")
ERROR = Measure("error", "error", worse="higher", test="non-inferiority")
RETENTION = Criterion(LEFT, 0.2, 2)
ACCURACY = Criterion(RIGHT, 0.01, 2)
PLAN = Plan()


def cycle(values, n=16):
    return tuple(values[i % len(values)] for i in range(n))


SMALL = (0.0, 0.01, -0.01, 0.02, -0.02)
P = tuple(1 + x for x in cycle((0.01, -0.02, 0.0, 0.02, -0.01)))
R = cycle(SMALL)
GOOD = tuple(r + x for r, x in zip(R, cycle((0.01, 0.03, 0.02)), strict=True))  # 2 % is left
BAD = tuple(r + x for r, x in zip(R, cycle((0.9, 0.92, 0.88)), strict=True))
EDGE = tuple(r + x for r, x in zip(R, cycle((0.0, 0.4, 0.1, 0.3)), strict=True))  # on the margin
NEAR = tuple(r + x for r, x in zip(R, cycle((0.0, 0.3, 0.05, 0.25)), strict=True))  # a PASS seems near to the end


def made(p, r, u, oracle, resolution=0.0, wrecked=None, unusable=()):
    """Return evidence whose wreck is one: far below the retrained models."""
    wreck = tuple(x - 0.9 for x in r) if wrecked is None else wrecked
    return Evidence(p, r, u, oracle, wreck, unusable, resolution)


def evidence(u, p=P, r=R, oracle=GOOD, resolution=0.0):
    return made(p, r, u, oracle, resolution)


def spliced(first, *rest):
    """Return 16 numbers of which the parts begin at the given seeds: ``spliced(a, (5, b))``."""
    values = list(first)
    for start, other in rest:
        values[start:] = other[start:]
    return tuple(values)


def said(judgement):
    return judgement.outcome, judgement.reason, judgement.seeds


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


def spread(mean, t, n):
    """Return n differences with a given mean and t statistic."""
    shape = [x - (n - 1) / 2 for x in range(n)]
    sd = math.sqrt(sum(x * x for x in shape) / (n - 1))
    scale = abs(mean) * math.sqrt(n) / (t * sd)
    return [mean + scale * x for x in shape]


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


# ---- the order of reasons


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("arm", ["poisoned", "retrained"])
def test_a_reference_without_a_number_leaves_nothing_to_judge_by(bad, arm):
    for u in (GOOD, BAD, (NAN,) * 16):
        broken = replace(evidence(u), **{arm: spliced(P if arm == "poisoned" else R, (1, (bad,) * 16))})
        judgement = judge(RETENTION, broken, PLAN)
        assert said(judgement) == (INCONCLUSIVE, "nonfinite-reference", 3)
        assert judgement.final


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(("seed", "look"), [(0, 3), (2, 3), (3, 5), (4, 5)])
def test_a_diverged_model_fails_at_the_look_that_sees_it(bad, seed, look):
    u = (*GOOD[:seed], bad, *GOOD[seed + 1 :])
    judgement = judge(RETENTION, evidence(u), PLAN)
    assert said(judgement) == (FAIL, "diverged", look)
    assert judgement.final
    assert judgement.level == pytest.approx(0.05 / 5 / 2)
    assert judgement.result.worst == seed


def test_a_divergence_beyond_the_conclusion_is_not_seen():
    assert said(judge(RETENTION, evidence(spliced(GOOD, (5, (NAN,) * 16))), PLAN)) == (PASS, "equivalent", 5)
    assert said(judge(RETENTION, evidence(spliced(BAD, (3, (NAN,) * 16))), PLAN)) == (FAIL, "poison-left", 3)


@pytest.mark.parametrize("u", [GOOD, BAD, EDGE], ids=["good", "bad", "edge"])
def test_where_the_oracle_fails_nothing_is_judged(u):
    judgement = judge(RETENTION, evidence(u, oracle=BAD), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "oracle-fails", 3)
    assert judgement.final


def test_an_oracle_that_diverges_fails():
    assert judge(RETENTION, evidence(GOOD, oracle=(NAN,) * 16), PLAN).reason == "oracle-fails"


def test_a_failure_said_before_the_oracle_failed_stands():
    oracle = (*GOOD[:3], *(3.0,) * 13)
    assert said(judge(RETENTION, evidence(BAD, oracle=oracle), PLAN)) == (FAIL, "poison-left", 3)


def test_a_method_can_fail_before_the_oracle_has_passed():
    assert judge(RETENTION, evidence(BAD, oracle=EDGE), PLAN).outcome is FAIL


def test_nothing_passes_while_the_oracle_has_not():
    judgement = judge(RETENTION, evidence(GOOD, oracle=EDGE), PLAN)
    assert judgement.outcome is INCONCLUSIVE
    assert judgement.reason == "oracle-not-pass"
    assert judgement.final
    assert not judge(RETENTION, evidence(GOOD, oracle=EDGE).first(12), PLAN).final


LATE = (0.3, -0.3, 0.25, -0.25, 0.0, *(0.0,) * 11)  # an oracle that is clear only after some more seeds


def test_the_late_oracle_is_late():
    assert said(judge(RETENTION, evidence(tuple(r + x for r, x in zip(R, LATE, strict=True))), PLAN)) == (
        PASS,
        "equivalent",
        12,
    )


AWFUL = tuple(5 + x for x in BAD)  # seven of them among twelve would be a FAIL


@pytest.mark.parametrize("later", [GOOD, BAD, EDGE, AWFUL], ids=["good", "bad", "edge", "awful"])
def test_a_pass_is_latched_while_the_oracle_is_awaited(later):
    oracle = tuple(r + x for r, x in zip(R, LATE, strict=True))
    both = evidence(spliced(GOOD, (5, later)), oracle=oracle)
    for n in (5, 8):
        waiting = judge(Criterion(LEFT, 0.2), both.first(n), PLAN)
        assert (waiting.outcome, waiting.reason, waiting.final) == (INCONCLUSIVE, "oracle-not-pass", False)
        assert (waiting.seeds, waiting.looked) == (5, n)
    for n in (12, 16):
        confirmed = judge(Criterion(LEFT, 0.2), both.first(n), PLAN)
        assert said(confirmed) == (PASS, "equivalent", 5)
        assert confirmed.looked == 12


def test_a_latched_pass_does_not_mind_that_a_later_seed_is_unusable():
    oracle = tuple(r + x for r, x in zip(R, LATE, strict=True))
    unusable = ("",) * 5 + ("masked-gradients",) * 11
    assert said(judge(RETENTION, made(P, R, GOOD, oracle, unusable=unusable), PLAN)) == (PASS, "equivalent", 5)


def test_what_happens_while_the_oracle_is_awaited_does_not_depend_on_what_comes_after():
    oracle = tuple(r + x for r, x in zip(R, LATE, strict=True))
    both = evidence((*GOOD[:6], NAN, *GOOD[7:]), oracle=oracle)
    early, late = judge(RETENTION, both.first(8), PLAN), judge(RETENTION, both, PLAN)
    assert early.outcome is not PASS
    assert not early.final or repr(early) == repr(late)


def test_an_oracle_that_fails_later_takes_the_latched_pass_away():
    oracle = (*EDGE[:5], *(3.0 + x for x in cycle(SMALL, 11)))
    judgement = judge(RETENTION, evidence(GOOD, oracle=oracle), PLAN)
    assert (judgement.outcome, judgement.reason) == (INCONCLUSIVE, "oracle-fails")


@pytest.mark.parametrize("p", [R, tuple(r - 1 for r in R)], ids=["nothing", "wrong way"])
@pytest.mark.parametrize("u", [GOOD, BAD, P, R], ids=["good", "bad", "as poisoned", "as retrained"])
def test_a_poison_that_does_not_bite_leaves_nothing_to_judge(p, u):
    judgement = judge(RETENTION, evidence(u, p=p), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "no-bite", 16)
    assert judgement.final


def test_a_bite_that_was_shown_stays_shown():
    # Clear at three seeds; at five a single seed where poisoning went the other way hides it.
    p = (*P[:3], -40.0, *P[4:])
    r = (0.0,) * 16
    u = tuple(0.2 * x + y for x, y in zip(p, cycle((-0.2, 0.2, 0.0, -0.1, 0.1)), strict=True))
    first = judge(RETENTION, made(p, r, u, r).first(3), PLAN)
    later = judge(RETENTION, made(p, r, u, r).first(5), PLAN)
    assert first.reason != "no-bite"
    assert later.result.p_bite > 0.05
    assert later.reason != "no-bite"


# ---- properties

number = st.integers(-60, 60).map(lambda i: i / 1000)
noise = st.lists(number, min_size=16, max_size=16)
weird = st.sampled_from([NAN, INF, 5.0, -5.0])


@st.composite
def evidences(draw, identity=False):
    left, oracle_left = (draw(st.sampled_from([0.0, 0.05, 0.15, 0.2, 0.25, 0.4, 1.0])) for _ in "uo")
    effect = draw(st.sampled_from([1.0, 1.0, 0.1, 0.0, -1.0]))
    r = draw(noise)
    p, u, o = (
        [base + a + b for a, b in zip(r, draw(noise), strict=True)]
        for base in (effect, left * effect, oracle_left * effect if draw(st.booleans()) else 0.0)
    )
    for arm in (u, o, p, r):
        if draw(st.integers(0, 9)) == 0:
            arm[draw(st.integers(0, 15))] = draw(weird)
    if identity:
        u = p
    return made(tuple(p), tuple(r), tuple(u), tuple(o), draw(st.sampled_from([0.0, 0.005])))


claims = st.builds(
    Criterion, st.sampled_from([LEFT, RIGHT, ERROR]), st.sampled_from([0.05, 0.2, 0.5]), st.integers(1, 3)
)
plans = st.builds(
    Plan,
    seeds=st.sampled_from(LOOKS),
    alpha=st.sampled_from([0.05, 0.01, 0.3]),
    futility=st.sampled_from([0.1, 0, 0.5]),
)


@given(claims, evidences(), evidences(), plans, st.integers(0, 16))
def test_later_seeds_cannot_change_a_final_judgement(claim, first, other, plan, n):
    before = judge(claim, first.first(n), plan)
    assume(before.final)
    arms = ("poisoned", "retrained", "unlearned", "oracle")
    mixed = made(*(getattr(first, a)[:n] + getattr(other, a)[n:] for a in arms), first.resolution)
    for m in range(n, 17):
        assert repr(judge(claim, mixed.first(m), plan)) == repr(before)


@given(claims, evidences(), plans, st.integers(0, 16))
def test_every_verdict_is_final_and_no_other_is_before_the_end(claim, found, plan, n):
    judgement = judge(claim, found.first(n), plan)
    stopped = judgement.reason in ("oracle-fails", "wrecked-passes", "nonfinite-reference", "futile")
    at_end = n >= plan.looks[-1]
    assert judgement.final == (judgement.outcome is not INCONCLUSIVE or stopped or at_end)


@given(claims, evidences(), plans)
def test_nothing_passes_before_five_seeds_or_fails_before_three(claim, found, plan):
    for n in range(17):
        judgement = judge(claim, found.first(n), plan)
        assert judgement.outcome is not PASS or (n >= 5 and judgement.seeds >= 5)
        assert judgement.outcome is not FAIL or (n >= 3 and judgement.seeds >= 3)
        assert judgement.seeds in (*LOOKS, 0, 1, 2)
        assert judgement.seeds <= n


@given(claims, evidences(), plans)
def test_a_plan_cut_short_is_only_more_cautious(claim, found, plan):
    short = judge(claim, found, plan)
    whole = judge(claim, found, replace(plan, seeds=16))
    if short.outcome is not INCONCLUSIVE:
        assert repr(short) == repr(whole)
        assert short.seeds <= plan.seeds


@given(claims, evidences(), plans)
def test_a_smaller_alpha_turns_no_verdict_round(claim, found, plan):
    outcomes = {judge(claim, found, replace(plan, alpha=alpha)).outcome for alpha in (plan.alpha, plan.alpha / 10)}
    assert outcomes != {PASS, FAIL}


@given(evidences(identity=True), plans, st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 16))
def test_doing_nothing_never_passes(found, plan, margin, n):
    assert judge(Criterion(LEFT, margin), found.first(n), plan).outcome is not PASS


#: A method passes at 5 seeds of an oracle that, judged as a method, would be stopped early: as a gate it is not.
STOPPED_EARLY = Evidence(
    poisoned=(0.1,) * 4 + (0.059,) + (0.1,) * 11,
    retrained=(0.0,) * 16,
    unlearned=(0.0,) * 16,
    oracle=(0.02,) * 3 + (0.044, 0.08) + (0.02,) * 11,
    wrecked=(-0.9,) * 16,
)


@given(claims, evidences(), plans)
@example(Criterion(LEFT, 0.5), STOPPED_EARLY, Plan(seeds=12))
def test_nothing_passes_unless_the_oracle_passes_where_it_is_judged_to_the_end(claim, found, plan):
    if judge(claim, found, plan).outcome is PASS:
        assert judge(claim, found.of(found.oracle), plan.to_the_end).outcome is PASS


def test_the_oracle_as_a_gate_is_judged_to_the_end_and_as_a_method_is_stopped_early():
    claim, plan = Criterion(LEFT, 0.5), Plan(seeds=12)
    assert judge(claim, STOPPED_EARLY, plan).outcome is PASS
    assert judge(claim, STOPPED_EARLY.of(STOPPED_EARLY.oracle), plan).reason == "futile"


@given(evidences(), plans, st.integers(1, 3))
def test_more_judged_audits_only_make_a_failure_rarer(found, plan, judged):
    one, more = (judge(Criterion(LEFT, 0.2, j), found, plan) for j in (judged, judged + 1))
    if more.outcome is FAIL:
        assert one.outcome is FAIL or one.reason == "oracle-fails"
        assert one.seeds <= more.seeds


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


# ---- the budget


@pytest.mark.parametrize(
    ("found", "outcome", "reason"),
    [
        ({"examples": 0.0}, PASS, "within-budget"),
        ({"examples": 0.1 + 1e-12}, PASS, "within-budget"),
        ({"examples": 0.1 * (1 + 1e-6)}, PASS, "within-budget"),
        ({"examples": 0.1001}, FAIL, "over-budget"),
        ({"examples": 0.1, "flops": 0.15}, PASS, "within-budget"),
        ({"examples": 0.1, "flops": 0.1501}, FAIL, "over-budget"),
        ({"examples": 0.1, "cpu_seconds": 0.4}, PASS, "within-budget"),
        ({"examples": 0.1, "cpu_seconds": 0.401}, FAIL, "over-budget"),
        ({"examples": 0.1, "steps": 9.0}, PASS, "within-budget"),
    ],
)
def test_the_budget_is_a_bound_by_every_yardstick(found, outcome, reason):
    assert judge_budget(found, 0.1) == (outcome, reason)


@pytest.mark.parametrize(
    ("retraining", "outcome"),
    [((1.0, 1.0), PASS), ((1.009,), PASS), ((1.0, 0.98), INCONCLUSIVE), ((0.0,), INCONCLUSIVE), ((3.0,), INCONCLUSIVE)],
)
def test_a_budget_is_kept_only_where_retraining_is_measured_right(retraining, outcome):
    assert judge_budget({"examples": 0.1}, 0.1, retraining)[0] is outcome
    assert judge_budget({"examples": 0.2}, 0.1, retraining) == (FAIL, "over-budget")


def spent(cpu, seconds=1.0, examples=0.1, first=False):
    fractions = {"examples": examples, "flops": examples, "cpu_seconds": cpu}
    return {"fractions": fractions, "first_call": first, "cpu_seconds": {"U": seconds}}


def test_the_largest_share_of_all_seeds_counts():
    assert shares([spent(0.1, examples=0.1), spent(0.3, examples=0.2)]) == {
        "examples": 0.2, "flops": 0.2, "cpu_seconds": 0.3
    }  # fmt: skip


def test_first_calls_are_not_judged_by_cpu_time_if_there_are_others():
    assert shares([spent(0.9, first=True), spent(0.2), spent(0.1)])["cpu_seconds"] == 0.2
    assert shares([spent(0.9, first=True), spent(0.1, first=True), spent(0.2, first=True)])["cpu_seconds"] == 0.2


def test_little_cpu_time_says_nothing():
    assert "cpu_seconds" not in shares([spent(3.0, seconds=CPU_FLOOR / 2)])
    assert "cpu_seconds" not in shares([spent(3.0, first=True), spent(3.0, seconds=CPU_FLOOR / 2)])
    assert shares([spent(3.0, seconds=CPU_FLOOR)])["cpu_seconds"] == 3.0


# ---- what an audit asserts


def verdict(outcome):
    return Verdict("u", "t", "p", LEFT, outcome, "reason", 0, (0, 1), 0.2, 1, 1, 1, 0.01, (0, 1, 2), {})


@pytest.mark.parametrize("wanted", [PASS, FAIL])
def test_an_audit_asserts_what_it_must_conclude(wanted):
    verdict(wanted).require(wanted)
    other = FAIL if wanted is PASS else PASS
    with pytest.raises(AuditFailure, match=rf"u-t-p: left {other.value} \(reason\)") as caught:
        verdict(other).require(wanted)
    assert not isinstance(caught.value, InconclusiveAudit)


@pytest.mark.parametrize("wanted", [PASS, FAIL])
def test_an_inconclusive_audit_satisfies_nothing(wanted):
    with pytest.raises(InconclusiveAudit, match="u-t-p: left INCONCLUSIVE") as caught:
        verdict(INCONCLUSIVE).require(wanted)
    assert isinstance(caught.value, AssertionError)


# ---- the other controls, and what must not be judged


def test_a_wreck_that_passes_forbids_a_verdict_on_accuracy():
    judgement = judge(ACCURACY, made(R, R, R, R, resolution=0.001, wrecked=R), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "wrecked-passes", 5)
    assert judgement.final


def test_a_wreck_does_not_matter_to_a_poison():
    assert judge(RETENTION, made(P, R, GOOD, GOOD, wrecked=R), PLAN).outcome is PASS


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=16), st.floats(0, 0.1))
def test_mixtures_are_judged_in_the_order_of_their_poison(pairs, floor):
    p, r = (tuple(x) for x in zip(*pairs, strict=True))
    rank = {PASS: 0, INCONCLUSIVE: 1, FAIL: 2}
    order = [rank[outcome] for outcome in doses(RETENTION, made(p, r, r, r, floor), PLAN)]
    assert order == sorted(order)


@pytest.mark.parametrize("level", [0.0, 5.0])
def test_mixtures_of_a_poison_that_bites_go_from_pass_to_fail(level):
    p, r = (tuple(level + x for x in arm) for arm in (P, R))
    assert doses(RETENTION, made(p, r, r, r), PLAN) == [PASS, PASS, INCONCLUSIVE, FAIL, FAIL]


def test_arms_of_different_seeds_are_not_mixed():
    with pytest.raises(ValueError, match="shorter"):
        doses(RETENTION, evidence(GOOD, r=R[:12]), PLAN)


def turning(*bites):
    """Return evidence of a poison that bites at three seeds and works the other way at all others, and its P."""
    p, r = (*bites, *(-100.0,) * 13), (0.0,) * 16
    u = tuple(0.2 * x + y for x, y in zip(p, cycle((-0.4, 0.2, 0.0, -0.3, 0.1)), strict=True))  # a PASS seems near
    return made(p, r, u, u), p


def test_where_doing_nothing_passes_nothing_is_judged():
    # The bite is held against alpha / 5 and a FAIL against half of that, so that at three seeds P need not have failed.
    both, p = turning(0.8, 1.0, 1.2)
    for each in (both, both.of(p)):
        judgement = judge(RETENTION, each, PLAN)
        assert said(judgement) == (INCONCLUSIVE, "identity-passes", 8)
        assert judgement.final
    assert said(judge(RETENTION, both.first(7), PLAN)) == (INCONCLUSIVE, "need-more-seeds", 5)


def test_where_mixtures_are_not_judged_in_the_order_of_their_poison_nothing_is():
    both, _ = turning(0.99, 1.0, 1.01)
    assert doses(RETENTION, both, PLAN) == [FAIL, FAIL, INCONCLUSIVE, FAIL, FAIL]
    judgement = judge(RETENTION, both, PLAN)
    assert said(judgement) == (INCONCLUSIVE, "dose-not-monotone", 12)
    assert judgement.final
    assert said(judge(RETENTION, both.first(11), PLAN)) == (INCONCLUSIVE, "need-more-seeds", 8)


@pytest.mark.parametrize("reason", ["masked-gradients", "null-not-exact"])
def test_an_unusable_seed_forbids_a_verdict(reason):
    unusable = ("", "", reason) + ("",) * 13
    judgement = judge(RETENTION, made(P, R, BAD, GOOD, unusable=unusable), PLAN)
    assert said(judgement) == (INCONCLUSIVE, reason, 3)
    assert judgement.final


def test_a_seed_that_was_not_needed_may_be_unusable():
    unusable = ("",) * 3 + ("masked-gradients",) * 13
    assert judge(RETENTION, made(P, R, BAD, GOOD, unusable=unusable), PLAN).outcome is FAIL


@pytest.mark.parametrize(
    ("left", "level"),
    [
        ((0.0, 0.3, 0.05, 0.25), 0.05 / 4),  # 15 %: a PASS is near
        ((0.05, 0.27, 0.1, 0.22), 0.05 / 4),  # 16 %
        ((0.33, 0.12, 0.38, 0.17), 0.05 / 10),  # 25 %: a FAIL is near
    ],
)
@pytest.mark.parametrize(("wanted", "power"), [({}, 0.8), ({"power": 0.95}, 0.95)])
def test_seeds_to_decide_agree_with_the_power_of_the_test(left, level, wanted, power):
    near = tuple(r + x for r, x in zip(R, cycle(left), strict=True))
    judgement = judge(RETENTION, evidence(near), PLAN)
    assert judgement.reason == "underpowered"
    n = seeds_to_decide(RETENTION, judgement, PLAN, **wanted)
    contrast = [u - r - 0.2 * (p - r) for p, r, u in zip(P, R, near, strict=True)]
    effect = abs(sum(contrast)) / 16 / stats.tstd(contrast)

    def reached(n):
        return stats.nct.sf(stats.t.isf(level, n - 1), n - 1, effect * n**0.5) >= power

    assert reached(n)
    assert not reached(n - 1)


def test_on_the_margin_no_number_of_seeds_is_promised():
    assert (
        seeds_to_decide(
            RETENTION,
            judge(RETENTION, evidence(tuple(r + 0.2 * (p - r) for p, r in zip(P, R, strict=True))), PLAN),
            PLAN,
        )
        is None
    )


def test_an_estimate_on_the_margin_with_spread_promises_no_number_of_seeds():
    r, u = (0.855, 0.9, 0.87, 0.87, 0.865), (0.82, 0.89, 0.875, 0.87, 0.855)  # one point lost on average
    plan = Plan(5)
    judgement = judge(ACCURACY, made(r, r, u, r, 0.0025), plan)
    assert judgement.reason == "need-more-seeds"
    assert seeds_to_decide(ACCURACY, judgement, plan) is None


def test_no_pass_is_promised_before_it_may_be_said():
    judgement = judge(RETENTION, evidence(GOOD).first(3), Plan(3))
    assert judgement.reason == "need-more-seeds"
    assert seeds_to_decide(RETENTION, judgement, Plan(3)) == 5
