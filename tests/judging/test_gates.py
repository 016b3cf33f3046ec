"""What forbids a verdict, what waits for the oracle, and which side of retraining a model is on."""

import math
from dataclasses import replace

import numpy as np
import pytest
from arms import (
    ACCURACY,
    BAD,
    EDGE,
    FAIL,
    GOOD,
    INCONCLUSIVE,
    INF,
    LEFT,
    NAN,
    NEAR,
    PASS,
    PLAN,
    RETENTION,
    SMALL,
    P,
    R,
    cycle,
    evidence,
    made,
    said,
    spliced,
    spread,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness import registry
from harness.cells import certified_by
from harness.judging.claims import Criterion
from harness.judging.judge import doses, judge, seeds_to_decide
from harness.judging.plan import LOOKS, Plan
from harness.judging.record import residue
from harness.specs import SpecError

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


@pytest.mark.parametrize("bites", [(0.8, 1.0, 1.2), (0.99, 1.0, 1.01)])
def test_a_poison_that_turns_round_passes_neither_a_method_nor_doing_nothing(bites):
    both, p = turning(*bites)
    assert judge(RETENTION, both, PLAN).outcome is not PASS
    assert judge(RETENTION, both.of(p), PLAN).outcome is not PASS
    order = [{PASS: 0, INCONCLUSIVE: 1, FAIL: 2}[outcome] for outcome in doses(RETENTION, both, PLAN)]
    assert order == sorted(order)


# ---- models beyond retraining


def reflected(u, r=R):
    """Return the measure of a model as far from retraining as U, on the other side."""
    return tuple(2 * b - a for a, b in zip(u, r, strict=True))


@pytest.mark.parametrize(
    ("u", "verdict"),
    [(P, (FAIL, "over-corrected", 3)), (BAD, (FAIL, "over-corrected", 3)), (GOOD, (PASS, "equivalent", 5))],
    ids=["as poisoned", "bad", "good"],
)
def test_a_method_that_reflects_the_model_through_retraining_is_judged_as_what_it_reflects(u, verdict):
    judgement = judge(RETENTION, evidence(reflected(u)), PLAN)
    assert said(judgement) == verdict
    there = judge(RETENTION, evidence(u), PLAN)
    assert judgement.result.estimate == pytest.approx(-there.result.estimate)
    assert judgement.result.interval == pytest.approx(tuple(-x for x in reversed(there.result.interval)))


@pytest.mark.parametrize("u", [EDGE, NEAR])
def test_the_way_of_a_reflected_method_through_the_plan_is_the_same(u):
    for n in LOOKS:
        there, back = (judge(RETENTION, evidence(each).first(n), PLAN) for each in (u, reflected(u)))
        assert said(there) == said(back)
        assert seeds_to_decide(RETENTION, there, PLAN) == seeds_to_decide(RETENTION, back, PLAN)


def test_the_reason_of_a_failure_does_not_wait_for_the_bite_at_its_own_level():
    """The bite is held against alpha / 5, a FAIL against half of that: its test alone would say "no-bite"."""
    effect = tuple(spread(1.0, stats.t.isf(0.008, 2), 3))
    judgement = judge(RETENTION, made(effect, (0.0,) * 3, (-5.0, -5.01, -4.99), (0.0,) * 3), PLAN)
    assert said(judgement) == (FAIL, "over-corrected", 3)


def test_between_both_margins_a_pass_has_to_clear_both():
    """The power of 16 seeds in the middle of two margins that are near, simulated: next to none."""
    generator = np.random.default_rng(0)
    clear = 0
    for u in generator.normal(0, 0.6, (200, 16)):
        arms = made((1.0,) * 16, (0.0,) * 16, tuple(u), (0.0,) * 16)
        clear += judge(RETENTION, arms, replace(PLAN, futility=0)).outcome is PASS
    assert clear <= 4
    shape = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / math.sqrt(2.5)
    judgement = judge(RETENTION, made((1.0,) * 5, (0.0,) * 5, tuple(0.6 * shape), (0.0,) * 5), PLAN)
    assert said(judgement) == (INCONCLUSIVE, "futile", 5)  # one margin alone has a power of 0.13


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


def test_seeds_to_decide_of_accuracy_look_at_one_margin():
    """Accuracy cannot be too good: the power is that of one t test."""
    r = cycle((0.855, 0.9, 0.87, 0.86))
    u = tuple(x + d for x, d in zip(r, cycle((-0.02, 0.012, -0.016, 0.006)), strict=True))
    judgement = judge(ACCURACY, made(r, r, u, r), PLAN.to_the_end)
    assert judgement.outcome is INCONCLUSIVE
    n = seeds_to_decide(ACCURACY, judgement, PLAN)
    above = [a - b + 0.01 for a, b in zip(u, r, strict=True)]
    effect = sum(above) / 16 / stats.tstd(above)

    def power(n):
        return stats.nct.sf(stats.t.isf(0.05 / 4, n - 1), n - 1, effect * n**0.5)

    assert power(n) >= 0.8 > power(n - 1)


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
    assert judge(ACCURACY, made(r, r, u, r, 0.0025), PLAN).reason == "futile"
    going_on = judge(ACCURACY, made(r, r, u, r, 0.0025), PLAN.to_the_end)
    assert (going_on.reason, going_on.final) == ("need-more-seeds", False)


def test_a_failure_may_be_promised_before_a_pass_could_be():
    beyond = tuple(0.2 + x for x in spread(0.5, 7.5, 3))  # a t statistic of 9.9 decides at three seeds
    judgement = judge(RETENTION, made((1.0,) * 3, (0.0,) * 3, beyond, (0.0,) * 3), Plan(3))
    assert judgement.reason == "need-more-seeds"
    assert seeds_to_decide(RETENTION, judgement, Plan(3)) == 4


def test_no_pass_is_promised_before_it_may_be_said():
    judgement = judge(RETENTION, evidence(GOOD).first(3), Plan(3))
    assert judgement.reason == "need-more-seeds"
    assert seeds_to_decide(RETENTION, judgement, Plan(3)) == 5


def test_a_memory_in_reverse_is_proven_as_one_that_is_not():
    t = [3.0, 2.5, 3.5]
    found = residue(t, 0.05)
    assert found == residue([-x for x in t], 0.05)
    assert found["mu_lower"] == pytest.approx(3.0 - stats.norm.isf(0.05 / 5 / 2) / math.sqrt(3))
    assert found["eps_lower"] == pytest.approx(math.log((0.05 - 1e-5) / (2 * stats.norm.sf(3.0))))
    assert residue([0.1, -0.1], 0.05)["mu_lower"] == residue([0.1, -0.1], 0.05)["eps_lower"] == 0


@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_a_certified_epsilon_stands_beside_what_is_proven_at_its_own_delta(delta):
    found = residue([3.0, 2.5], 0.05, (2.0, delta))
    assert (found["certified_epsilon"], found["certified_delta"]) == (2.0, delta)
    assert found["eps_lower"] == pytest.approx(math.log((0.05 - delta) / (2 * stats.norm.sf(3.0))))
    assert not {"certified_epsilon", "certified_delta"} & set(residue([3.0, 2.5], 0.05))


def certifying(claim):
    def forget(model, request):
        return model

    forget.certifies = claim
    return registry.register("unlearner", forget)


@pytest.mark.parametrize("claim", [(1.0, 1e-5), [8, 0]])
def test_a_claim_is_read_as_two_numbers(claim):
    assert certified_by(certifying(claim)) == tuple(map(float, claim))


@pytest.mark.parametrize(
    "claim", [1.0, (1.0,), (1.0, 1e-5, 0), (-1.0, 1e-5), (1.0, 1.0), (math.nan, 0.0), ("a", 0), "1"]
)
def test_a_claim_that_is_none_is_refused(claim):
    with pytest.raises(SpecError, match=r"declares certifies = .*; it must be \(epsilon, delta\)"):
        certifying(claim)  # before anything is trained


def test_most_methods_claim_nothing():
    assert certified_by(registry.resolve("unlearner", "scrub")) is None
    assert certified_by(registry.resolve("unlearner", "certified:epsilon=3")) == (3.0, 1e-5)
