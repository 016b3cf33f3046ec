"""The seed plans on numbers that are not normal, many studies at a time.

Here P is 1 and R is 0 on every seed, so that U is the fraction of the poison that is left, and its law can be chosen.
`walk` is the arithmetic of `harness.judging.judge` for one claim of retention, on arrays; a test holds it against the
real one (``tests/judging/test_plans.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from harness.judging.plan import KINDS, LOOKS, MIN_PASS, Plan
from harness.judging.reliable import PAST_RETRAINING
from harness.statistics import clopper_pearson, retention, tost_power
from harness.statistics.levels import DUST
from harness.statistics.robust import SPREADS

Array = NDArray[np.float64]
Law = Callable[[np.random.Generator, tuple[int, int]], Array]

TAU = 0.2
LAST = LOOKS[-1]
#: The lower margin of the test of retention, and the upper one.
LOW, HIGH = retention([1.0] * 3, [0.0] * 3, [0.0] * 3, tau=TAU).bounds
PASS, FAIL, INCONCLUSIVE = 1, -1, 0
#: Standard deviations of R' - R over seeds, as fractions of the effect. U is read with as much noise, beside its law.
NOISE = (0.0, 0.05, 0.125, 0.2)
#: More of them, for methods that leave the same on every seed.
NOISES = (0.05, 0.1, 0.125, 0.15, 0.2, 0.25)


def rare(share: float, least: float = 0.0, most: float = 1.0) -> Law:
    """Return a law that leaves ``most`` of the poison on a share of seeds and ``least`` on the others."""
    return lambda rng, shape: np.where(rng.random(shape) < share, most, least)


def beta(concentration: float) -> Law:
    """Return a beta law of mean TAU; the smaller the concentration, the nearer to all or nothing."""
    return lambda rng, shape: rng.beta(TAU * concentration, (1 - TAU) * concentration, shape)


def counts(concentration: float) -> Law:
    """Return over-dispersed counts out of 100: binomial, of a rate that is beta over seeds."""
    return lambda rng, shape: rng.binomial(100, beta(concentration)(rng, shape)) / 100


def exponential(sd: float, tail: int = 1) -> Law:
    """Return an exponential law of mean TAU, whose tail points up (1) or down (-1)."""
    return lambda rng, shape: TAU + tail * (rng.exponential(sd, shape) - sd)


def lognormal(sigma: float, tail: int = 1) -> Law:
    """Return a lognormal law of mean TAU, reflected at its mean for a tail of -1."""
    return lambda rng, shape: TAU + tail * TAU * (np.exp(rng.normal(-(sigma**2) / 2, sigma, shape)) - 1)


#: What methods leave of the poison. All have the mean TAU, on the margin, where PASS and FAIL are both wrong, but for
#: the one that does nothing on 30 % of seeds: a PASS of it is more wrong, a FAIL right.
LAWS: dict[str, Law] = {
    "normal, sd 0.125": lambda rng, shape: rng.normal(TAU, 0.125, shape),
    "nothing done on 20 % of seeds": rare(0.2),
    "nothing done on 30 % of seeds": rare(0.3),
    "half done on 40 % of seeds": rare(0.4, most=0.5),
    "beta, concentration 0.5": beta(0.5),
    "beta, concentration 1": beta(1),
    "beta, concentration 2.5": beta(2.5),
    "beta, concentration 10": beta(10),
    "exponential, tail up, sd 0.125": exponential(0.125),
    "exponential, tail up, sd 0.2": exponential(0.2),
    "lognormal, tail up, sigma 1": lognormal(1),
    "lognormal, tail up, sigma 1.5": lognormal(1.5),
    "exponential, tail down, sd 0.125": exponential(0.125, -1),
    "exponential, tail down, sd 0.2": exponential(0.2, -1),
    "lognormal, tail down, sigma 1": lognormal(1, -1),
    "lognormal, tail down, sigma 1.5": lognormal(1.5, -1),
    "counts of 100, concentration 0.5": counts(0.5),
    "counts of 100, concentration 1": counts(1),
    "counts of 100, concentration 5": counts(5),
}
#: Laws that the rule was not made for. They had a say in the choice of its level, too, so they are no independent test.
HELD_OUT: dict[str, Law] = {
    "0.1 left, and all on 11 % of seeds": rare(1 / 9, least=0.1),
    "0.06 left, and all on 15 % of seeds": rare(0.14 / 0.94, least=0.06),
    "0.15 left, and all on 6 % of seeds": rare(0.05 / 0.85, least=0.15),
    "0.7 left on 29 % of seeds": rare(2 / 7, most=0.7),
    "Weibull, shape 0.5": lambda rng, shape: 0.5 * TAU * rng.weibull(0.5, shape),
    "gamma, shape 0.3": lambda rng, shape: rng.gamma(0.3, TAU / 0.3, shape),
    "t with 3 degrees, scale 0.1": lambda rng, shape: TAU + 0.1 * rng.standard_t(3, shape),
    "uniform, 0 to 0.4": lambda rng, shape: rng.uniform(0, 2 * TAU, shape),
    "0.35 left, and -0.4 on 20 % of seeds": rare(0.2, least=0.35, most=-0.4),
    "0.25 left, and -0.8 on 5 % of seeds": rare(1 / 21, least=0.25, most=-0.8),
}


def walk(
    left: Array, oracle: Array, plan: Plan, judged: int = 1, gated: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Judge studies by a plan, as `harness.judging.judge.judge` does.

    Args:
        left: (studies, 16) fractions of the poison that U leaves.
        oracle: (studies, 16) fractions that R' leaves.
        plan: The plan.
        judged: Claims in the cell.
        gated: Whether nothing passes before the oracle has, and nothing is judged once it has failed.

    Returns:
        The outcome of each study, and the seeds that it rests on.
    """
    size = len(left)
    gate, gate_seeds = np.full(size, PASS), np.zeros(size, np.int64)
    if gated:
        gate, gate_seeds = walk(oracle, oracle, plan.to_the_end, judged, gated=False)
    outcome, seeds = np.full(size, INCONCLUSIVE), np.full(size, plan.looks[-1])
    done, passed_at = np.zeros(size, bool), np.zeros(size, np.int64)
    for n in plan.looks:
        fractions, fresh = left[:, :n], oracle[:, :n]
        forbidden = ~done & (gate == FAIL) & (gate_seeds <= n)
        passing, failing, middle, sd = tests(fractions)
        testing = ~done & ~forbidden & (passed_at == 0)
        fails = testing & rejects(failing, plan.fail_level(judged))
        held = fails & ~fail_holds(fractions, plan, judged)
        passes = testing & ~fails & rejects(passing, plan.pass_level)
        waits = passes & ~((n >= plan.min_pass) & pass_holds(fractions, fresh, plan))
        passed_at[passes & ~waits] = n
        through = ~done & ~forbidden & (passed_at > 0) & (gate == PASS) & (gate_seeds <= n)
        open_ = testing & ~fails & (passed_at == 0) & (~waits | (n < plan.min_pass) & ~np.bool_(plan.reliable))
        given_up = open_ & hopeless(middle, sd, n, plan, judged)
        outcome[fails & ~held], outcome[through] = FAIL, PASS
        seeds[forbidden | (fails & ~held) | given_up] = n
        done |= forbidden | (fails & ~held) | through | given_up
    return outcome, np.where(passed_at > 0, passed_at, seeds)


def rejects(p: Array, alpha: float) -> NDArray[np.bool_]:
    """Return where p-values reject, as `harness.statistics.rejects`."""
    return np.asarray(p <= alpha * (1 + 1e-9))


def tests(fractions: Array) -> tuple[Array, Array, Array, Array]:
    """Return the p-values of a PASS and of a FAIL, the means and the standard deviations."""
    n = fractions.shape[1]
    middle, sd = fractions.mean(axis=1), fractions.std(axis=1, ddof=1)
    sd = np.where(sd > DUST * np.maximum(1, np.abs(fractions).max(axis=1)), sd, 0.0)

    def tail(gap: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            p = special.stdtr(n - 1, -gap * np.sqrt(n) / sd)
        return np.where(sd > 0, p, np.where(gap > 1e-12, 0.0, 1.0))

    above, not_above = tail(middle - HIGH), tail(HIGH - middle)
    below, not_below = tail(LOW - middle), tail(middle - LOW)
    failing = np.minimum(np.minimum(above + not_below, below + not_above), 1.0)
    return np.maximum(not_above, not_below), failing, middle, sd


def pass_holds(fractions: Array, fresh: Array, plan: Plan) -> NDArray[np.bool_]:
    """Return where the reliable plan's conditions on a PASS hold, but for the number of seeds."""
    if not plan.reliable:
        return np.ones(len(fractions), bool)
    return np.asarray(_steady(fractions, fresh) & (_stake(fractions) >= 1 / plan.evidence_level))


def fail_holds(fractions: Array, plan: Plan, judged: int) -> NDArray[np.bool_]:
    """Return where the reliable plan's condition on a FAIL holds."""
    if not plan.reliable:
        return np.ones(len(fractions), bool)
    over = fractions.mean(axis=1, keepdims=True) > HIGH
    inside = np.where(over, HIGH - fractions, fractions - LOW)
    return np.asarray(stake(inside, TAU + PAST_RETRAINING) >= (1 - 1e-9) * judged / plan.evidence_level)


def stake(x: Array, most: float) -> Array:
    """Return the e-values of rows, as `harness.statistics.e_value`."""
    return np.maximum(1.0, np.cumprod(np.maximum(0.0, 1 - x / most), axis=1).max(axis=1))


def hopeless(middle: Array, sd: Array, n: int, plan: Plan, judged: int) -> NDArray[np.bool_]:
    """Return which studies the plan gives up at a look that does not decide them."""
    found = np.zeros(len(middle), bool)
    if plan.futility == 0 or not MIN_PASS <= n < plan.looks[-1]:
        return found
    outside = (middle > HIGH) | (middle < LOW)
    distance = np.minimum(np.abs(middle - HIGH), np.abs(middle - LOW))
    levels = (plan.fail_level(judged), plan.pass_level)
    nearest = np.where(outside, *(_threshold(plan.futility, level) for level in levels))
    found = distance < nearest * sd
    # Both margins take part in a PASS; where 4 deviations fit between them, the farther one takes nothing.
    near = ~outside & ~found & (4 * sd > HIGH - LOW)
    for i in np.flatnonzero(near):
        power = tost_power(LAST, (HIGH - LOW) / 2, sd[i], plan.pass_level, True, true=abs(middle[i]))
        found[i] = power < plan.futility
    return found


@cache
def _threshold(futility: float, level: float) -> float:
    """Return the distance to one margin, in standard deviations, at which the last look has so much power."""
    return float(optimize.brentq(lambda d: tost_power(LAST, d, 1.0, level, two_sided=False) - futility, 1e-9, 10))


def studies(law: Law, noise: float, runs: int) -> tuple[Array, Array]:
    """Return what U and R' leave in so many studies of 16 seeds, read with noise; the same for the same arguments."""
    rng = np.random.default_rng(1)
    left, own, fresh = law(rng, (runs, LAST)), rng.normal(size=(runs, LAST)), rng.normal(size=(runs, LAST))
    return left + noise * own, noise * fresh


def rates(law: Law, noise: float, runs: int, plan: Plan, judged: int = 1) -> dict[str, Any]:
    """Return how often a plan passes and fails a law, with 95 % intervals, and its mean seeds.

    The oracle's gate is left open, so that the method's own error rates are seen.
    """
    outcome, seeds = walk(*studies(law, noise, runs), plan, judged, gated=False)
    found: dict[str, Any] = {"seeds": float(seeds.mean())}
    for name, value in (("pass", PASS), ("fail", FAIL)):
        count = int((outcome == value).sum())
        found[name] = {"rate": count / runs, "interval": clopper_pearson(count, runs)}
    return found


def margins(runs: int) -> list[dict[str, Any]]:
    """Return the rates of both plans for every law and noise; print them."""
    rows = []
    for held_out, laws in ((False, LAWS), (True, HELD_OUT)):
        for (name, law), noise in ((item, noise) for item in laws.items() for noise in NOISE):
            plans = {kind: rates(law, noise, runs, Plan(kind=kind)) for kind in KINDS}
            rows.append({"law": name, "noise": noise, "held_out": held_out, **plans})
            shown = "   ".join(
                f"{kind} PASS {one['pass']['rate']:.3f} FAIL {one['fail']['rate']:.3f} seeds {one['seeds']:4.1f}"
                for kind, one in plans.items()
            )
            print(f"{name:37s} noise {noise:<5}  {shown}", flush=True)
    return rows


def powers(runs: int) -> list[dict[str, Any]]:
    """Return the rates of both plans for the oracle and for methods that leave the same on every seed; print them."""
    rows = []
    for left, noise in ((left, noise) for left in (0.0, 0.1, 0.3, 0.5, 1.0) for noise in NOISES):
        steady = rare(0.0, least=left)
        plans = {kind: rates(steady, noise, runs, Plan(kind=kind), judged=2) for kind in KINDS}
        rows.append({"left": left, "noise": noise, **plans})
        shown = "   ".join(
            f"{kind} PASS {one['pass']['rate']:.3f} FAIL {one['fail']['rate']:.3f} seeds {one['seeds']:4.1f}"
            for kind, one in plans.items()
        )
        print(f"left {left:<4} on every seed, noise {noise:<5}  {shown}", flush=True)
    return rows


def uneven(runs: int) -> list[dict[str, Any]]:
    """Return how often 16 seeds PASS by the reliable plan where the poison's effect varies over seeds; print it.

    What is left is 0.2: of each seed's own effect on average, or in the last rows of all effects together. In these,
    it is only seeds with a large effect that keep anything, and they keep all of it.
    """
    rng = np.random.default_rng(1)
    shape, rows = (runs, LAST), []

    def row(name: str, effects: Array, left: Array) -> None:
        x = (left - HIGH) * effects / effects.mean(axis=1, keepdims=True)
        steady = (x <= 1e-12).all(axis=1)
        passing = rejects(tests(x + HIGH)[0], 0.05) & steady & (_stake(left) >= 1 / 0.075)
        count = int(passing.sum())
        of_each, together = float(left.mean()), float((left * effects).mean() / effects.mean())
        rows.append(
            {
                "law": name, "left_of_each_effect": of_each, "left_of_all_effects": together,
                "pass": {"rate": count / runs, "interval": clopper_pearson(count, runs)},
            }
        )  # fmt: skip
        print(f"{name:45s} left {of_each:.3f}, of all {together:.3f}   PASS {count / runs:.3f}", flush=True)

    for sd in (0.1, 0.2, 0.5):
        sigma = np.sqrt(np.log1p(sd**2))
        effects = np.exp(rng.normal(-(sigma**2) / 2, sigma, shape))
        for name in ("nothing done on 20 % of seeds", "beta, concentration 1"):
            row(f"{name}; effects vary by {sd:g}", effects, LAWS[name](rng, shape))
    for times, share in ((2, 0.3), (3, 0.3), (6, 0.2)):
        large = rng.random(shape) < share
        effects = np.where(large, float(times), 1.0)
        kept = TAU * (1 - share + share * times) / (share * times)  # of the large seeds, so that TAU is left of all
        row(f"{times} times the effect on {share:.0%} of seeds", effects, 1.0 * (large & (rng.random(shape) < kept)))
    return rows


def candidates(runs: int) -> list[dict[str, Any]]:
    """Return how rules of a PASS on 16 seeds compare: their worst rows, and how often each passes the oracle; print it.

    The rule that was taken is the one that passes the oracle most often among those whose false PASS is at most 1.5
    alpha in every row, those of the laws held out included.
    """
    rules: dict[str, Callable[[Array, Array], NDArray[np.bool_]]] = {
        "t test at alpha alone": lambda left, fresh: np.ones(len(left), bool),
        "no seed beyond the margin": lambda left, fresh: (left <= HIGH).all(axis=1),
        "no seed beyond halfway to all": lambda left, fresh: (left <= (1 + HIGH) / 2).all(axis=1),
        "no seed beyond the scatter of R'": _steady,
        "... and an e-value of 1 / (2.5 alpha)": lambda left, fresh: _steady(left, fresh) & (_stake(left) >= 8),
        "... and an e-value of 1 / (1.5 alpha)": lambda left, fresh: _steady(left, fresh) & (_stake(left) >= 1 / 0.075),
        "... and an e-value of 1 / alpha": lambda left, fresh: _steady(left, fresh) & (_stake(left) >= 20),
    }
    rows = []
    for name, rule in rules.items():

        def passing(law: Law, noise: float, rule: Any = rule) -> float:
            left, fresh = studies(law, noise, runs)
            return float((rejects(tests(left)[0], 0.05) & rule(left, fresh)).mean())

        row: dict[str, Any] = {"rule": name}
        for key, laws in (("worst", LAWS), ("worst_held_out", HELD_OUT)):
            rate, law, noise = max((passing(law, noise), text, noise) for text, law in laws.items() for noise in NOISE)
            row[key] = {"pass": rate, "law": law, "noise": noise}
        row["oracle"] = {str(noise): passing(rare(0.0, least=0.0), noise) for noise in NOISES}
        rows.append(row)
        oracle = "  ".join(f"{noise}: {rate:.3f}" for noise, rate in row["oracle"].items())
        print(
            f"{name:38s} worst false PASS {row['worst']['pass']:.3f}, held out {row['worst_held_out']['pass']:.3f}   "
            f"oracle by noise {oracle}",
            flush=True,
        )
    return rows


def _steady(left: Array, fresh: Array) -> NDArray[np.bool_]:
    limit = SPREADS * fresh.std(axis=1, ddof=1, keepdims=True) + 1e-12
    return np.asarray(((left - HIGH <= limit) & (LOW - left <= limit)).all(axis=1))


def _stake(left: Array) -> Array:
    return stake(left - HIGH, 1 - HIGH) * (1 + 1e-9)
