"""Statistics against published numbers, against other implementations, and against simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats
from statsmodels.stats import multitest, proportion, weightstats

from harness.api import Outcome
from harness.statistics import bounds
from harness.statistics.levels import bad_seed_bound, holm
from harness.statistics.power import seeds_needed, tost_power
from harness.statistics.tests import bh, equivalence, equivalence_paired, equivalence_welch, retention

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


def test_welch_equivalence_of_the_clinic_data():
    result = equivalence_welch(*CLINIC, -0.6, 0.6)
    assert result.outcome is Outcome.PASS
    assert result.p_pass == exactly(0.04853083976236974)
    assert result.df == exactly(26.7484787582315)
    assert result.se == exactly(0.2531625991083627)
    assert result.interval == exactly((-0.2666862980722534, 0.596019631405587))
    assert (result.n, result.worst) == (15, 10)


def test_retention_of_a_method_that_forgets():
    result = retention(P, R, U, tau=0.2)
    assert result.outcome is Outcome.PASS
    assert result.reason == "equivalent"
    assert result.estimate == pytest.approx(0.0468, abs=5e-5)
    assert result.interval == pytest.approx((0.0269, 0.0666), abs=5e-5)
    assert result.p_pass == pytest.approx(3.326e-5, abs=5e-9)
    assert (result.n, result.df, result.bounds, result.degenerate, result.worst) == (5, 4, (-INF, 0.2), False, 1)


def test_retention_of_doing_nothing():
    result = retention(P, R, P)
    assert result.outcome is Outcome.FAIL
    assert result.reason == "outside-margin"
    assert result.estimate == exactly(1)
    assert result.interval == exactly((1, 1))


@pytest.mark.parametrize("seed", range(20))
def test_one_sample_and_welch_agree_with_scipy_and_statsmodels(seed):
    g = np.random.default_rng(seed)
    u, r = g.normal(0.3, 1, g.integers(3, 12)), g.normal(0, 3, g.integers(3, 12))
    lo, hi = -1.3, 0.9

    one = equivalence(u, lo, hi)
    assert one.p_pass == exactly(weightstats.DescrStatsW(u).ttost_mean(lo, hi)[0])
    assert one.p_fail == exactly(
        min(stats.ttest_1samp(u, hi, alternative="greater").pvalue, stats.ttest_1samp(u, lo, alternative="less").pvalue)
    )
    assert one.interval == exactly(tuple(stats.ttest_1samp(u, 0).confidence_interval(0.9)))
    welch = equivalence_welch(u, r, lo, hi)
    assert welch.p_pass == exactly(weightstats.ttost_ind(u, r, lo, hi, usevar="unequal")[0])
    assert welch.p_fail == exactly(
        min(
            stats.ttest_ind(u - hi, r, equal_var=False, alternative="greater").pvalue,
            stats.ttest_ind(u - lo, r, equal_var=False, alternative="less").pvalue,
        )
    )
    assert welch.interval == exactly(tuple(stats.ttest_ind(u, r, equal_var=False).confidence_interval(0.9)))
    assert welch.n == min(len(u), len(r))


def test_intervals_follow_alpha_and_fail_follows_its_own_level():
    d = [0.9, 1.4, 1.1, 1.8]
    result = equivalence(d, -1, 1, alpha=0.01, alpha_fail=0.2)
    assert result.interval == exactly(tuple(stats.ttest_1samp(d, 0).confidence_interval(0.98)))
    assert 0.05 < result.p_fail < 0.2
    assert result.outcome is Outcome.FAIL
    assert equivalence(d, -1, 1, alpha=0.2).outcome is Outcome.FAIL  # alpha_fail follows alpha
    assert equivalence(d, -1, 1, alpha=0.2, alpha_fail=0.05).outcome is Outcome.INCONCLUSIVE


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
    for margin, sd, true in itertools.product((0.1, 1, 20), (0.3, 2), (-0.4, 0, 0.7)):
        above, below = (margin - true) / sd * math.sqrt(n), (-margin - true) / sd * math.sqrt(n)
        two_sided = tost_power(n, margin, sd, true, alpha)
        one_sided = tost_power(n, margin, sd, true, alpha, two_sided=False)
        assert two_sided == pytest.approx(integrated_power(df, above, below, t), abs=1e-8)
        assert one_sided == pytest.approx(integrated_power(df, above, -INF, t), abs=1e-8)
        if abs(above) < 30:
            assert one_sided == pytest.approx(1 - special.nctdtr(df, above, t), abs=1e-8)


def test_power_of_very_many_seeds_is_that_of_a_normal_test():
    n, z = 10**6, stats.norm.isf(0.05)
    assert tost_power(n, 2.5e-3, 1, two_sided=False) == pytest.approx(special.ndtr(2.5 - z), abs=1e-6)
    assert tost_power(n, 2.5e-3, 1) == pytest.approx(2 * special.ndtr(2.5 - z) - 1, abs=1e-6)


# ---- counts


def test_clopper_pearson_known_answers():
    assert bounds.clopper_pearson(4, 20) == pytest.approx((0.0573, 0.4366), abs=5e-5)
    assert bounds.cp_upper(0, 10, 0.05) == pytest.approx(0.2589, abs=5e-5)
    for k, n, conf in itertools.product(range(8), (7, 30), (0.8, 0.95)):
        low, high = stats.binomtest(k, n).proportion_ci(conf, method="exact")
        assert bounds.clopper_pearson(k, n, conf) == pytest.approx((low, high), rel=1e-9)
        one_sided = proportion.proportion_confint(k, n, 2 - 2 * conf, "beta")[0]
        assert bounds.cp_lower(k, n, 1 - conf) == exactly(one_sided)


def test_newcombe_known_answers():
    assert bounds.newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    for k1, k2, conf in itertools.product((0, 3, 9), (0, 7, 15), (0.9, 0.95)):
        expected = proportion.confint_proportions_2indep(k1, 9, k2, 15, "newcomb", "diff", alpha=1 - conf)
        assert bounds.newcombe(k1, 9, k2, 15, conf) == exactly(expected)


def test_exact_non_inferiority_known_answers():
    assert bounds.exact_ni(0, 14, 0, 14, 0.2) == pytest.approx(0.0440, abs=5e-5)
    assert bounds.exact_ni(0, 16, 0, 16, 0.2) == exactly(0.8**16)  # tables on the diagonal do not inflate it
    assert bounds.exact_ni(9, 9, 0, 9, 0.2) == exactly(1)


@pytest.mark.parametrize(("delta", "n"), [(0.05, 59), (0.1, 29), (0.15, 19), (0.2, 14), (0.3, 9), (0.5, 5)])
def test_trials_needed_without_a_hit(delta, n):
    assert bounds.exact_ni(0, n, 0, n, delta) <= 0.05 < bounds.exact_ni(0, n - 1, 0, n - 1, delta)


def restricted_score(k_u, n_u, k_r, n_r, delta):
    """Farrington and Manning's score with the likelihood maximised numerically."""

    def loss(r):
        u = r + delta
        terms = ((k_u, u), (n_u - k_u, 1 - u), (k_r, r), (n_r - k_r, 1 - r))
        return -sum(special.xlogy(k, max(x, 0.0)) for k, x in terms)

    r = optimize.minimize_scalar(loss, bounds=(0, 1 - delta), method="bounded", options={"xatol": 1e-12}).x
    u = r + delta
    return (k_u / n_u - k_r / n_r - delta) / math.sqrt(u * (1 - u) / n_u + r * (1 - r) / n_r)


def brute_exact_ni(k_u, n_u, k_r, n_r, delta):
    tables = list(itertools.product(range(n_u + 1), range(n_r + 1)))
    observed = restricted_score(k_u, n_u, k_r, n_r, delta)
    extreme = [(a, b) for a, b in tables if restricted_score(a, n_u, b, n_r, delta) <= observed + 1e-5]
    r = np.linspace(0, 1 - delta, 20_001)
    return max(sum(stats.binom.pmf(a, n_u, r + delta) * stats.binom.pmf(b, n_r, r) for a, b in extreme))


@pytest.mark.parametrize(
    "case",
    [
        (1, 8, 1, 6, 0.3),
        (2, 6, 3, 8, 0.2),
        (4, 8, 4, 8, 0.2),
        (0, 5, 2, 9, 0.1),
        (3, 9, 2, 4, 0.45),
        (2, 7, 5, 10, 0.1),
    ],
)
def test_exact_non_inferiority_agrees_with_enumeration(case):
    assert bounds.exact_ni(*case) == pytest.approx(brute_exact_ni(*case), abs=1e-6)


def test_score_of_a_table_whose_cubic_has_a_double_root():
    # For 8/16 against 8/16 the restricted estimates are .6 and .4, by symmetry.
    assert bounds._scores(16, 16, 0.2)[8, 8] == exactly(-0.2 / math.sqrt(2 * 0.24 / 16))
    assert bounds._scores(16, 16, 0.3)[3, 1] == pytest.approx(-1.3722, abs=5e-5)
    for case in itertools.product(range(6), [5], range(8), [7], [0.05, 0.4]):
        k_u, n_u, k_r, n_r, delta = case
        assert bounds._scores(n_u, n_r, delta)[k_u, k_r] == pytest.approx(restricted_score(*case), abs=1e-5)


def test_exact_non_inferiority_is_monotone_in_both_counts_and_keeps_its_size():
    for n_u, n_r, delta in ((8, 8, 0.2), (4, 9, 0.35), (12, 7, 0.1)):
        p = np.array([[bounds.exact_ni(a, n_u, b, n_r, delta) for b in range(n_r + 1)] for a in range(n_u + 1)])
        assert (np.diff(p, axis=0) >= -1e-12).all()
        assert (np.diff(p, axis=1) <= 1e-12).all()
        r = np.linspace(0, 1 - delta, 301)[:, None]
        pmf_u = stats.binom.pmf(np.arange(n_u + 1), n_u, r + delta)
        pmf_r = stats.binom.pmf(np.arange(n_r + 1), n_r, r)
        for alpha in (0.0125, 0.05, 0.2):
            assert (np.einsum("gi,ij,gj->g", pmf_u, p <= alpha, pmf_r) <= alpha + 1e-9).all()


def test_tables_that_are_equally_extreme_have_one_p_value():
    for a, b in itertools.product(range(10), repeat=2):  # misses of the one arm are hits of the other
        p = bounds.exact_ni(a, 9, b, 9, 0.2)
        assert p == pytest.approx(bounds.exact_ni(9 - b, 9, 9 - a, 9, 0.2), abs=1e-9)


def test_boschloo_known_answers():
    assert bounds.boschloo(5, 5, 0, 5) == pytest.approx(0.000977, abs=5e-7)
    assert bounds.boschloo(3, 3, 0, 3) == pytest.approx(0.0156, abs=5e-5)
    assert bounds.boschloo(0, 5, 5, 5) == exactly(1)
    assert bounds.boschloo(6, 7, 1, 4) == pytest.approx(
        stats.boschloo_exact([[6, 1], [1, 3]], alternative="greater").pvalue
    )


# ---- multiplicity

P_VALUES = (0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205)


def test_holm_and_benjamini_hochberg_known_answers():
    assert holm(P_VALUES) == exactly([0.008, 0.056] + 6 * [0.234])
    assert bh(P_VALUES) == pytest.approx([0.008, 0.032] + 3 * [0.0672] + [0.08, 0.08457, 0.205], abs=5e-6)


@pytest.mark.parametrize("seed", range(10))
def test_adjusted_p_values_agree_with_statsmodels(seed):
    p = np.random.default_rng(seed).beta(0.5, 2, size=seed)
    if not len(p):
        assert holm([]) == bh([]) == bh([], dependent=True) == []
        return
    assert holm(p) == exactly(multitest.multipletests(p, method="holm")[1].tolist())
    assert bh(p) == exactly(multitest.multipletests(p, method="fdr_bh")[1].tolist())
    assert bh(p, dependent=True) == exactly(multitest.multipletests(p, method="fdr_by")[1].tolist())


# ---- proven residues


def test_gaussian_residue_known_answers():
    assert bounds.gaussian_set_statistic([1, 2, 3, -1]) == exactly(5 / 2)
    assert bounds.mu_lower([3.4]) == exactly(3.4 - stats.norm.isf(0.05))
    assert bounds.mu_lower([3, 2, 1, 4], 0.01) == exactly(2.5 - stats.norm.isf(0.01) / 2)
    assert bounds.mu_lower([0.5, -0.5]) == 0
    assert bounds.eps_lower_single(3.4e-4, 0.05, 1e-5) == pytest.approx(5.0, abs=0.05)
    assert bounds.eps_lower_single(stats.norm.sf(5), 0.05, 1e-5) == pytest.approx(12.1, abs=0.05)
    assert bounds.eps_lower_single(0.001, 0.05, 0.01) == exactly(math.log(40))
    assert bounds.eps_lower_single(0.001) == exactly(math.log((0.05 - 1e-5) / 0.001))
    rate = stats.beta.ppf(0.1, 8, 3)
    assert bounds.eps_lower_threshold(8, 10, 0.02, 0.1, 0.05) == exactly(math.log((rate - 0.05) / 0.02))
    rate = stats.beta.ppf(0.05, 8, 3)
    assert bounds.eps_lower_threshold(8, 10, 0.02) == exactly(math.log((rate - 1e-5) / 0.02))


def test_gaussian_differential_privacy_known_answers():
    assert bounds.gdp_delta(1, 1) == exactly(0.12693673750664)
    assert bounds.gdp_eps(1, 0.12693673750664) == pytest.approx(1, abs=1e-10)
    assert bounds.gdp_eps(1) == pytest.approx(4.377, abs=5e-4)
    for mu, eps in itertools.product((0.2, 1, 3), (0, 0.5, 4)):
        expected = stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu)
        assert bounds.gdp_delta(mu, eps) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert bounds.gdp_eps(mu, bounds.gdp_delta(mu, eps)) == pytest.approx(eps, abs=1e-6)
    assert 0 < bounds.gdp_delta(40, 700) < 1  # e^eps near the end of the floats
    assert bounds.gdp_delta(0.01, 5) == 0  # underflow, not a negative number


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
    bound = bounds.one_run_eps(*case, alpha, delta)
    if bound == 0:
        assert one_run_p_value(*case, 0, delta) >= alpha
    else:
        assert one_run_p_value(*case, bound, delta) == pytest.approx(alpha, abs=1e-9)


def test_one_run_bound_of_guesses_that_are_all_right():
    # Without delta the bound on v = r guesses is q^r = alpha.
    q = 0.05 ** (1 / 30)
    assert bounds.one_run_eps(30, 30, 30, 0.05, 0) == pytest.approx(math.log(q / (1 - q)), abs=1e-9)
    assert bounds.one_run_eps(30, 30, 30) < bounds.one_run_eps(30, 30, 30, delta=0)
    assert bounds.one_run_eps(30, 30, 30, 0.05, 1e-5) == bounds.one_run_eps(30, 30, 30)
    assert bounds.one_run_eps(30, 30, 0) == bounds.one_run_eps(30, 0, 0) == 0


def test_bad_seed_bound_known_answers():
    bounds = [round(bad_seed_bound(n), 2) for n in (0, 1, 3, 5, 8, 10, 16, 30, 59)]
    assert bounds == [1, 0.95, 0.63, 0.45, 0.31, 0.26, 0.17, 0.10, 0.05]
    assert bad_seed_bound(2, 0.25) == exactly(0.5)


# ---- calibration: error rates of 8,000 simulated audits, within 4 standard errors


def rates(results):
    n = len(results)
    return tuple(sum(r.outcome is outcome for r in results) / n for outcome in (Outcome.PASS, Outcome.FAIL))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_equivalence_has_its_size_at_the_margin(n):
    d = np.random.default_rng(n).normal(1, 0.2, size=(8000, n)).tolist()
    assert rates([equivalence(x, -1, 1) for x in d]) == pytest.approx((0.05, 0.05), abs=0.01)
    assert rates([equivalence(x, -INF, 1, alpha=0.2, alpha_fail=0.1) for x in d]) == pytest.approx(
        (0.2, 0.1), abs=0.018
    )


@pytest.mark.parametrize(("n_u", "n_r"), [(5, 5), (12, 6)])
def test_welch_has_its_size_at_the_margin_with_unequal_variances(n_u, n_r):
    g = np.random.default_rng(n_u)
    u, r = g.normal(-1, 0.5, (8000, n_u)).tolist(), g.normal(0, 0.15, (8000, n_r)).tolist()
    results = [equivalence_welch(x, y, -1, 2) for x, y in zip(u, r, strict=True)]
    assert rates(results) == pytest.approx((0.05, 0.05), abs=0.01)


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


def test_a_poison_that_does_nothing_passes_no_method():
    g = np.random.default_rng(0)
    p, r, u = g.normal(0, 1, (3, 8000, 5))
    results = [retention(*map(list, x)) for x in zip(p, r, u, strict=True)]
    assert sum(x.reason != "no-bite" for x in results) / 8000 == pytest.approx(0.05, abs=0.01)


def test_power_agrees_with_simulation():
    d = np.random.default_rng(1).normal(0.2, 0.8, (8000, 7)).tolist()
    passed, _ = rates([equivalence(x, -1, 1) for x in d])
    assert passed == pytest.approx(tost_power(7, 1, 0.8, 0.2), abs=0.02)


def test_residue_bound_covers_the_truth():
    runs = np.random.default_rng(2).normal(1, 1, (8000, 6)).tolist()
    assert sum(bounds.mu_lower(t) <= 1 for t in runs) / 8000 == pytest.approx(0.95, abs=0.01)
