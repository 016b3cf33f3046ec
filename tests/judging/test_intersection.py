"""Several traces of one poison: all must pass, one is enough to fail, and nothing beyond the decision has a say."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import Measure, Outcome
from harness.judging.claims import Criterion
from harness.judging.intersection import judge_all
from harness.judging.judge import judge, path
from harness.judging.plan import LOOKS, Plan
from harness.judging.verdict import Evidence

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
LEFT = Criterion(Measure("left", "what is left", "higher", "retention", short="left"), 0.2, 3)
OTHER = Criterion(Measure("other", "what else is left", "higher", "retention", short="other"), 0.2, 3)
KNOWN = Criterion(Measure("known", "what is known", "lower", "exact-null", short="known"), float("nan"), 3, "known")
PLAN = Plan()

NOISE = tuple(0.02 * ((7 * i) % 5 - 2) for i in range(16))
R = NOISE
P = tuple(1 + x for x in NOISE[::-1])
GOOD = tuple(0.01 + x for x in NOISE[3:] + NOISE[:3])
BAD = tuple(0.9 + x for x in GOOD)
EDGE = tuple(0.2 + (0.2 if i % 2 else -0.2) for i in range(16))
OVER = tuple(x - 0.9 for x in GOOD)
SLOW = tuple(0.01 + (0.16 if i % 2 else -0.16) for i in range(16))

Z = (0.3, -0.6, 0.9, -0.2, -0.4, 0.7, -1.1, 0.2, 0.5, -0.3, 0.1, 0.8, -0.9, 0.4, -0.5, 0.2)
KNOWS = tuple(z - 2.5 for z in Z)
BETWEEN = tuple(z - 1.08 for z in Z)


def left(u, p=P, r=R, oracle=GOOD):
    return Evidence(p, r, u, oracle, tuple(x - 50 for x in r))


def known(u, p=KNOWS, r=Z, oracle=Z[::-1]):
    return Evidence(p, r, u, oracle, Z)


def both(one, other, plan=PLAN):
    return judge_all((LEFT, KNOWN), (one, other), plan)


def said(found):
    return found.outcome, found.deciding.reason, found.criteria[found.decides].measure.short, found.looked


def test_a_claim_passes_if_every_trace_passes():
    found = both(left(GOOD), known(Z))
    assert said(found) == (PASS, "equivalent", "left", 5)
    assert [each.reason for each in found.judgements] == ["equivalent", "nothing-found"]
    assert found.final


def test_one_trace_is_enough_to_fail():
    assert said(both(left(GOOD), known(KNOWS))) == (FAIL, "null-rejected", "known", 3)
    assert said(both(left(BAD), known(Z)))[0::2] == (FAIL, "left")
    assert said(both(left(OVER), known(Z)))[:3] == (FAIL, "over-corrected", "left")
    found = both(left(EDGE), known(KNOWS))
    assert (found.outcome, found.seeds, found.final) == (FAIL, 3, True)
    assert not found.judgements[0].final  # what is still open makes no difference


def test_a_pass_waits_for_the_slowest_trace():
    """What has passed is not tested again, whatever later seeds would say of it."""
    first = judge(LEFT, left(GOOD), PLAN)
    later = tuple(x if i < first.seeds else 0.9 for i, x in enumerate(GOOD))
    waits = BETWEEN[:5] + tuple(z + 0.3 for z in Z[5:])  # Z is -2.4 at 5 seeds and -1.7 at 8
    found = both(left(later), known(waits))
    assert found.judgements[0] == first
    assert found.outcome is PASS
    assert found.looked == found.seeds == max(each.seeds for each in found.judgements) > first.seeds == 5


def test_an_exact_null_must_hold_at_the_look_where_the_others_pass():
    """It has more power with every seed: that it held before says nothing of later seeds."""
    rejected = Z[:5] + tuple(z - 2.3 for z in Z[5:8]) + Z[8:]  # Z is 0 at 5 seeds, -2.5 at 8 and -1.7 at 12
    assert judge(LEFT, left(SLOW), PLAN).looked == 8
    assert judge(KNOWN, known(rejected), PLAN).looked == 5
    assert both(left(SLOW), known(rejected), Plan(seeds=8)).outcome is INCONCLUSIVE
    fails = Z[:5] + tuple(z - 4 for z in Z[5:8]) + Z[8:]
    assert said(both(left(SLOW), known(fails))) == (FAIL, "null-rejected", "known", 8)
    assert said(both(left(EDGE), known(fails), PLAN.to_the_end)) == (FAIL, "null-rejected", "known", 8)
    found = both(left(SLOW), known(rejected))
    assert (found.outcome, found.looked) == (PASS, 12)
    found = judge_all((LEFT, OTHER, KNOWN), (left(GOOD), left(SLOW), known(rejected)), PLAN)  # GOOD passes at 5
    assert (found.outcome, found.looked) == (PASS, 12)


def test_a_trace_that_waits_for_the_oracle_rests_on_the_seeds_on_which_it_passed():
    found = judge_all((LEFT, OTHER), (left(GOOD, oracle=EDGE), left(SLOW)), PLAN)
    assert said(found) == (INCONCLUSIVE, "oracle-not-pass", "left", 16)
    assert (found.seeds, found.judgements[1].seeds) == (5, 8)


def test_a_trace_whose_effect_is_not_shown_leaves_the_claim_open():
    found = both(left(GOOD), known(Z, p=Z))
    assert said(found) == (INCONCLUSIVE, "no-bite", "known", 16)
    assert found.judgements[0].outcome is PASS


@pytest.mark.parametrize(
    ("one", "other", "reason", "trace"),
    [
        (left(GOOD, oracle=BAD), known(Z), "oracle-fails", "left"),
        (left(GOOD), known(Z, oracle=KNOWS), "oracle-fails", "known"),
        (left(BAD), known(Z, oracle=KNOWS), "oracle-fails", "known"),  # also where another trace fails
        (left(GOOD), known(KNOWS, r=(float("nan"), *Z[1:])), "nonfinite-reference", "known"),
        (left(BAD), replace(known(KNOWS), unusable=("masked-gradients",) * 16), "masked-gradients", "known"),
    ],
)
def test_a_control_that_misbehaves_on_one_trace_forbids_the_verdict(one, other, reason, trace):
    assert said(both(one, other)) == (INCONCLUSIVE, reason, trace, 3)


def test_the_controls_themselves():
    assert both(left(GOOD), known(Z[::-1])).outcome is PASS  # the oracle
    assert both(left(P), known(KNOWS)).outcome is FAIL  # identity


@given(st.sampled_from([GOOD, BAD, EDGE, OVER]), st.sampled_from([Z, BETWEEN, KNOWS]), st.sampled_from(LOOKS))
@settings(max_examples=60, deadline=None)
def test_nothing_beyond_the_decision_has_a_say(u, z, n):
    """Going on from look to look comes to the same as seeing all seeds at once."""
    whole = both(left(u), known(z))
    part = both(left(u).first(n), known(z).first(n))
    if part.final:
        assert (part.outcome, part.decides, part.judgements) == (whole.outcome, whole.decides, whole.judgements)
    else:
        assert whole.looked > n or not whole.final


@given(st.sampled_from([GOOD, BAD, EDGE, OVER]))
def test_one_trace_alone_is_judged_as_ever(u):
    found = judge_all((LEFT,), (left(u),), PLAN)
    assert found.deciding == judge(LEFT, left(u), PLAN)
    assert (found.final, found.seeds, found.looked) == (
        found.deciding.final, found.deciding.seeds, found.deciding.looked,
    )  # fmt: skip


def test_an_exact_null_is_judged_by_the_plan():
    """It passes at 5 % undivided, fails at the level of a FAIL, and mixtures of its scores are not judged."""
    judgement = judge(KNOWN, known(Z), PLAN)
    assert (judgement.outcome, judgement.seeds, judgement.level) == (PASS, 5, 0.05)
    half = 1.959964 / 5**0.5  # at 1 - level, as a PASS is read from it
    mean = sum(Z[:5]) / 5
    assert judgement.result.interval == pytest.approx((mean - half, mean + half))
    assert path(KNOWN, known(Z), PLAN)[1].pass_interval == judgement.result.interval
    judgement = judge(KNOWN, known(KNOWS), PLAN)
    assert (judgement.outcome, judgement.seeds) == (FAIL, 3)
    assert judgement.level == pytest.approx(0.05 / 5 / 3)
    judgement = judge(KNOWN, known(BETWEEN), Plan(seeds=5))
    assert (judgement.outcome, judgement.reason) == (INCONCLUSIVE, "need-more-seeds")
    assert 0.05 / 15 < judgement.result.p_fail < 0.05
