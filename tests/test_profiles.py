"""The examples that hypothesis draws: the same in every run of the suite, others where somebody searches."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT


def drawn(seed, **changed):
    """Return the examples of a property, after other random numbers than the last time."""
    random.seed(seed)
    seen = []

    @settings(settings(), **changed)
    @given(st.integers())
    def look(number):
        seen.append(number)

    look()
    return seen


@pytest.mark.skipif(settings.get_current_profile_name() != "fixed", reason="new examples are asked for")
def test_a_run_draws_what_every_run_draws():
    assert drawn(1) == drawn(2)
    assert len(drawn(1)) == settings().max_examples == 100


def test_the_search_draws_others_and_more():
    search = settings.get_profile("search")
    assert search.max_examples == 1000
    first, second = (drawn(seed, derandomize=search.derandomize, database=None) for seed in (1, 2))
    assert first != second


def test_the_search_of_ci_uses_a_profile_that_there_is():
    (name,) = re.findall(r"HYPOTHESIS_PROFILE=(\w+)", (ROOT / ".ci" / "search").read_text())
    assert settings.get_profile(name)
