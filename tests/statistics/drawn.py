"""Runs that hypothesis draws, and what tests of the statistics compare."""

import math

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from harness.api import Outcome

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
INF, NAN = math.inf, math.nan
ORDER = (PASS, INCONCLUSIVE, FAIL)

# Thousandths, so that ties, constants and values on a margin are common and rounding error is never a spread.
value = st.integers(-9_000, 9_000).map(lambda i: i / 1000)
runs = st.lists(value, min_size=3, max_size=12)
pairs = st.lists(st.tuples(value, value), min_size=3, max_size=12).map(lambda x: tuple(map(list, zip(*x, strict=True))))
triples = st.lists(st.tuples(value, value, value), min_size=3, max_size=12).map(
    lambda x: tuple(map(list, zip(*x, strict=True)))
)
level = st.floats(0.001, 0.499)
margins = st.tuples(value, value).filter(lambda m: m[0] < m[1])
bounds = margins | value.map(lambda m: (-INF, m)) | value.map(lambda m: (m, INF))


@st.composite
def biting(draw):
    """Poisoned, retrained and unlearned runs whose poison does something, mostly enough to be shown."""
    r, noise, u = draw(triples)
    return [a + b / 10 + draw(st.shared(st.integers(1, 20), key="size")) for a, b in zip(r, noise, strict=True)], r, u


def close(expected):
    return pytest.approx(expected, rel=1e-9, abs=1e-9)


def same(a, b):
    """Whether two results agree up to rounding."""
    return (a.outcome, a.reason, a.n, a.worst, a.degenerate) == (b.outcome, b.reason, b.n, b.worst, b.degenerate) and (
        (a.estimate, *a.interval, a.p_pass, a.p_fail, a.p_bite or 0, a.df, a.se, *a.bounds)
        == pytest.approx(
            (b.estimate, *b.interval, b.p_pass, b.p_fail, b.p_bite or 0, b.df, b.se, *b.bounds),
            rel=1e-9, abs=1e-9, nan_ok=True,
        )
    )  # fmt: skip


def decided(*results):
    """Leave out cases in which rounding could tip the outcome."""
    for result in results:
        for p in (result.p_pass, result.p_fail, *([] if result.p_bite is None else [result.p_bite])):
            assume(abs(p - 0.05) > 1e-7)
    return True
