"""Exact bounds: proportions of few trials, and proven residues.

A residue is a lower bound on how far a method is from unlearning a forget set. It can prove that unlearning failed;
none ever proves that data are gone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special


def clopper_pearson(k: int, n: int, conf: float = 0.95) -> tuple[float, float]:
    """Return the exact central interval of the proportion behind `k` of `n` (Clopper & Pearson 1934).

    Raises:
        ValueError: if not 0 <= k <= n and n >= 1, or `conf` is not in (0, 1).
    """
    if not (n >= 1 and 0 <= k <= n):
        raise ValueError(f"a count must satisfy 0 <= k <= n with n >= 1, not k={k}, n={n}.")
    _probability("conf", conf)
    low, high = (float(special.betaincinv(hits, n - hits + 1, (1 - conf) / 2)) if hits else 0.0 for hits in (k, n - k))
    return low, 1 - high


def mu_lower(t: Sequence[float], alpha: float = 0.05) -> float:
    """Return a lower 1 - `alpha` bound of mu: no mu' below it makes the method mu'-GDP unlearning of the set.

    Runs with fresh noise compose: a mu-GDP method (Dong, Roth & Su 2022) shifts the mean of S statistics by at most mu,
    and that mean has deviation 1 / sqrt(S) under the null, which is all that is used.

    Args:
        t: a statistic of each run that is N(0, 1) for a model which never saw the set; if one is not finite or none
            is given, 0 is returned, which always holds.
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
    power = alpha - delta
    if power <= p_null:
        return 0.0
    return math.log(power / p_null) if p_null > 0 else math.inf


def one_run_eps(m: int, r: int, v: int, alpha: float = 0.05, delta: float = 1e-5) -> float:
    """Return a lower 1 - `alpha` bound of epsilon per sample, from one run (Steinke, Nasr & Jagielski 2023).

    It is the largest epsilon that v correct guesses reject, by their bound on the number of correct guesses with its
    delta term (theorem 5.2, and the procedure in their appendix D).

    Args:
        m: samples that were in or out by a fair coin, such as canaries.
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


def _probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), not {value}.")


def _slack(delta: float) -> None:
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1), not {delta}.")
