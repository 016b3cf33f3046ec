"""What the statistics return and refuse: plain values, and a sentence for each bad argument."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, astuple

import numpy as np
import pytest
from drawn import (
    INF,
    NAN,
    PASS,
    close,
    level,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import harness.statistics
from harness.api import Outcome
from harness.statistics import (
    bad_seed_bound,
    clopper_pearson,
    eps_lower_single,
    equivalence,
    equivalence_paired,
    fieller,
    holm,
    mu_lower,
    one_run_eps,
    rejects,
    retention,
    seeds_needed,
    tost_power,
)


def test_results_are_plain_python():
    arms = np.random.default_rng(0).normal(0, 0.1, (3, 5))
    arms[0] += 3
    for result in (
        equivalence(arms[0], 2, 4), equivalence([], -1, 1), equivalence([NAN], -1, 1),
        equivalence_paired(arms[2], arms[1], -np.float64(1), np.float64(1), sd_floor=np.float64(2)),
        retention(*arms, tau=np.float64(0.2), sd_floor=np.float64(2), alpha=np.float64(0.1)),
    ):  # fmt: skip
        json.dumps(asdict(result))
        fields = [*astuple(result), *result.interval, *result.bounds]
        assert {type(x) for x in fields} <= {Outcome, str, float, int, tuple, bool, type(None)}
        assert type(result.degenerate) is type(rejects(np.float64(0.1), np.float64(0.1))) is bool
        assert {type(x) for x in (*result.bounds, *result.interval, result.df, result.se)} == {float}
        with pytest.raises(FrozenInstanceError):
            result.outcome = PASS
    numbers = [
        tost_power(5, 1, 1), bad_seed_bound(5), mu_lower([4.0]), eps_lower_single(1e-4), one_run_eps(9, 9, 9),
        *clopper_pearson(0, 5), *clopper_pearson(1, 5), *fieller([1, 2, 3], [9, 8, 9]), *holm([0.1]),
    ]  # fmt: skip
    assert {type(x) for x in numbers} == {float}
    assert type(seeds_needed(1, 1)) is int


def test_importing_is_cheap():
    code = "import harness.statistics, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "scipy.special" in modules
    assert not {"torch", "scipy.stats", "scipy.optimize"} & set(modules)


def test_every_public_name_is_there_and_described():
    for name in harness.statistics.__all__:
        public = getattr(harness.statistics, name)
        assert name == "Why" or public.__doc__


@given(st.integers(1, 12), st.integers(0, 12), st.floats(0.01, 0.49))
def test_clopper_pearson_bounds_mirror_and_invert_the_binomial(n, k, alpha):
    k = min(k, n)
    low, high = clopper_pearson(k, n, 1 - 2 * alpha)
    assert (low, high) == close(tuple(1 - x for x in reversed(clopper_pearson(n - k, n, 1 - 2 * alpha))))
    assert 0 <= low < high <= 1
    assert low == 0 if k == 0 else stats.binom.sf(k - 1, n, low) == pytest.approx(alpha)
    assert high == 1 if k == n else stats.binom.cdf(k, n, high) == pytest.approx(alpha)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjusted_p_values_keep_the_order_and_do_not_shrink(p):
    adjusted = holm(p)
    assert all(a <= b <= 1 for a, b in zip([x * (1 - 1e-12) for x in p], adjusted, strict=True))
    assert [b for _, b in sorted(zip(p, adjusted, strict=True))] == sorted(adjusted)


@given(st.integers(2, 40), st.floats(0.1, 5), st.floats(0, 5), level, st.booleans())
def test_power_is_a_probability_that_grows_with_seeds_and_margin(n, margin, sd, alpha, two_sided):
    power = tost_power(n, margin, sd, alpha, two_sided)
    assert 0 <= power <= 1
    assert tost_power(n, margin * 1.1, sd, alpha, two_sided) >= power - 1e-8
    if not two_sided:  # two-sided power may fall with a seed more, where it is next to nothing
        assert tost_power(n + 1, margin, sd, alpha, two_sided) >= power - 1e-8
        assert tost_power(n, margin, sd, alpha) <= power + 1e-8


@given(st.integers(2, 30), st.floats(0.1, 5), st.floats(0.01, 5), level, st.floats(-6, 6))
def test_power_at_a_mean_that_is_not_zero(n, margin, sd, alpha, true):
    both = tost_power(n, margin, sd, alpha, true=true)
    assert both == pytest.approx(tost_power(n, margin, sd, alpha, true=-true), abs=1e-8)
    sides = [tost_power(n, margin, sd, alpha, two_sided=False, true=x) for x in (true, -true)]
    assert sum(sides) - 1 - 1e-8 <= both <= min(sides) + 1e-8
    if true < margin:  # to one side, a mean is as good as a margin that is nearer
        assert sides[0] == pytest.approx(tost_power(n, margin - true, sd, alpha, two_sided=False), abs=1e-8)


def test_power_without_spread_is_certain():
    for true, passes in ((0.9, 1), (1.0, 0), (-1.0, 0), (-2.0, 0)):
        assert tost_power(3, 1, 0, true=true) == passes
    assert tost_power(3, 1, 0, two_sided=False, true=-2.0) == 1
    assert tost_power(3, 1, 0) == tost_power(3, 1, 0, two_sided=False) == 1
    assert seeds_needed(1, 0) == 3


def test_seeds_needed_is_the_first_number_that_suffices():
    n = seeds_needed(1, 1.3, 0.02, 0.7)
    assert tost_power(n - 1, 1, 1.3, 0.02) < 0.7 <= tost_power(n, 1, 1.3, 0.02)
    assert seeds_needed(1, 1.3, power=tost_power(7, 1, 1.3)) == 7
    assert seeds_needed(0.09261, 1) == 1000  # the limit
    assert seeds_needed(0.09256, 1) is None  # 1001 would do
    assert tost_power(1001, 0.09256, 1) > 0.8


def test_a_p_value_of_one_is_one():
    assert holm([1.0]) == [1.0]
    assert holm([0.0, 1.0]) == [0.0, 1.0]


def test_lower_bounds_prove_nothing_without_evidence():
    assert mu_lower([]) == mu_lower([NAN, 5.0]) == mu_lower([INF]) == 0
    assert eps_lower_single(0.0) == INF
    assert eps_lower_single(0.9) == eps_lower_single(0.01, 0.05, 0.05) == eps_lower_single(0.0, 0.05, 0.06) == 0
    assert eps_lower_single(0.05, 0.05, 0.0) == eps_lower_single(1.0) == 0


@given(st.integers(1, 60), st.data(), st.floats(0.01, 0.4), st.sampled_from([0, 1e-6, 1e-3]))
def test_more_right_guesses_prove_more(r, data, alpha, delta):
    v = data.draw(st.integers(0, r - 1))
    assert one_run_eps(r, r, v, alpha, delta) <= one_run_eps(r, r, v + 1, alpha, delta) + 1e-9
    assert one_run_eps(r + 5, r, v, alpha, delta) <= one_run_eps(r, r, v, alpha, delta) + 1e-9


THREE = [0.0, 0.1, 0.2]
BOUNDS = "the bounds must be in order and not both infinite, not "
LENGTHS = "paired runs must come in equal numbers, but "
ERRORS = [
    (lambda: equivalence(THREE, 1, 1), BOUNDS + "(1, 1)."),
    (lambda: equivalence(THREE, 1, 0), BOUNDS + "(1, 0)."),
    (lambda: equivalence(THREE, -INF, INF), BOUNDS + "(-inf, inf)."),
    (lambda: equivalence(THREE, NAN, 1), BOUNDS + "(nan, 1)."),
    (lambda: equivalence(THREE, -1, NAN), BOUNDS + "(-1, nan)."),
    (lambda: equivalence(THREE, -1, 1, alpha=0), "alpha must be in (0, 0.5), not 0."),
    (lambda: equivalence(THREE, -1, 1, alpha=0.5), "alpha must be in (0, 0.5), not 0.5."),
    (lambda: equivalence(THREE, -1, 1, alpha=NAN), "alpha must be in (0, 0.5), not nan."),
    (lambda: fieller(THREE, THREE, 0.5), "alpha must be in (0, 0.5), not 0.5."),
    (lambda: equivalence(THREE, -1, 1, sd_floor=-0.1), "sd_floor must be finite and at least 0, not -0.1."),
    (lambda: equivalence(THREE, -1, 1, sd_floor=INF), "sd_floor must be finite and at least 0, not inf."),
    (lambda: equivalence_paired(THREE, THREE[:2], -1, 1), LENGTHS + "u has 3, r has 2."),
    (lambda: retention(THREE, THREE, []), LENGTHS + "p has 3, r has 3, u has 0."),
    (lambda: retention([], THREE, THREE), LENGTHS + "p has 0, r has 3, u has 3."),
    (lambda: fieller(THREE, []), LENGTHS + "q has 3, e has 0."),
    (lambda: retention(THREE, THREE, THREE, tau=1), "tau must be in [0, 1), not 1."),
    (lambda: retention(THREE, THREE, THREE, tau=-0.1), "tau must be in [0, 1), not -0.1."),
    (lambda: retention(THREE, THREE, THREE, tau_over=-0.1), "tau_over must be at least 0, not -0.1."),
    (lambda: retention(THREE, THREE, THREE, tau_over=NAN), "tau_over must be at least 0, not nan."),
    (lambda: retention(THREE, THREE, THREE, direction=0), "direction must be +1 or -1, not 0."),
    (lambda: tost_power(1, 1, 1), "n must be at least 2, not 1."),
    (lambda: tost_power(5, 0, 1), "margin must be positive and sd at least 0, not 0 and 1."),
    (lambda: tost_power(5, INF, 1), "margin must be positive and sd at least 0, not inf and 1."),
    (lambda: tost_power(5, 1, -1), "margin must be positive and sd at least 0, not 1 and -1."),
    (lambda: tost_power(5, 1, INF), "margin must be positive and sd at least 0, not 1 and inf."),
    (lambda: tost_power(5, NAN, 1), "margin must be positive and sd at least 0, not nan and 1."),
    (lambda: tost_power(5, 1, 1, true=INF), "true must be finite, not inf."),
    (lambda: tost_power(5, 1, 1, alpha=0.5), "alpha must be in (0, 0.5), not 0.5."),
    (lambda: seeds_needed(1, 1, power=1), "power must be in (0, 1), not 1."),
    (lambda: seeds_needed(1, 1, power=0), "power must be in (0, 1), not 0."),
    (lambda: bad_seed_bound(-1), "n must be at least 0, not -1."),
    (lambda: holm([0.1, 1.1]), "a p-value must be in [0, 1], not 1.1."),
    (lambda: holm([NAN]), "a p-value must be in [0, 1], not nan."),
    (lambda: clopper_pearson(4, 3), "a count must satisfy 0 <= k <= n with n >= 1, not k=4, n=3."),
    (lambda: clopper_pearson(0, 0), "a count must satisfy 0 <= k <= n with n >= 1, not k=0, n=0."),
    (lambda: clopper_pearson(1, 2, 1), "conf must be in (0, 1), not 1."),
    (lambda: mu_lower([1.0], 1), "alpha must be in (0, 1), not 1."),
    (lambda: eps_lower_single(0.1, 0), "alpha must be in (0, 1), not 0."),
    (lambda: eps_lower_single(1.1), "p_null must be in [0, 1], not 1.1."),
    (lambda: eps_lower_single(-0.1), "p_null must be in [0, 1], not -0.1."),
    (lambda: eps_lower_single(NAN), "p_null must be in [0, 1], not nan."),
    (lambda: eps_lower_single(0.1, 0.05, 1), "delta must be in [0, 1), not 1."),
    (lambda: eps_lower_single(0.1, 0.05, -0.1), "delta must be in [0, 1), not -0.1."),
    (lambda: one_run_eps(3, 2, 3), "counts must satisfy 0 <= v <= r <= m, not v=3, r=2, m=3."),
    (lambda: one_run_eps(3, 4, 3), "counts must satisfy 0 <= v <= r <= m, not v=3, r=4, m=3."),
    (lambda: one_run_eps(3, 2, -1), "counts must satisfy 0 <= v <= r <= m, not v=-1, r=2, m=3."),
    (lambda: one_run_eps(3, 2, 1, 1), "alpha must be in (0, 1), not 1."),
    (lambda: one_run_eps(3, 2, 1, 0.05, 1), "delta must be in [0, 1), not 1."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[f"{i}-{m.split()[0]}" for i, (_, m) in enumerate(ERRORS)])
def test_bad_arguments_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared whole
        call()
    assert str(error.value) == message
