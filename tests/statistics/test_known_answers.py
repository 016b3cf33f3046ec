"""Statistics against published numbers, against other implementations, and against simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats
from statsmodels.stats import multitest, proportion, weightstats

from harness.api import Outcome
from harness.statistics import (
    bad_seed_bound,
    clopper_pearson,
    eps_lower_single,
    equivalence,
    equivalence_paired,
    holm,
    mu_lower,
    one_run_eps,
    retention,
    seeds_needed,
    tost_power,
)

# Variable 1 of the data set `clinic`, by group, from R's package `equivalence`, whose results are used below.
CLINIC = (
    [2.84, 2.51, 2.41, 2.95, 3.14, 3.79, 4.14, 3.85, 3.02, 3.45, 5.37, 3.81, 4.19, 3.16, 3.84],
    [2.60, 2.82, 2.18, 3.46, 4.01, 3.04, 3.47, 4.06, 2.91, 3.59, 4.51, 3.16, 3.86, 3.31, 3.02],
)
P = (0.98, 0.99, 0.97, 1, 0.99)
R = (0, 0.01, 0, 0, 0.01)
U = (0.05, 0.08, 0.02, 0.06, 0.04)
INF = math.inf


def exactly(value):
    return pytest.approx(value, rel=1e-12, abs=1e-15)


def test_paired_equivalence_of_the_clinic_data():
    result = equivalence_paired(*CLINIC, -0.6, 0.6)
    assert result.outcome is Outcome.PASS
    assert result.reason == "equivalent"
    assert result.p_pass == exactly(0.003166881489265175)
    assert result.estimate == exactly(0.1646666666666667)
    assert result.se == exactly(0.1357514067862445)
    assert result.interval == exactly((-0.0744336620516462, 0.4037669953849797))
    assert (result.n, result.df, result.bounds, result.p_bite, result.degenerate) == (15, 14, (-0.6, 0.6), None, False)
    assert result.worst == 4  # 3.14 - 4.01


def test_retention_of_a_method_that_forgets():
    result = retention(P, R, U, tau=0.2)
    assert result.outcome is Outcome.PASS
    assert result.reason == "equivalent"
    assert result.estimate == pytest.approx(0.0468, abs=5e-5)
    assert result.interval == pytest.approx((0.0269, 0.0666), abs=5e-5)
    assert result.p_pass == pytest.approx(3.326e-5, abs=5e-9)
    assert (result.n, result.df, result.bounds, result.degenerate, result.worst) == (5, 4, (-0.2, 0.2), False, 1)


def test_retention_of_doing_nothing():
    result = retention(P, R, P)
    assert result.outcome is Outcome.FAIL
    assert result.reason == "poison-left"
    assert result.estimate == exactly(1)
    assert result.interval == exactly((1, 1))


def test_retention_of_a_model_on_the_other_side_of_retraining():
    """The example of a method that forgets and of doing nothing, each reflected through R."""
    result = retention(P, R, [2 * r - u for r, u in zip(R, U, strict=True)], tau=0.2)
    assert result.outcome is Outcome.PASS
    assert result.estimate == pytest.approx(-0.0468, abs=5e-5)
    assert result.interval == pytest.approx((-0.0666, -0.0269), abs=5e-5)
    assert result.p_pass == pytest.approx(3.326e-5, abs=5e-9)
    assert result.worst == 1
    beyond = retention(P, R, [2 * r - p for r, p in zip(R, P, strict=True)])
    assert (beyond.outcome, beyond.reason) == (Outcome.FAIL, "over-corrected")
    assert (beyond.estimate, *beyond.interval) == exactly((-1, -1, -1))


@pytest.mark.parametrize("seed", range(20))
def test_one_sample_agrees_with_scipy_and_statsmodels(seed):
    g = np.random.default_rng(seed)
    u = g.normal(0.3, 1, g.integers(3, 12))
    lo, hi = -1.3, 0.9

    one = equivalence(u, lo, hi)
    assert one.p_pass == exactly(weightstats.DescrStatsW(u).ttost_mean(lo, hi)[0])
    above, below = (
        sum(stats.ttest_1samp(u, bound, alternative=side).pvalue for bound in (lo, hi)) for side in ("greater", "less")
    )
    assert one.p_fail == exactly(min(above, below, 1))
    assert one.interval == exactly(tuple(stats.ttest_1samp(u, 0).confidence_interval(0.9)))


def test_intervals_and_outcomes_follow_alpha():
    d = [0.9, 1.4, 1.1, 1.8]
    result = equivalence(d, -1, 1, alpha=0.01)
    assert result.interval == exactly(tuple(stats.ttest_1samp(d, 0).confidence_interval(0.98)))
    assert 0.05 < result.p_fail < 0.2
    assert result.outcome is Outcome.INCONCLUSIVE
    assert equivalence(d, -1, 1, alpha=0.2).outcome is Outcome.FAIL


# ---- planning


def test_power_known_answers():
    assert tost_power(10, 1, 1) == pytest.approx(0.795, abs=5e-4)
    assert seeds_needed(1, 1) == 11


@pytest.mark.parametrize(
    ("alpha", "two_sided", "table"),
    [
        (0.05, True, "36/45 17/21 11/13 8/9 6/7 4/5 3/4 3/3"),
        (0.05, False, "27/36 13/17 8/11 6/8 5/6 4/4 3/3 3/3"),
        (0.0125, True, "53/63 25/30 16/18 11/13 9/10 6/7 5/5 4/4"),
    ],
)
def test_seeds_needed_for_a_perfect_method(alpha, two_sided, table):
    margins = (0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)
    found = (
        "/".join(str(seeds_needed(m, 1, alpha=alpha, power=p, two_sided=two_sided)) for p in (0.8, 0.9))
        for m in margins
    )
    assert " ".join(found) == table


def integrated_power(df, above, below, t):
    """Return P(below + t s <= Z <= above - t s), with adaptive quadrature over s."""

    def integrand(s):
        inside = max(0.0, special.ndtr(above - t * s) - special.ndtr(below + t * s))
        return inside * stats.chi.pdf(s * math.sqrt(df), df) * math.sqrt(df)

    end = min(10, (above - below) / (2 * t), max(0, above + 10) / t)
    knots = [x for x in (above / t, 0.7, 0.9, 0.97, 1, 1.03, 1.1, 1.4, 2.5) if 0 < x < end]
    return integrate.quad(integrand, 0, end, points=knots or None, limit=500)[0]


@pytest.mark.parametrize("n", [2, 3, 5, 16, 60, 400, 5000])
@pytest.mark.parametrize("alpha", [0.001, 0.0125, 0.05, 0.4])
def test_power_agrees_with_the_noncentral_t_and_with_adaptive_quadrature(n, alpha):
    df, t = n - 1, stats.t.isf(alpha, n - 1)
    for margin, sd in itertools.product((0.1, 0.6, 1, 1.4, 20), (0.3, 2)):
        above = margin / sd * math.sqrt(n)
        two_sided = tost_power(n, margin, sd, alpha)
        one_sided = tost_power(n, margin, sd, alpha, two_sided=False)
        assert two_sided == pytest.approx(integrated_power(df, above, -above, t), abs=1e-8)
        assert one_sided == pytest.approx(integrated_power(df, above, -INF, t), abs=1e-8)
        if abs(above) < 30:
            assert one_sided == pytest.approx(1 - special.nctdtr(df, above, t), abs=1e-8)


def test_power_of_very_many_seeds_is_that_of_a_normal_test():
    n, z = 10**6, stats.norm.isf(0.05)
    assert tost_power(n, 2.5e-3, 1, two_sided=False) == pytest.approx(special.ndtr(2.5 - z), abs=1e-6)
    assert tost_power(n, 2.5e-3, 1) == pytest.approx(2 * special.ndtr(2.5 - z) - 1, abs=1e-6)


# ---- counts


def test_clopper_pearson_known_answers():
    assert clopper_pearson(4, 20) == pytest.approx((0.0573, 0.4366), abs=5e-5)
    assert clopper_pearson(0, 10, 0.9)[1] == pytest.approx(0.2589, abs=5e-5)
    for k, n, conf in itertools.product(range(8), (7, 30), (0.8, 0.95)):
        low, high = stats.binomtest(k, n).proportion_ci(conf, method="exact")
        assert clopper_pearson(k, n, conf) == pytest.approx((low, high), rel=1e-9)
        assert clopper_pearson(k, n, conf) == exactly(proportion.proportion_confint(k, n, 1 - conf, "beta"))


# ---- multiplicity

P_VALUES = (0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205)


def test_holm_known_answers():
    assert holm(P_VALUES) == exactly([0.008, 0.056] + 6 * [0.234])


@pytest.mark.parametrize("seed", range(10))
def test_adjusted_p_values_agree_with_statsmodels(seed):
    p = np.random.default_rng(seed).beta(0.5, 2, size=seed)
    if not len(p):
        assert holm([]) == []
        return
    assert holm(p) == exactly(multitest.multipletests(p, method="holm")[1].tolist())


# ---- proven residues


def test_gaussian_residue_known_answers():
    assert mu_lower([3.4]) == exactly(3.4 - stats.norm.isf(0.05))
    assert mu_lower([3, 2, 1, 4], 0.01) == exactly(2.5 - stats.norm.isf(0.01) / 2)
    assert mu_lower([0.5, -0.5]) == 0
    assert eps_lower_single(3.4e-4, 0.05, 1e-5) == pytest.approx(5.0, abs=0.05)
    assert eps_lower_single(stats.norm.sf(5), 0.05, 1e-5) == pytest.approx(12.1, abs=0.05)
    assert eps_lower_single(0.001, 0.05, 0.01) == exactly(math.log(40))
    assert eps_lower_single(0.001) == exactly(math.log((0.05 - 1e-5) / 0.001))


def one_run_p_value(m, r, v, eps, delta):
    """The p-value as the paper's appendix computes it, term by term."""
    q = 1 / (1 + math.exp(-eps))
    beta = stats.binom.sf(v - 1, r, q)
    alpha = total = 0.0
    for i in range(1, v + 1):
        total += stats.binom.pmf(v - i, r, q)
        alpha = max(alpha, total / i)
    return min(1.0, beta + alpha * delta * 2 * m)


@pytest.mark.parametrize("case", [(100, 50, 45), (100, 100, 70), (20, 10, 10), (500, 40, 33), (1, 1, 1), (7, 3, 1)])
@pytest.mark.parametrize("delta", [0, 1e-5, 1e-3])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.7])
def test_one_run_bound_agrees_with_the_published_procedure(case, delta, alpha):
    bound = one_run_eps(*case, alpha, delta)
    if bound == 0:
        assert one_run_p_value(*case, 0, delta) >= alpha
    else:
        assert one_run_p_value(*case, bound, delta) == pytest.approx(alpha, abs=1e-9)


def test_one_run_bound_of_guesses_that_are_all_right():
    # Without delta the bound on v = r guesses is q^r = alpha.
    q = 0.05 ** (1 / 30)
    assert one_run_eps(30, 30, 30, 0.05, 0) == pytest.approx(math.log(q / (1 - q)), abs=1e-9)
    assert one_run_eps(30, 30, 30) < one_run_eps(30, 30, 30, delta=0)
    assert one_run_eps(30, 30, 30, 0.05, 1e-5) == one_run_eps(30, 30, 30)
    assert one_run_eps(30, 30, 0) == one_run_eps(30, 0, 0) == 0


def test_bad_seed_bound_known_answers():
    bounds = [round(bad_seed_bound(n), 2) for n in (0, 1, 3, 5, 8, 10, 16, 30, 59)]
    assert bounds == [1, 0.95, 0.63, 0.45, 0.31, 0.26, 0.17, 0.10, 0.05]


# ---- calibration: error rates of 8,000 simulated audits, within 4 standard errors


def rates(results):
    n = len(results)
    return tuple(sum(r.outcome is outcome for r in results) / n for outcome in (Outcome.PASS, Outcome.FAIL))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_equivalence_has_its_size_at_the_margin(n):
    d = np.random.default_rng(n).normal(1, 0.2, size=(8000, n)).tolist()
    assert rates([equivalence(x, -1, 1) for x in d]) == pytest.approx((0.05, 0.05), abs=0.01)
    assert rates([equivalence(x, -INF, 1, alpha=0.2) for x in d]) == pytest.approx((0.2, 0.2), abs=0.018)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_retention_has_its_size_where_exactly_tau_is_left(n):
    g = np.random.default_rng(n)
    r = g.normal(0, 1, (8000, n))
    p = r + g.normal(20, 1, (8000, n))
    u = r + 0.3 * (p - r) + g.normal(0, 1, (8000, n))
    results = [retention(*map(list, x), tau=0.3) for x in zip(p, r, u, strict=True)]
    assert rates(results) == pytest.approx((0.05, 0.05), abs=0.01)
    covered = sum(x.interval[0] <= 0.3 <= x.interval[1] for x in results) / 8000
    assert covered == pytest.approx(0.9, abs=0.014)


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("spread", [1, 20, 1000])
def test_a_false_fail_is_as_rare_where_the_margins_lie_within_the_noise(n, spread):
    """Seeds of U vary by a twentieth of the poison's effect, by all of it, and by fifty times as much."""
    g = np.random.default_rng(n)
    for kappa in (0.2, -0.2, 0.0):
        r = g.normal(0, 1, (8000, n))
        p = r + g.normal(20, 1, (8000, n))
        u = r + kappa * 20 + g.normal(0, spread, (8000, n))
        _, failed = rates([retention(*map(list, x)) for x in zip(p, r, u, strict=True)])
        assert failed <= 0.06


def test_a_poison_that_does_nothing_passes_no_method():
    g = np.random.default_rng(0)
    p, r, u = g.normal(0, 1, (3, 8000, 5))
    results = [retention(*map(list, x)) for x in zip(p, r, u, strict=True)]
    assert sum(x.reason != "no-bite" for x in results) / 8000 == pytest.approx(0.05, abs=0.01)


def test_power_agrees_with_simulation():
    d = np.random.default_rng(1).normal(0, 0.8, (8000, 7)).tolist()
    passed, _ = rates([equivalence(x, -1, 1) for x in d])
    assert passed == pytest.approx(tost_power(7, 1, 0.8), abs=0.02)


def test_residue_bound_covers_the_truth():
    runs = np.random.default_rng(2).normal(1, 1, (8000, 6)).tolist()
    assert sum(mu_lower(t) <= 1 for t in runs) / 8000 == pytest.approx(0.95, abs=0.01)
