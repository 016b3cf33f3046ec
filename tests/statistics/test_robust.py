"""E-values and seeds that stand out, against known answers, properties and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics import clopper_pearson, e_value, standing_out

numbers = st.lists(st.floats(-1, 0.8), max_size=20)


def test_known_stakes():
    assert e_value([], 0.8) == 1
    assert e_value([-0.2] * 14, 0.8) == pytest.approx(1.25**14)
    assert e_value([-0.2] * 5 + [0.8], 0.8) == pytest.approx(1.25**5)  # the game ends, what it had reached stands
    assert e_value([-0.2, 0.9, -0.2], 0.8) == pytest.approx(1.25)
    assert e_value([0.4, -0.4, -0.4], 0.8) == pytest.approx(0.5 * 1.5 * 1.5)
    assert e_value([0.1] * 3, 0.8) == 1
    assert e_value([1.8, 1.8, -0.2], 0.8) == 1  # two that are above the bound do not make up for each other


def test_good_seeds_alone_are_as_much_evidence_as_the_exact_binomial_bound():
    """14 of 14 seeds on which nothing is left: 0.8^14, the p-value of a share of 20 % on which nothing is done."""
    assert 1 / e_value([-0.2] * 14, 0.8) == pytest.approx(0.8**14)
    assert clopper_pearson(0, 14, 0.9)[1] == pytest.approx(1 - 0.05 ** (1 / 14))
    assert e_value([-0.2] * 13, 0.8) < 20 < e_value([-0.2] * 14, 0.8)


@given(numbers, st.floats(0, 0.5))
def test_more_left_is_never_more_evidence(x, more):
    assert e_value([value + more for value in x], 0.8) <= e_value(x, 0.8) * (1 + 1e-12)


@given(numbers, st.floats(-1, 0.8))
def test_evidence_is_never_lost(x, another):
    assert e_value([*x, another], 0.8) >= e_value(x, 0.8)


@given(numbers, st.floats(0.01, 100))
def test_units_do_not_matter(x, unit):
    assert e_value([unit * value for value in x], unit * 0.8) == pytest.approx(e_value(x, 0.8), rel=1e-9)


@pytest.mark.parametrize("law", ["all or nothing", "beta", "uniform"])
def test_the_evidence_reaches_20_at_most_once_in_20_studies(law):
    """Exact for every law of mean 0 that stays below the bound; 20,000 studies, looked at after each of 30 seeds."""
    rng, shape = np.random.default_rng(0), (20_000, 30)
    x = {
        "all or nothing": lambda: np.where(rng.random(shape) < 0.2, 0.8, -0.2),
        "beta": lambda: rng.beta(0.2, 0.8, shape) - 0.2,
        "uniform": lambda: rng.uniform(-0.8, 0.8, shape),
    }[law]()
    stakes = np.maximum(0, 1 - x / 0.8).cumprod(axis=1).max(axis=1).clip(1)
    assert stakes[:20].tolist() == pytest.approx([e_value(row, 0.8) for row in x[:20].tolist()])
    assert (stakes >= 20).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)


@pytest.mark.parametrize("most", [0, -1, math.inf, math.nan])
def test_a_bound_that_is_none_is_refused(most):
    with pytest.raises(ValueError, match="the largest number must be positive and finite"):
        e_value([0.1], most)


def test_known_seeds_stand_out():
    reference = [0.1, -0.1] * 2  # standard deviation 0.1155
    assert standing_out([0.23, 0.232, -9, 0.0], reference) == [1]
    assert standing_out([0.23, 0.232], [value + 5 for value in reference]) == [1]
    assert standing_out([0.0, 1e-17, 1e-9], [1.0, 1.0]) == [2]
    assert standing_out([0.19, 0.21], [1.0, 1.0], sd_floor=0.1) == [1]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=16), st.floats(0, 0.2))
def test_a_larger_floor_only_lets_fewer_stand_out(x, floor):
    assert set(standing_out(x, [0.05, -0.05], floor)) <= set(standing_out(x, [0.05, -0.05]))


@pytest.mark.parametrize(("reference", "floor"), [([1.0], 0.0), ([1.0, 2.0], -1.0), ([1.0, 2.0], math.nan)])
def test_a_scatter_that_is_none_is_refused(reference, floor):
    with pytest.raises(ValueError, match="a scatter takes at least 2 numbers"):
        standing_out([0.0], reference, floor)
