"""Bound counts and privacy losses exactly: rarely needed companions of `harness.statistics`.

Proportions of few trials, and proven residues: lower bounds on how far a method is from unlearning a forget set.
A residue can prove that unlearning failed; none ever proves that data are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]


TIE = 1e-9  # scores of tables that are equally extreme differ by rounding only


def cp_lower(k: int, n: int, alpha: float) -> float:
    """Return the lower 1 - `alpha` bound of the proportion behind `k` of `n` (Clopper & Pearson 1934).

    Raises:
        ValueError: if not 0 <= k <= n and n >= 1, or `alpha` is not in (0, 1).
    """
    _count(k, n)
    _probability("alpha", alpha)
    return float(special.betaincinv(k, n - k + 1, alpha)) if k else 0.0


def cp_upper(k: int, n: int, alpha: float) -> float:
    """Return the upper 1 - `alpha` bound of the proportion behind `k` of `n` (Clopper & Pearson 1934).

    Raises:
        ValueError: as `cp_lower`.
    """
    return 1 - cp_lower(n - k, n, alpha)


def clopper_pearson(k: int, n: int, conf: float = 0.95) -> tuple[float, float]:
    """Return the exact central interval of the proportion behind `k` of `n`.

    Raises:
        ValueError: as `cp_lower`, for `conf`.
    """
    _probability("conf", conf)
    return cp_lower(k, n, (1 - conf) / 2), cp_upper(k, n, (1 - conf) / 2)


def newcombe(k1: int, n1: int, k2: int, n2: int, conf: float = 0.95) -> tuple[float, float]:
    """Return an interval of p1 - p2, made of two Wilson intervals (Newcombe 1998, method 10).

    Slightly liberal for few trials: report it, but gate on `exact_ni`.

    Raises:
        ValueError: as `clopper_pearson`.
    """
    p1, lower1, upper1 = _wilson(k1, n1, conf)
    p2, lower2, upper2 = _wilson(k2, n2, conf)
    return (
        p1 - p2 - math.hypot(p1 - lower1, upper2 - p2),
        p1 - p2 + math.hypot(upper1 - p1, p2 - lower2),
    )


def exact_ni(k_u: int, n_u: int, k_r: int, n_r: int, delta: float) -> float:
    """Return the exact p-value of H0 p_u - p_r >= `delta` (unconditional non-inferiority test of Chan 1998).

    Tables are ordered by the score of Farrington & Manning (1990), and their probability is maximised over p_r on a
    grid that is refined around its peak. Small p: u exceeds r by less than `delta`. Compare by `rejects`.

    Deviation: the restricted estimate comes by bisection of the likelihood's slope instead of the published root of
    a cubic, which is undefined for some balanced tables (8/16 against 8/16 at .2) and inexact near its double roots.

    Args:
        k_u: hits of the unlearned models.
        n_u: trials of the unlearned models, at least 1.
        k_r: hits of the retrained models.
        n_r: trials of the retrained models, at least 1.
        delta: margin, in (0, 1).

    Raises:
        ValueError: if counts and trials do not match, or `delta` is out of range.
    """
    _count(k_u, n_u)
    _count(k_r, n_r)
    _probability("delta", delta)
    score = _scores(n_u, n_r, delta)
    as_extreme = (score <= score[k_u, k_r] + TIE).astype(float)

    def size(p_r: Array) -> Array:
        by_r: Array = ((_binomial(n_u, p_r + delta) @ as_extreme) * _binomial(n_r, p_r)).sum(axis=1)
        return by_r

    grid = np.linspace(0, 1 - delta, 513)
    for _ in range(3):
        sizes = size(grid)
        peak = int(np.argmax(sizes))
        grid = np.linspace(grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)], 65)
    return min(1.0, float(sizes[peak]))


def boschloo(k1: int, n1: int, k2: int, n2: int) -> float:
    """Return the exact one-sided p-value of H0 p1 <= p2 (Boschloo 1970): whether a poison bites, from hits.

    Raises:
        ValueError: if counts and trials do not match.
    """
    from scipy.stats import boschloo_exact  # slow to import, rarely needed

    _count(k1, n1)
    _count(k2, n2)
    return float(boschloo_exact([[k1, k2], [n1 - k1, n2 - k2]], alternative="greater").pvalue)


def gaussian_set_statistic(z: Sequence[float]) -> float:
    """Return sum(z) / sqrt(n): standard normal, exactly, if the model never saw the noise that z scores.

    NaN if a score is not finite.

    Raises:
        ValueError: if there is no score.
    """
    scores = [float(x) for x in z]
    if not scores:
        raise ValueError("a Gaussian set statistic needs at least one score.")
    return math.fsum(scores) / math.sqrt(len(scores)) if all(map(math.isfinite, scores)) else math.nan


def mu_lower(t: Sequence[float], alpha: float = 0.05) -> float:
    """Return a lower 1 - `alpha` bound of mu: no mu' below it makes the method mu'-GDP unlearning of the set.

    Runs with fresh noise compose: a mu-GDP method (Dong, Roth & Su 2022) shifts the mean of S statistics by at most mu,
    and that mean has deviation 1 / sqrt(S) under the null, which is all that is used.

    Args:
        t: `gaussian_set_statistic` of each run; 0, which always holds, is returned if one is not finite or none is
            given.
        alpha: error rate, in (0, 1).

    Raises:
        ValueError: if `alpha` is out of range.
    """
    _probability("alpha", alpha)
    runs = [float(x) for x in t]
    if not runs or not all(map(math.isfinite, runs)):
        return 0.0
    n = len(runs)
    return max(0.0, math.fsum(runs) / n + float(special.ndtri(alpha)) / math.sqrt(n))


def eps_lower_single(p_null: float, alpha: float = 0.05, delta: float = 1e-5) -> float:
    """Return a lower 1 - `alpha` bound of epsilon from one run's exact p-value: log((alpha - delta) / p).

    If the method were (epsilon, delta)-unlearning, p <= x had probability at most e^epsilon x + delta (the hypothesis
    test of Wasserman & Zhou 2010). Infinite for p = 0, and 0 if `delta` >= `alpha`.

    Raises:
        ValueError: if `p_null` is not in [0, 1], `alpha` not in (0, 1) or `delta` not in [0, 1).
    """
    _probability("alpha", alpha)
    _slack(delta)
    if not 0 <= p_null <= 1:
        raise ValueError(f"p_null must be in [0, 1], not {p_null}.")
    return _log_ratio(alpha - delta, p_null)


def eps_lower_threshold(k: int, s: int, null_prob: float, alpha: float = 0.05, delta: float = 1e-5) -> float:
    """Return a lower 1 - `alpha` bound of epsilon from `k` of `s` runs beyond a threshold.

    It is log((rate - delta) / null_prob) with the rate's Clopper-Pearson bound. The threshold must be fixed before
    the runs are seen.

    Args:
        k: runs beyond the threshold.
        s: runs, at least 1.
        null_prob: probability that a retrained model is beyond it, in (0, 1).
        alpha: error rate, in (0, 1).
        delta: in [0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """
    _probability("null_prob", null_prob)
    _slack(delta)
    return _log_ratio(cp_lower(k, s, alpha) - delta, null_prob)


def one_run_eps(m: int, r: int, v: int, alpha: float = 0.05, delta: float = 1e-5) -> float:
    """Return a lower 1 - `alpha` bound of epsilon per sample, from one run (Steinke, Nasr & Jagielski 2023).

    It is the largest epsilon that v correct guesses reject, by their bound on the number of correct guesses with its
    delta term (theorem 5.2, and the procedure in their appendix D).

    Args:
        m: samples that were in or out by a fair coin (here: pairs of planted and fresh noise).
        r: guesses made, the most confident ones; at most `m`.
        v: guesses that were right; at most `r`.
        alpha: error rate, in (0, 1).
        delta: in [0, 1).

    Raises:
        ValueError: if an argument is out of range.
    """
    _probability("alpha", alpha)
    _slack(delta)
    if not 0 <= v <= r <= m:
        raise ValueError(f"counts must satisfy 0 <= v <= r <= m, not v={v}, r={r}, m={m}.")
    if v == 0:
        return 0.0
    steps = np.arange(1, v + 1)

    def p_value(eps: float) -> float:
        right = special.expit(eps)
        below = np.append(special.bdtr(np.arange(v), r, right), 0.0)  # below[j] = P(X <= j), and below[-1] = 0
        near = (below[v - 1] - below[v - 1 - steps]) / steps  # mean of P(X = v - 1), ..., P(X = v - step)
        return float(special.bdtrc(v - 1, r, right) + 2 * m * delta * near.max())

    return _last(lambda eps: p_value(eps) < alpha)


def gdp_delta(mu: float, eps: float) -> float:
    """Return the least delta for which mu-GDP implies (eps, delta)-DP (Dong, Roth & Su 2022, corollary 2.13).

    Raises:
        ValueError: if `mu` or `eps` is negative or infinite.
    """
    if not (0 <= mu < math.inf and 0 <= eps < math.inf):
        raise ValueError(f"mu and eps must be finite and at least 0, not {mu} and {eps}.")
    if mu == 0:
        return 0.0
    # Logarithms, because e^eps overflows where the normal tail beside it underflows.
    log_first = float(special.log_ndtr(mu / 2 - eps / mu))
    log_second = eps + float(special.log_ndtr(-mu / 2 - eps / mu))
    return -math.exp(log_first) * math.expm1(min(0.0, log_second - log_first))


def gdp_eps(mu: float, delta: float = 1e-5) -> float:
    """Return the least epsilon for which mu-GDP implies (epsilon, delta)-DP; infinite for delta = 0 and mu > 0.

    Raises:
        ValueError: if `mu` is negative or infinite, or `delta` not in [0, 1).
    """
    _slack(delta)
    if mu > 0 and delta == 0:
        return math.inf
    return _last(lambda eps: gdp_delta(mu, eps) > delta)


def _last(holds: Callable[[float], bool]) -> float:
    """Return the largest x >= 0 for which `holds`, which is true up to it and false beyond; 0 if it never holds."""
    if not holds(0.0):
        return 0.0
    high = 1.0
    while holds(high):
        high *= 2
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _scores(n_u: int, n_r: int, delta: float) -> Array:
    """Return Farrington and Manning's score of every table, as an array over k_u and k_r."""
    k_u = np.arange(n_u + 1.0)[:, None]
    k_r = np.arange(n_r + 1.0)
    low = np.zeros((n_u + 1, n_r + 1))
    high = np.full_like(low, 1 - delta)
    for _ in range(55):
        r = (low + high) / 2
        u = r + delta
        # The slope of the log-likelihood along p_u = p_r + delta, times a positive number that removes its poles.
        slope = (k_u - n_u * u) * r * (1 - r) + (k_r - n_r * r) * u * (1 - u)
        low, high = np.where(slope > 0, r, low), np.where(slope > 0, high, r)
    r = (low + high) / 2
    u = r + delta
    variance = u * (1 - u) / n_u + r * (1 - r) / n_r
    return (k_u / n_u - k_r / n_r - delta) / np.sqrt(variance)


def _binomial(n: int, p: Array) -> Array:
    """Return P(Bin(n, p) = k) as an array over p and k."""
    k, p = np.arange(n + 1), p[:, None]
    choose = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    log_probability: Array = choose + special.xlogy(k, p) + special.xlog1py(n - k, -p)
    return np.exp(log_probability)


def _wilson(k: int, n: int, conf: float) -> tuple[float, float, float]:
    """Return a proportion and Wilson's interval of it."""
    _count(k, n)
    _probability("conf", conf)
    p, z = k / n, float(special.ndtri((1 + conf) / 2))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return p, centre - half, centre + half


def _log_ratio(power: float, level: float) -> float:
    if power <= level:
        return 0.0
    return math.log(power / level) if level > 0 else math.inf


def _count(k: int, n: int) -> None:
    if not (n >= 1 and 0 <= k <= n):
        raise ValueError(f"a count must satisfy 0 <= k <= n with n >= 1, not k={k}, n={n}.")


def _probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), not {value}.")


def _slack(delta: float) -> None:
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1), not {delta}.")
