"""Planning from a pilot."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import harness
from harness.api import Measure, UnlearningError
from harness.judging.claims import Criterion
from harness.judging.plan import LOOKS, Plan
from harness.judging.verdict import Evidence
from harness.statistics import tost_power
from harness.studies.pilot import PILOT_SEED, forecast_from

LEFT = Criterion(Measure("left", "what is left", worse="higher", test="retention"), 0.2, 2)
NULL = Criterion(Measure("null", "a score", worse="lower", test="exact-null"), math.nan, 2)
RIGHT = Criterion(Measure("right", "what is right", worse="lower", test="non-inferiority"), 0.01, 2)


def pilot(effect, noise, n=12, seed=0):
    """A pilot whose R, R' and P - R vary by ``noise`` about 0, 0 and ``effect``."""
    draws = np.random.default_rng(seed).normal(0, noise, (3, n))
    draws -= draws.mean(axis=1, keepdims=True)
    r, oracle, p = draws[0], draws[1], draws[0] + effect + draws[2]
    return Evidence(*(tuple(x.tolist()) for x in (p, r, oracle, oracle, oracle - 1)))


def test_a_strong_poison_passes_early_and_a_weak_one_does_not():
    strong = forecast_from(LEFT, pilot(effect=1.0, noise=0.02), "p", Plan(), runs=200)
    weak = forecast_from(LEFT, pilot(effect=1.0, noise=0.4), "p", Plan(), runs=200)
    assert strong.passes[5] > 0.95
    assert strong.mean_seeds < 5.5
    assert weak.power < 0.5
    assert strong.effect == pytest.approx(1.0)
    assert strong.effect_sds == pytest.approx(
        1 / np.std(np.array(pilot(1.0, 0.02).poisoned) - pilot(1.0, 0.02).retrained, ddof=1)
    )


def test_power_is_that_of_the_plan_for_known_moments():
    """At one look of five seeds the chance of a PASS follows from the noncentral t."""
    from scipy import stats

    found = forecast_from(LEFT, pilot(effect=1.0, noise=0.05), "p", Plan(), runs=2000)
    evidence = pilot(effect=1.0, noise=0.05)
    contrast = [
        o - r - 0.2 * (p - r) for p, r, o in zip(evidence.poisoned, evidence.retrained, evidence.oracle, strict=True)
    ]
    shift = -np.mean(contrast) / np.std(contrast, ddof=1) * math.sqrt(5)
    expected = 1 - stats.nct.cdf(stats.t.ppf(1 - Plan().pass_level, 4), 4, shift)
    assert found.passes[5] == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize(("noise", "resolution"), [(0.01, 0.0), (0.0, 0.002), (0.0, 0.0)])
def test_the_least_margin_is_where_accuracy_can_just_be_judged(noise, resolution):
    evidence = replace(pilot(effect=-0.1, noise=noise), resolution=resolution)
    found = forecast_from(RIGHT, evidence, "p", Plan(), runs=20).least_margin
    sd = max(np.std(np.subtract(evidence.oracle, evidence.retrained), ddof=1), resolution)
    reached = tost_power(LOOKS[-1], found or 1e-9, sd, Plan().pass_level, two_sided=False)
    assert reached == pytest.approx(0.9 if sd else 1.0, abs=1e-4)
    assert forecast_from(LEFT, evidence, "p", Plan(), runs=20).least_margin is None


@pytest.mark.parametrize("criterion", [LEFT, RIGHT])
def test_what_lies_between_two_retrainings_by_chance_is_not_planned_with(criterion):
    even = pilot(effect=1.0, noise=0.02)
    apart = replace(
        even, oracle=tuple(o + 0.02 for o in even.oracle), retrained=tuple(r - 0.02 for r in even.retrained)
    )
    found = [forecast_from(criterion, each, "p", Plan(), runs=200) for each in (even, apart)]
    assert found[0].passes == found[1].passes
    assert found[0].seeds_90 == found[1].seeds_90
    assert found[1].oracle - found[1].retrained == pytest.approx(0.04)


@pytest.mark.parametrize("seed", range(5))
def test_an_exact_null_is_planned_by_the_law_that_is_known(seed):
    """Retrained models are N(0, 1): the oracle's power does not depend on what the pilot saw of them."""
    draws = np.random.default_rng(seed).normal(0, 1, (4, 10))
    clear = Evidence(*(tuple(x.tolist()) for x in (draws[0] - 8, draws[1], draws[2], draws[2], draws[3])))
    found = forecast_from(NULL, clear, "p", Plan(), runs=400)
    assert found.power == pytest.approx(0.978, abs=0.02)
    assert found.seeds_90 is None


def test_looks_accumulate():
    found = forecast_from(LEFT, pilot(effect=1.0, noise=0.15), "p", Plan(), runs=300)
    by_look = list(found.passes.values())
    assert list(found.passes) == list(LOOKS[1:])
    assert by_look == sorted(by_look)
    assert found.power == by_look[-1]
    assert found.seeds_80 <= found.seeds_90


def test_a_poison_without_effect_is_planned_to_pass_never():
    found = forecast_from(LEFT, pilot(effect=0.0, noise=0.1), "p", Plan(), runs=200)
    assert found.power == 0
    assert found.seeds_80 is None


def test_accuracy_is_planned_by_its_margin():
    steady = forecast_from(RIGHT, pilot(effect=0.0, noise=0.002), "p", Plan(), runs=200)
    shaky = forecast_from(RIGHT, pilot(effect=0.0, noise=0.03), "p", Plan(), runs=200)
    assert steady.power > 0.95 > 0.4 > shaky.power
    assert steady.seeds_90 < shaky.seeds_90


def test_a_pilot_of_two_seeds_is_refused():
    with pytest.raises(ValueError, match="at least 3 seeds, not 2"):
        forecast_from(LEFT, pilot(1.0, 0.1).first(2), "p", Plan())


@pytest.mark.parametrize("seeds", [0, 2])
def test_too_few_seeds_are_refused_before_training(seeds, tmp_path):
    with pytest.raises(ValueError, match=f"at least 3 seeds, not {seeds}"):
        harness.plan_study("tiny:Tiny", "backdoor:size=1", seeds=seeds, store=tmp_path)

    assert not list(tmp_path.glob("records/*"))


def test_a_pilot_with_a_model_that_diverged_says_which():
    found = pilot(1.0, 0.1)
    found = replace(found, poisoned=(*found.poisoned[:4], math.nan, *found.poisoned[5:]))
    with pytest.raises(UnlearningError, match=r"for the poisoned model of the pilot's seed no\. 5: fix the task"):
        forecast_from(LEFT, found, "p", Plan())


def test_a_study_is_planned_on_trained_models_away_from_the_audits_seeds(tmp_path):
    forecasts = harness.plan_study("tiny:Tiny", "backdoor:size=1", seeds=4, store=tmp_path)
    assert [f.measure for f in forecasts] == ["attack_success", "triggered_accuracy", "accuracy"]
    assert all(f.power > 0.9 for f in forecasts)
    import json

    seeds = {json.loads(path.read_text())["record"]["of"].get("seed") for path in tmp_path.glob("records/*/*.json")}
    assert seeds - {None} == set(range(PILOT_SEED, PILOT_SEED + 4))
