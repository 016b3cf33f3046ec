"""From a judgement to a verdict: what is provably left, and models that have no score."""

import math

import pytest

from harness import registry
from harness.api import Reading
from harness.cells import Cell
from harness.judging.claims import CLAIMS, Limits
from harness.judging.intersection import judge_all
from harness.judging.plan import Plan
from harness.judging.record import residue, verdict_of
from harness.judging.verdict import Evidence

N = 3
SCORED = Reading(1.0, details={"T": 6.0}, traces={"gaussian_second_moment": Reading(-4.0)})
RETRAINED = Reading(0.0, details={"T": 0.1}, traces={"gaussian_second_moment": Reading(0.2)})


def verdict(unlearned):
    """The verdict on three seeds of the Gaussian poison, of which U is given."""
    kinds = (("unlearner", "gd"), ("task", "digits-cnn"), ("poison", "gaussian"))
    cell = Cell(*(registry.resolve(kind, name) for kind, name in kinds))
    readings = [{"P": SCORED, "R": RETRAINED, "U": each} for each in unlearned]
    criteria = CLAIMS["poison"].criteria(cell, Limits(0.2, 0.1))
    arms = [tuple(each[arm].value for each in readings) for arm in "PRU"]
    second = [
        (-4.0,) * N,
        (0.2,) * N,
        tuple(each.traces.get("gaussian_second_moment", each).value for each in unlearned),
    ]
    evidence = [Evidence(*of, of[1], of[1]) for of in (arms, second)]
    found = judge_all(criteria, evidence, Plan(N))
    return verdict_of(cell, found, evidence[found.decides], readings, readings, Plan(N))


@pytest.mark.parametrize("place", range(N))
@pytest.mark.parametrize("without", [Reading(math.nan), Reading(math.nan, details={"T": math.nan})])
def test_a_model_without_a_score_proves_nothing_and_is_a_verdict(place, without):
    of = verdict([without if seed == place else SCORED for seed in range(N)])

    assert (of.outcome.value, of.reason) == ("FAIL", "diverged")
    assert "mu_lower" not in of.details
    assert verdict([SCORED] * N).details["mu_lower"] > 0


def test_no_score_proves_an_infinite_epsilon():
    assert residue([40.0], 0.05)["eps_lower"] == pytest.approx(math.log(0.05 / 2.2250738585072014e-308), rel=1e-6)
