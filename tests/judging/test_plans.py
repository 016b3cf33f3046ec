"""The quick plan and the reliable one: what each asks for, on evidence of any shape."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.api import Measure, Outcome
from harness.judging.claims import Criterion
from harness.judging.judge import doses, judge, ungated
from harness.judging.plan import LOOKS, MOST_BAD, Plan
from harness.judging.reliable import details_of, too_strict
from harness.judging.verdict import Evidence
from harness.statistics import bad_seed_bound

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
LEFT = Measure("left", "what is left", worse="higher", test="retention")
RIGHT = Measure("right", "what is right", worse="lower", test="non-inferiority")
QUICK, RELIABLE = Plan(), Plan(kind="reliable")


def anylaw():
    file = Path(__file__).parents[2] / "ci" / "benchmarks" / "anylaw.py"
    spec = importlib.util.spec_from_file_location("anylaw", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def left(u, oracle=(0.0,) * 16, resolution=0.0):
    """Return evidence in which P is 1 and R is 0, so that U is what is left."""
    n = len(u)
    return Evidence((1.0,) * n, (0.0,) * n, tuple(u), tuple(oracle[:n]), (0.0,) * n, resolution=resolution)


def said(u, plan, judged=1, **kw):
    judgement = judge(Criterion(LEFT, 0.2, judged), left(u, **kw), plan)
    return judgement.outcome, str(judgement.reason), judgement.seeds


#: Scatter of R' with standard deviation 0.1 and mean 0.
SCATTER = tuple(0.1 * x for x in (1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1))


# ---- known answers


def test_good_seeds_pass_at_five_and_at_sixteen():
    assert said([0.01] * 16, QUICK) == (PASS, "equivalent", 5)
    assert said([0.01] * 16, RELIABLE) == (PASS, "equivalent", 16)


def test_one_seed_on_which_nothing_is_done_forbids_a_reliable_pass():
    u = [0.0] * 15 + [1.0]
    assert said(u, QUICK) == (PASS, "equivalent", 5)  # it never looks at the last seed
    assert said(u, RELIABLE) == (INCONCLUSIVE, "bad-seeds", 16)


def found(u, plan=RELIABLE, claim=None, **kw):
    claim, evidence = claim or Criterion(LEFT, 0.2), replace(left(u), **kw)
    judgement = judge(claim, evidence, plan)
    return details_of(claim, evidence.first(judgement.seeds), plan, judgement.result, judgement.reason)


def test_a_seed_stakes_what_is_left_of_its_own_effect():
    p = (1.0,) * 12 + (2.0,) * 4
    tenth = [0.1 * effect for effect in p]
    assert found(tenth, poisoned=p)["e_pass"] == pytest.approx((0.9 / 0.8) ** 16)
    assert found([0.0] * 16, poisoned=(1.0,) * 15 + (0.0,))["e_pass"] == 1, "no effect on a seed, no evidence"


def test_what_the_reliable_plan_found_is_among_the_details():
    assert found([0.0] * 16) == {"bad_seeds": 0, "e_pass": pytest.approx(1.25**16), "e_fail": 1}
    assert found([0.0] * 14 + [1.0, -0.5])["bad_seeds"] == 2
    assert found([0.5] * 16)["e_fail"] == pytest.approx(1.75**5), "an outcome of five seeds"
    assert found([-0.5] * 16)["e_fail"] == pytest.approx((1 + 0.3 / 1.2) ** 12)
    assert found([0.0] * 16, QUICK) == {}
    assert found([math.nan] * 16) == {}, "it diverged"
    assert found([0.0] * 16, oracle=(0.9,) * 16) == {}, "the oracle fails"
    assert found([0.0] * 16, claim=Criterion(RIGHT, 0.01), wrecked=(-1.0,) * 16) == {"bad_seeds": 0}, "no e-value"
    scores = Measure("known", "what is known", "lower", "exact-null")
    assert found([0.0] * 16, claim=Criterion(scores, math.nan, 1, "known")) == {}, "an exact null"


@pytest.mark.parametrize(("worst", "outcome"), [(0.39, PASS), (0.42, INCONCLUSIVE)])
def test_a_seed_is_bad_beyond_what_the_oracle_s_scatter_explains(worst, outcome):
    """Two standard deviations of the oracle, 0.103, beyond the tolerance of 0.2."""
    assert said([0.0] * 15 + [worst], RELIABLE, oracle=SCATTER)[0] is outcome


def test_over_corrected_seeds_are_bad_too():
    assert said([0.0] * 15 + [-0.5], RELIABLE) == (INCONCLUSIVE, "bad-seeds", 16)


def test_counts_have_a_resolution_below_which_no_seed_is_bad():
    u = [0.0] * 15 + [0.21]
    assert said(u, RELIABLE)[1] == "bad-seeds"
    assert said(u, RELIABLE, resolution=0.006) == (PASS, "equivalent", 16)
    for resolution, reason in ((0.015, "bad-seeds"), (0.024, "equivalent")):  # in the unit of a measure that moved by 4
        wide = Evidence((4.0,) * 16, (0.0,) * 16, tuple(4 * x for x in u), (0.0,) * 16, (0.0,) * 16, (), resolution)
        assert judge(Criterion(LEFT, 0.2), wide, RELIABLE).reason == reason


def test_a_steady_method_near_the_margin_passes_only_by_normality():
    """No seed is bad and the t test is sure; but 0.1 on 8 seeds of 9, and all on the ninth, is 0.2 on average."""
    assert said([0.1, 0.101] * 8, QUICK)[0] is PASS
    assert said([0.1, 0.101] * 8, RELIABLE) == (INCONCLUSIVE, "needs-normality", 16)
    assert (0.9 / 0.8) ** 16 < 1 / 0.075 < (0.93 / 0.8) ** 18
    for judged in (1, 2, 3):  # a PASS is not split over claims: all of them must pass
        assert said([0.05, 0.051] * 8, RELIABLE, judged)[0] is PASS  # (0.95 / 0.8)^16 = 15.6, more than 13.3


def test_a_clear_failure_fails_as_early_as_by_the_quick_plan():
    u = [1.0, 0.99, 0.98] * 5 + [1.0]
    assert said(u, QUICK) == (FAIL, "poison-left", 3)
    assert said(u, RELIABLE) == (FAIL, "poison-left", 3)  # (1 + 0.8 / 0.4)^3 = 27, more than 13.3
    mirrored = [-x for x in u]
    assert said(mirrored, RELIABLE) == (FAIL, "over-corrected", 8)  # (1 + 0.8 / 1.2)^5 = 12.9, below 13.3


def test_a_steady_failure_near_the_margin_takes_more_seeds():
    """It could be a method that is far below on the seeds that are still missing."""
    u = [0.35, 0.351] * 8
    assert said(u, QUICK) == (FAIL, "poison-left", 3)
    assert said(u, RELIABLE) == (FAIL, "poison-left", 12)  # 1.375^8 = 12.8, below 13.3
    assert said(u[:8], Plan(8, kind="reliable")) == (INCONCLUSIVE, "needs-normality", 8)


def test_a_cell_of_several_claims_asks_each_failure_for_more_evidence():
    u = [0.5, 0.501] * 8
    assert said(u, RELIABLE, judged=1)[2] == 5  # 1.75^5 = 16
    assert said(u, RELIABLE, judged=2)[2] == 8  # less than 26.7


def test_a_plan_cut_short_waits():
    assert said([0.01] * 3, Plan(3)) == (INCONCLUSIVE, "need-more-seeds", 3)
    assert said([0.01] * 12, Plan(12, kind="reliable")) == (INCONCLUSIVE, "waits-for-seeds", 12)


def test_a_hopeless_method_is_given_up_by_the_reliable_plan_too():
    assert said([0.0, 0.4, 0.1, 0.3] * 4, RELIABLE)[1:] == ("futile", 8)


def test_accuracy_is_asked_for_good_seeds_and_for_no_e_value():
    kept = [0.95, 0.949, 0.951, 0.95] * 4
    retrained = tuple([0.951, 0.95] * 8)
    oracle = tuple([0.95, 0.951] * 8)

    def judged(unlearned):
        found = Evidence((0.9,) * 16, retrained, tuple(unlearned), oracle, (0.1,) * 16)
        judgement = judge(Criterion(RIGHT, 0.01, 2), found, RELIABLE)
        return judgement.outcome, judgement.reason, judgement.seeds

    assert judged(kept) == (PASS, "equivalent", 16)
    assert judged([*kept[:15], 0.93]) == (INCONCLUSIVE, "bad-seeds", 16)
    assert judged([*kept[:15], 0.9395]) == (PASS, "equivalent", 16), (
        "0.0005 beyond the margin, where R' varies by 0.001"
    )
    assert judged([x - 0.05 for x in kept]) == (FAIL, "outside-margin", 3)
    # A resolution is in the measure's unit, whatever P loses against R.
    one_below = Evidence((0.45,) * 16, (0.95,) * 16, (0.95,) * 15 + (0.93,), (0.95,) * 16, (0.1,) * 16)
    for resolution, reason in ((0.004, "bad-seeds"), (0.008, "equivalent")):
        evidence = replace(one_below, resolution=resolution)
        assert judge(Criterion(RIGHT, 0.01), evidence, RELIABLE).reason == reason


def test_a_reliable_pass_is_the_first_look_that_excludes_a_fifth_of_bad_seeds():
    assert RELIABLE.min_pass == min(n for n in LOOKS if bad_seed_bound(n) <= MOST_BAD)
    assert (QUICK.pass_level, RELIABLE.pass_level) == (pytest.approx(0.0125), pytest.approx(0.05))
    assert RELIABLE.evidence_level == pytest.approx(0.075)
    assert RELIABLE.informing == Plan(futility=0.0)


def test_a_plan_of_another_name_is_refused():
    with pytest.raises(ValueError, match="the plan is quick or reliable, not 'slow'"):
        Plan(kind="slow")


def test_doses_are_monotone_under_the_reliable_plan():
    found = doses(Criterion(LEFT, 0.2), left([0.0] * 16), RELIABLE)
    assert found == [PASS, INCONCLUSIVE, INCONCLUSIVE, FAIL, FAIL]


# ---- properties


fractions = st.lists(st.floats(-1, 2), min_size=16, max_size=16) | st.lists(
    st.floats(-0.05, 0.3), min_size=16, max_size=16
)
scatters = st.lists(st.floats(-0.3, 0.3), min_size=16, max_size=16)


@given(fractions, scatters, st.sampled_from(LOOKS))
def test_nothing_passes_reliably_before_sixteen_seeds(u, oracle, n):
    judgement = judge(Criterion(LEFT, 0.2), left(u[:n], oracle), RELIABLE)
    if judgement.outcome is PASS:
        assert (n, judgement.seeds) == (16, 16)


@given(fractions, scatters)
def test_a_reliable_verdict_is_that_of_t_tests_on_the_same_seeds(u, oracle):
    """Of a PASS at the whole alpha, as there is one look for it; of a FAIL at the level of the quick plan."""
    claim, found = Criterion(LEFT, 0.2), left(u, oracle)
    judgement = ungated(claim, found, RELIABLE)
    if judgement.outcome is PASS:
        assert judgement.result.p_pass <= 0.05 * (1 + 1e-9)
    if judgement.outcome is FAIL:
        quick = ungated(claim, found, replace(QUICK, futility=0.0))
        assert judgement.result.p_fail <= QUICK.fail_level(1) * (1 + 1e-9)
        assert quick.outcome is FAIL or (quick.outcome is PASS and quick.seeds < judgement.seeds)
        assert quick.seeds <= judgement.seeds


@given(fractions, scatters, st.integers(0, 15))
def test_a_seed_on_which_nothing_is_done_never_passes_reliably(u, oracle, i):
    u[i] = 1.0
    assert judge(Criterion(LEFT, 0.2), left(u, oracle), RELIABLE).outcome is not PASS


@given(fractions, scatters, st.floats(0.01, 100), st.booleans())
def test_the_unit_of_the_measure_its_direction_and_its_zero_change_nothing(u, oracle, unit, lower):
    one = judge(Criterion(LEFT, 0.2), left(u, oracle), RELIABLE)
    scale = -unit if lower else unit
    arms = ([scale * (1 + x) for x in arm] for arm in ([1.0] * 16, [0.0] * 16, u, oracle, [0.0] * 16))
    measure = replace(LEFT, worse="lower") if lower else LEFT
    other = judge(Criterion(measure, 0.2), Evidence(*map(tuple, arms)), RELIABLE)
    if not math.isclose(other.result.p_pass, 0.05, rel_tol=1e-6):
        assert (one.outcome, one.reason, one.seeds) == (other.outcome, other.reason, other.seeds)


# ---- the simulation


@pytest.mark.parametrize("kind", ["quick", "reliable"])
@pytest.mark.parametrize(("seeds", "judged", "futility"), [(16, 1, 0.1), (16, 2, 0.0), (8, 2, 0.1)])
def test_the_simulated_plan_agrees_with_the_real_one(kind, seeds, judged, futility):
    module = anylaw()
    plan, rng = Plan(seeds, kind=kind, futility=futility), np.random.default_rng(2)
    for law in (module.LAWS | module.HELD_OUT).values():
        scale = rng.choice([0.2, 1.0, 1.5], (3, 1))
        noise = rng.choice([0.0, 0.1, 0.25], (3, 1))
        u = law(rng, (3, 16)) * scale + noise * rng.normal(size=(3, 16))
        oracle = noise * rng.normal(size=(3, 16))
        outcomes, used = module.walk(u, oracle, plan, judged)
        for i in range(3):
            judgement = judge(Criterion(LEFT, 0.2, judged), left(u[i].tolist(), oracle[i].tolist()), plan)
            assert {PASS: 1, FAIL: -1, INCONCLUSIVE: 0}[judgement.outcome] == outcomes[i]
            assert judgement.seeds == used[i]


def test_the_plans_keep_what_they_promise_where_seeds_are_all_or_nothing():
    """2,000 studies: three Monte Carlo deviations are .01 and .03."""
    module = anylaw()
    law = module.rare(0.2)
    quick, reliable = (module.rates(law, 0.0, 2000, plan)["pass"]["rate"] for plan in (QUICK, RELIABLE))
    assert 0.30 < quick < 0.37
    assert reliable < 0.8**16 + 0.012


def test_every_law_stands_on_the_margin():
    module = anylaw()
    rng = np.random.default_rng(0)
    for name, law in (module.LAWS | module.HELD_OUT).items():
        mean = 0.3 if "30 %" in name else 0.2
        values = law(rng, (200_000, 2))
        assert abs(values.mean() - mean) < 6 * values.std() / math.sqrt(values.size), name


@pytest.mark.parametrize(("alpha", "tolerance"), [(0.05, 0.1), (0.01, 0.2)])
def test_settings_under_which_nothing_could_pass_are_refused(alpha, tolerance):
    assert "16 seeds are too few" in too_strict(Plan(alpha=alpha, kind="reliable"), tolerance)
    assert too_strict(Plan(alpha=alpha), tolerance) == ""
    assert too_strict(Plan(kind="reliable"), 0.2) == ""


def test_the_smallest_tolerance_is_the_one_at_which_16_perfect_seeds_are_enough():
    """1 / (1 - tolerance) on each of 16 seeds comes to 13.3 at 0.1495."""
    assert "16 seeds are too few" in too_strict(RELIABLE, 0.149)
    assert too_strict(RELIABLE, 0.15) == ""
