"""Properties of judging that hold for any evidence."""

from dataclasses import replace

from arms import (
    ERROR,
    FAIL,
    INCONCLUSIVE,
    INF,
    LEFT,
    NAN,
    PASS,
    RIGHT,
    made,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st

from harness.judging.claims import Criterion
from harness.judging.judge import judge
from harness.judging.plan import LOOKS, Plan
from harness.judging.verdict import Evidence

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
