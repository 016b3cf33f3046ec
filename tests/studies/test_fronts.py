"""The front of poison left against accuracy, and the choice from it: arithmetic, by hand and by brute force."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import registry
from harness.api import Reading
from harness.cells import Cell, traces_of
from harness.studies.fronts import (
    FLOORS,
    UNKNOWN,
    Score,
    Tried,
    affordable,
    certainly_left,
    choose,
    finalists,
    goals,
    hopeless,
    read,
    score_of,
    together,
)
from harness.trials.lab import TrialResult

BUDGET, MARGIN = 0.1, 0.01


def score(left, accuracy, error=0.0, cost=0.1):
    return Score({"only": left}, {}, accuracy, error, {"examples": cost})


def tried(number, left, accuracy, error=0.0, cost=0.1):
    of = {"poison": score(left, accuracy, error, cost)}
    return Tried(number, False, Named(number), [of], 5, "", {}, 1.0)


@dataclass(frozen=True)
class Named:
    id: int


# ---- scores


def result(cost=0.1, **arms):
    """A trial of the Gaussian poison: by arm the mean of the scores, the second moment, and accuracy.

    A model that diverged, whose numbers are NaN, has no traces.
    """
    poison = {
        arm: Reading(m, traces={} if math.isnan(m) else {"gaussian_second_moment": Reading(z)})
        for arm, (m, z, _) in arms.items()
    }
    accuracy = {arm: Reading(a) for arm, (_, _, a) in arms.items()}
    used = {"fractions": {"examples": cost, "cpu_seconds": 6 * cost}, "cpu_seconds": {"U": 1.0}, "first_call": False}
    return TrialResult({"poison": poison, "accuracy": accuracy}, used, True, {})


@pytest.fixture(scope="module")
def cell():
    kinds = (("unlearner", "gd"), ("task", "digits-cnn"), ("poison", "gaussian"))
    return Cell(*(registry.resolve(kind, name) for kind, name in kinds))


def test_a_score_is_worked_out_by_hand(cell):
    assert [trace.name for trace in cell.poison.value.traces] == ["gaussian_second_moment"]
    results = [
        result(P=(1.1, -4.0, 0.9), R=(0.1, 0.2, 0.95), U=(0.0, -3.0, 0.94), cost=0.05),
        result(P=(0.9, -6.0, 0.9), R=(-0.1, 0.1, 0.97), U=(-0.4, -2.0, 0.94), cost=0.08),
    ]
    found = score_of(cell, results, timed=False)
    assert found.traces == {
        "mean": pytest.approx(0.2),  # -0.2 of an effect of 1: reversed counts as left
        "second moment": pytest.approx((2.5 - 1.96 / math.sqrt(2)) / 5),
    }
    assert found.exact == {"second moment": -2.5}
    assert found.left == found.traces["second moment"]
    assert found.accuracy == pytest.approx(-0.02)
    assert found.error == pytest.approx(0.01)  # of -0.01 and -0.03
    assert found.shares == {"examples": 0.08}
    timed = score_of(cell, results, timed=True)
    assert timed.shares == {"examples": 0.08, "cpu_seconds": pytest.approx(0.48)}


def test_a_model_that_diverged_has_forgotten_nothing(cell):
    nan = math.nan
    found = score_of(cell, [result(P=(1.0, -4.0, 0.9), R=(0.0, 0.0, 0.95), U=(nan, nan, nan))], timed=True)
    assert (found.left, found.accuracy) == (math.inf, -math.inf)
    assert goals(found, BUDGET) == (UNKNOWN, 1.0)
    assert hopeless(found, [], 1, BUDGET)


@pytest.mark.parametrize(
    ("p", "u", "left"),
    [
        ([-4.0] * 4, [0.9] * 4, 0.0),  # within 1.96 standard errors: nothing is found
        ([-4.0] * 4, [-1.98] * 4, 0.25),
        ([-4.0] * 4, [1.98] * 4, 0.25),
        ([-4.0] * 4, [-4.0] * 4, 0.755),
        ([-0.9] * 4, [-9.0] * 4, None),  # the poisoned models do not stand out
        ([-4.0] * 4, [math.inf] * 4, math.inf),
    ],
)
def test_of_an_exact_null_counts_what_is_left_for_certain(p, u, left):
    assert certainly_left(p, u) == (None if left is None else pytest.approx(left))


def test_of_all_poisons_the_mean_counts_and_the_worst_accuracy():
    joint = together(
        {"a": Score({"x": 0.1, "y": 0.3}, {}, -0.01, 0.002, {"examples": 0.1}), "b": score(0.2, -0.02, 0.004, 0.05)}
    )
    assert (joint.left, joint.accuracy, joint.error, joint.cost) == (pytest.approx(0.25), -0.02, 0.004, 0.1)
    assert together({"reversed": score(9.0, 0.0), "gone": score(0.0, 0.0)}).left == UNKNOWN / 2
    assert together({"dead": score(math.inf, 0.0), "gone": score(0.0, 0.0)}).left == math.inf
    assert together({}).left == math.inf


# ---- what is searched for


def test_accuracy_above_the_strictest_floor_counts_for_nothing():
    assert goals(score(0.4, 0.02), BUDGET) == goals(score(0.4, -0.005), BUDGET) == (0.4, 0.005)
    assert goals(score(0.4, -0.012), BUDGET) == (0.4, 0.012)


def test_dead_models_and_dear_ones_are_on_no_front():
    assert goals(score(0.0, -0.5), BUDGET) == (UNKNOWN, 0.5)
    assert goals(score(0.0, 0.0, cost=0.11), BUDGET) == (UNKNOWN, 0.005)
    assert goals(score(9.0, 0.0), BUDGET) == (UNKNOWN, 0.005)


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ({"examples": 0.1, "flops": 0.15, "cpu_seconds": 0.4, "steps": 0.9}, True),
        ({"examples": 0.1, "flops": 0.16}, False),
        ({"examples": 0.1, "cpu_seconds": 0.41}, False),
    ],
)
def test_the_budget_is_that_of_an_audit_by_every_yardstick(shares, kept):
    dear = Score({"only": 0.0}, {}, 0.0, 0.0, shares)
    at = Tried(1, True, Named(1), [{"poison": dear}], 10, "", {}, 1.0)
    assert affordable(dear, BUDGET) is kept
    assert (goals(dear, BUDGET)[0] < UNKNOWN) is kept
    assert hopeless(dear, [], 1, BUDGET) is not kept
    assert choose([tried(0, 0.4, 0.0), at], MARGIN, BUDGET)[0].number == int(kept)
    assert finalists([tried(0, 0.4, 0.0), at], 1, MARGIN, BUDGET)[0].number == int(kept)


def test_jointly_the_dearest_counts_by_each_yardstick():
    one, other = ({"examples": 0.1, "flops": 0.05}, {"examples": 0.02, "flops": 0.12, "cpu_seconds": 0.3})
    joint = together({name: Score({}, {}, 0.0, 0.0, shares) for name, shares in (("a", one), ("b", other))})
    assert joint.shares == {"examples": 0.1, "flops": 0.12, "cpu_seconds": 0.3}
    assert joint.cost == 0.12


@pytest.mark.parametrize(
    ("left", "accuracy", "seeds", "given_up"),
    [
        (0.9, 0.0, 1, True),  # another leaves 0.5 at no loss
        (0.75, 0.0, 1, False),  # by chance, on one seed
        (0.75, 0.0, 4, True),
        (0.6, 0.0, 4, False),
        (0.4, -0.018, 4, False),  # nobody leaves less at -1.5 points, which it may yet reach
        (0.4, -0.022, 4, True),
        (0.0, -0.036, 4, True),  # below every floor
        (0.0, -0.036, 1, False),
    ],
)
def test_what_is_clearly_beaten_on_its_first_seeds_is_given_up(left, accuracy, seeds, given_up):
    others = [score(0.5, 0.0), score(0.1, -0.019), score(0.0, 0.0, cost=0.2)]
    assert hopeless(score(left, accuracy), others, seeds, BUDGET) is given_up


def test_of_settings_below_every_floor_the_most_accurate_are_kept():
    assert not hopeless(score(5.0, 0.0), [], 1, BUDGET)
    assert not hopeless(score(0.0, -0.2), [], 1, BUDGET)
    assert not hopeless(score(0.0, -0.2), [score(0.0, -0.191), score(0.0, 0.0, cost=0.2)], 1, BUDGET)
    assert hopeless(score(0.0, -0.2), [score(0.0, -0.189)], 1, BUDGET)
    every = [tried(i, 0.0, accuracy) for i, accuracy in enumerate((-0.2, -0.05, -0.1))]
    assert [each.number for each in finalists(every, 2, MARGIN, BUDGET)] == [1, 2]


def test_a_poison_of_which_nothing_is_known_decides_nothing(cell):
    weak = [result(P=(0.1, -0.1, 0.9), R=(0.1, 0.2, 0.95), U=(0.1, 0.3, 0.95))] * 2
    first, *_ = (replace(trace, test="exact-null") for trace in traces_of(cell.poison))
    poison = SimpleNamespace(measure=first)
    found = score_of(replace(cell, poison=replace(cell.poison, value=poison)), weak, timed=True)
    assert (found.traces, found.left) == ({}, math.inf)
    assert affordable(replace(found, shares={"examples": 0.1}), BUDGET)
    unknown = Score({}, {}, 0.0, 0.0, {"examples": 0.1})
    assert not hopeless(unknown, [score(0.0, 0.0)], 4, BUDGET)
    assert hopeless(replace(unknown, accuracy=-0.2), [score(0.0, 0.0)], 4, BUDGET)  # its accuracy is known
    joint = together({"weak": unknown, "strong": score(0.3, -0.002)})
    assert joint.left == 0.3
    every = [Tried(i, True, Named(i), [{"weak": replace(unknown, accuracy=a)}], 5, "", {}, 1.0)
             for i, a in enumerate((-0.004, -0.001))]  # fmt: skip
    best, rule = choose(finalists(every, 2, MARGIN, BUDGET), MARGIN, BUDGET)
    assert (best.number, "within the margin" in rule) == (1, True)


# ---- fronts


def test_a_front_is_read_at_its_floors():
    scores = [score(1.0, 0.0), score(0.5, -0.006), score(0.2, -0.02), score(0.0, -0.03, cost=0.2), score(0.5, -0.004)]
    assert [read(scores, floor, BUDGET) for floor in FLOORS] == [4, 4, 4, 2, 2]
    assert read(scores[:1], 0.005, BUDGET) == 0
    assert read([score(0.0, -0.5)], 0.03, BUDGET) is None


settings = st.lists(
    st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.integers(-45, 10).map(lambda n: n / 1000)), min_size=1
)


@given(settings)
def test_finalists_begin_with_the_front_by_brute_force(pairs):
    every = [tried(i, left, accuracy) for i, (left, accuracy) in enumerate(pairs)]
    at = {each.number: goals(each.score, BUDGET) for each in every}

    def beaten(one):
        return any(all(a <= b for a, b in zip(x, at[one.number], strict=True)) and x != at[one.number]
                   for x in at.values())  # fmt: skip

    front = {each.number for each in every if not beaten(each)}
    found = finalists(every, len(every), MARGIN, BUDGET)
    assert {each.number for each in found[: len(front)]} == front
    reach = [number for number, (left, _) in at.items() if left < UNKNOWN]
    assert sorted(each.number for each in found) == (reach or list(range(len(every))))
    assert finalists(every, 3, MARGIN, BUDGET) == found[:3]


def test_of_a_long_front_those_go_first_that_may_be_chosen():
    every = [tried(i, 0.9 - i / 10, -0.006 - 0.002 * i) for i in range(8)]  # 0 to 2 are within the margin
    assert [each.number for each in finalists(every, 4, MARGIN, BUDGET)] == [2, 1, 0, 7]


# ---- the choice


def test_the_least_poison_within_the_margin_is_chosen():
    finals = [tried(0, 0.5, -0.002, 0.001), tried(1, 0.3, -0.006, 0.001), tried(2, 0.1, -0.009, 0.001)]
    best, rule = choose(finals, MARGIN, BUDGET)
    assert best.number == 1  # the third is within the margin, but not by two standard errors
    assert "two standard errors" in rule
    best, rule = choose(finals[2:], MARGIN, BUDGET)
    assert best.number == 2
    assert "on average" in rule


def test_accuracy_is_within_the_margin_with_every_poison():
    """That with the lowest mean is within it for certain; the other is not, because it varies more."""
    varies = {"steady": score(0.1, -0.006, 0.001), "varying": score(0.1, -0.005, 0.004)}
    finals = [tried(0, 0.5, -0.002, 0.001), replace(tried(1, 0.1, 0.0), history=[varies])]
    best, rule = choose(finals, MARGIN, BUDGET)
    assert best.number == 0
    assert "two standard errors" in rule
    assert choose(finals[1:], MARGIN, BUDGET)[0].number == 1


def test_beyond_the_margin_the_highest_accuracy_is_chosen():
    finals = [tried(0, 0.0, -0.03), tried(1, 0.4, -0.02), tried(2, 0.2, -0.001, cost=0.3)]
    best, rule = choose(finals, MARGIN, BUDGET)
    assert (best.number, rule) == (1, "the highest accuracy; none is within the margin")
    best, rule = choose(finals[2:], MARGIN, BUDGET)
    assert (best.number, rule) == (2, "the highest accuracy; none keeps to the budget")


def test_of_equals_the_more_accurate_is_chosen():
    assert choose([tried(0, 0.0, -0.004), tried(1, 0.0, -0.001)], MARGIN, BUDGET)[0].number == 1
