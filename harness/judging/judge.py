"""From evidence to a judgement: the looks of the seed plan, the controls' gates, and what stops them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.api import Outcome
from harness.judging.claims import Criterion
from harness.judging.plan import LOOKS, MIN_PASS, Plan
from harness.judging.reasons import Reason
from harness.judging.reliable import withheld
from harness.judging.verdict import Evidence, Look
from harness.judging.yardsticks import CPU_FLOOR, beyond, counted_in
from harness.statistics import (
    Result,
    equivalence_paired,
    exact_null,
    rejects,
    retention,
    seeds_needed,
    t_statistic,
    tost_power,
)

#: Shares of the poisoned model's measure in the mixtures that are judged as a control.
DOSES = (0.0, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Judgement:
    """The state of a claim after the looks that the evidence allows.

    Attributes:
        outcome: What is concluded.
        reason: Why: a `Reason`, or a poison's own text.
        result: The test at the look that decided, with its interval at ``level``.
        level: What the deciding p-value was held against.
        seeds: Seeds that it rests on.
        looked: Seeds that were looked at, the oracle's included: a PASS may have had to wait for the oracle's.
        final: Whether more seeds of the plan cannot change it.
    """

    outcome: Outcome
    reason: str
    result: Result
    level: float
    seeds: int
    looked: int
    final: bool


def judge(criterion: Criterion, evidence: Evidence, plan: Plan) -> Judgement:
    """Go through the looks of the plan that the evidence reaches, and stop at the first conclusion.

    The result depends on the seeds up to that conclusion and on nothing computed beyond it.
    """
    return _through(gated(criterion, evidence, plan))


def gated(criterion: Criterion, evidence: Evidence, plan: Plan) -> SequentialTest:
    """Return the test that the controls gate, before its first look.

    The controls are judged by the same claim. Until the oracle has passed, nothing can pass. If the oracle fails, or if
    a model that was never trained keeps its accuracy, nothing is judged at all. Stopping early without a verdict
    (futility) leaves the error rates as they are. As gates, controls are judged to the end: a method may pass where the
    oracle, were it a method under the same plan, would have been given up.

    Args:
        criterion: What is tested.
        evidence: Of the method and of the controls.
        plan: When it is looked at.
    """
    through = plan.to_the_end
    gates = {"oracle": ungated(criterion, evidence.of(evidence.oracle), through)}
    if criterion.measure.test == "non-inferiority":  # of a poison, neither identity nor a mixture out of order can pass
        gates["wrecked"] = ungated(criterion, evidence.of(evidence.wrecked), through)
    return SequentialTest(criterion, evidence, plan, gates)


def ungated(criterion: Criterion, evidence: Evidence, plan: Plan) -> Judgement:
    """Judge as `judge` does, whatever the controls' own verdicts are: for controls, and for the tests' error rates."""
    return _through(SequentialTest(criterion, evidence, plan, {}))


def doses(criterion: Criterion, evidence: Evidence, plan: Plan) -> list[Outcome]:
    """Return the outcome of ``U = k P + (1 - k) R``, mixed seed by seed, for each k in `DOSES`; nothing is trained.

    More poison never gets a better verdict: U - R is k (P - R), so all contrasts are multiples of the same numbers.
    """
    pairs = list(zip(evidence.poisoned, evidence.retrained, strict=True))
    mixtures = [tuple(k * p + (1 - k) * r for p, r in pairs) for k in DOSES]
    return [ungated(criterion, evidence.of(mixture), plan.to_the_end).outcome for mixture in mixtures]


def path(criterion: Criterion, evidence: Evidence, plan: Plan) -> tuple[Look, ...]:
    """Return what the plan sees at each look that the evidence reaches, by the tests that `judge` makes there."""
    found = []
    for n in (n for n in plan.looks if n <= len(evidence)):
        passing = _test(criterion, evidence.first(n), plan.null_level if criterion.exact else plan.pass_level)
        failing = _test(criterion, evidence.first(n), plan.fail_level(criterion.judged))
        found.append(Look(n, passing.estimate, passing.interval, failing.interval, passing.p_pass, passing.p_fail))
    return tuple(found)


def beside_remaining(criterion: Criterion, evidence: Evidence, level: float) -> dict[str, float]:
    """Compare a method that was given some poisoned points with D, retraining on all but these.

    Informs and gates nothing: where D keeps the poison, reaching it is no achievement. Tested is the contrast (U - D) -
    tau (P - R), one-sided: at most tau of the poison's effect lies above D. Below D is nearer to clean data, no fault.

    Args:
        criterion: Of a retention test.
        evidence: With ``remaining``.
        level: Of the tests; intervals are at ``1 - 2 * level``.

    Returns:
        ``remaining_keeps`` and ``remaining_leaves``, the fractions of the poison's effect that are left in D and in U,
        and ``above_remaining``, U - D as such a fraction, each with ``_low`` and ``_high``; ``remaining_seeds`` and
        ``remaining_level``; ``reaches_remaining`` and ``identity_reaches_remaining``, of U and P, 1 where it is shown,
        0 where the opposite is, not-a-number where neither is.
    """
    d = evidence.remaining
    raised = tuple(p - r + x for p, r, x in zip(evidence.poisoned, evidence.retrained, d, strict=True))
    against_d = replace(evidence, poisoned=raised, retrained=d)  # D, with the poison's whole effect above it
    above, identity = (
        _test(criterion, against_d.of(arm), level, tau_over=math.inf) for arm in (evidence.unlearned, evidence.poisoned)
    )
    fractions = {
        "remaining_keeps": _test(criterion, evidence.of(d), level),
        "remaining_leaves": _test(criterion, evidence, level),
        "above_remaining": above,
    }
    found = {"remaining_seeds": float(len(evidence)), "remaining_level": level}
    for name, result in fractions.items():
        found |= {name: result.estimate, f"{name}_low": result.interval[0], f"{name}_high": result.interval[1]}
    said = {Outcome.PASS: 1.0, Outcome.FAIL: 0.0, Outcome.INCONCLUSIVE: math.nan}
    return found | {
        "reaches_remaining": said[above.outcome],
        "p_reaches_remaining": above.p_pass,
        "identity_reaches_remaining": said[identity.outcome],
    }


#: Outcomes of the controls that forbid a verdict.
_WRONG = (
    ("oracle", Outcome.FAIL, Reason.ORACLE_FAILS),
    ("wrecked", Outcome.PASS, Reason.WRECKED_PASSES),
)


def _misbehaves(n: int, gates: Mapping[str, Judgement]) -> str:
    """Return the reason why the controls forbid a verdict on ``n`` seeds, or ``""``."""
    for name, wrong, reason in _WRONG:
        if name in gates and gates[name].outcome is wrong and gates[name].seeds <= n:
            return reason
    return ""


class SequentialTest:
    """A criterion on its way from look to look of the plan.

    Args:
        criterion: What is tested.
        evidence: Of the method and of the controls.
        plan: When it is looked at.
        gates: The judgements of controls that may forbid or delay its own.

    Attributes:
        looks: Those that the evidence reaches, in seeds; if it reaches none, all of it.
        now: What it comes to at the last look so far.
        final: Whether no later look can change that.
    """

    now: Judgement

    def __init__(self, criterion: Criterion, evidence: Evidence, plan: Plan, gates: Mapping[str, Judgement]) -> None:
        self.criterion = criterion
        self.looks = [n for n in plan.looks if n <= len(evidence)] or [len(evidence)]
        self.final = False
        self._evidence, self._plan, self._gates = evidence, plan, gates
        self._bites = False  # whether the poison's effect was shown; what was shown stays shown
        self._passed: Judgement | None = None  # a PASS that waits for the oracle's: the method is not tested again

    def look(self, n: int, may_pass: bool = True) -> None:
        """Judge the first ``n`` seeds, unless an earlier look was final."""
        if not self.final:
            self.now = self._judged(n, may_pass)
            self.final = self.now.final

    def _judged(self, n: int, may_pass: bool) -> Judgement:
        criterion, plan, here = self.criterion, self._plan, self._evidence.first(n)
        level, fail_level = plan.pass_level, plan.fail_level(criterion.judged)
        result = _test(criterion, here, level)
        now = Judgement(Outcome.INCONCLUSIVE, Reason.NEED_MORE_SEEDS, result, level, n, n, final=False)
        if n < LOOKS[0]:
            return replace(now, reason=Reason.TOO_FEW_SEEDS)
        if result.reason == Reason.NONFINITE_REFERENCE:
            return replace(now, reason=Reason.NONFINITE_REFERENCE, final=True)
        if self._passed is None and result.reason == Reason.DIVERGED:
            return replace(now, outcome=Outcome.FAIL, reason=Reason.DIVERGED, level=fail_level, final=True)
        unusable = next(filter(None, here.unusable), "") if self._passed is None else ""
        if reason := unusable or _misbehaves(n, self._gates):
            return replace(now, reason=reason, final=True)
        if self._passed is None:
            now = self._tested(now, here, may_pass)
        if now.outcome is Outcome.PASS:
            self._passed = now
        if self._passed is not None:
            oracle = self._gates.get("oracle")
            if oracle is None or (oracle.outcome is Outcome.PASS and oracle.seeds <= n):
                return replace(self._passed, looked=n)
            now = replace(
                self._passed, outcome=Outcome.INCONCLUSIVE, reason=Reason.ORACLE_NOT_PASS, looked=n, final=False
            )
        elif now.reason == Reason.NEED_MORE_SEEDS:
            if n < plan.looks[-1] and _hopeless(criterion, result, plan):
                return replace(now, reason=Reason.FUTILE, final=True)
            if n == LOOKS[-1]:
                now = replace(now, reason=Reason.UNDERPOWERED)
        return replace(now, final=now.final or n == plan.looks[-1])

    def _tested(self, now: Judgement, here: Evidence, may_pass: bool) -> Judgement:
        """Return the judgement of a look at which nothing stands in the way of the tests."""
        criterion, plan, result = self.criterion, self._plan, now.result
        fail_level = plan.fail_level(criterion.judged)
        # Of an exact null it must be shown at the look itself: then doing nothing, U = P, cannot pass.
        shown = result.p_bite is None or rejects(result.p_bite, plan.bite_level)
        self._bites = shown or (self._bites and not criterion.exact)
        if not self._bites:
            return replace(now, reason=Reason.NO_BITE)
        if rejects(result.p_fail, fail_level):
            if reason := withheld(criterion, here, plan, result, Outcome.FAIL):
                return replace(now, reason=reason)
            failed = _test(criterion, here, fail_level)
            return replace(now, outcome=Outcome.FAIL, reason=failed.side, result=failed, level=fail_level, final=True)
        if not (may_pass and _passes(criterion, result, plan)):
            return now
        if reason := withheld(criterion, here, plan, result, Outcome.PASS):
            return replace(now, reason=reason)
        passed = replace(now, outcome=Outcome.PASS, reason=Reason.EQUIVALENT, final=True)
        if not criterion.exact:
            return passed
        level = plan.null_level
        return replace(passed, reason=Reason.NOTHING_FOUND, level=level, result=_test(criterion, here, level))


def _through(test: SequentialTest) -> Judgement:
    """Return what a test comes to by itself."""
    for n in test.looks:
        test.look(n)
    return test.now


def seeds_to_decide(criterion: Criterion, judgement: Judgement, plan: Plan, power: float = 0.8) -> int | None:
    """Return how many seeds would decide a claim at one look, if the truth is what was seen; None if over 1,000.

    Not of an exact null, which has no margin. From the distances of the estimate to the margins in standard deviations
    of what was tested; with few seeds that is a rough guess, and on a margin no number is enough.
    """
    ahead = _ahead(criterion, judgement.result, plan)
    if ahead is None or not ahead.sd > 0:
        return None
    needed = seeds_needed(ahead.margin, ahead.sd, ahead.level, power, ahead.two_sided, ahead.true)
    return None if needed is None else max(needed, plan.min_pass if ahead.passes else LOOKS[0])


def _hopeless(criterion: Criterion, result: Result, plan: Plan) -> bool:
    """Return whether the last look would hardly decide a criterion, if the truth is what was seen."""
    if result.n < MIN_PASS or plan.futility == 0 or criterion.exact:
        return False
    ahead = _ahead(criterion, result, plan)
    if ahead is None:
        return True
    power = tost_power(LOOKS[-1], ahead.margin, ahead.sd, ahead.level, ahead.two_sided, ahead.true)
    return power < plan.futility


def _passes(criterion: Criterion, result: Result, plan: Plan) -> bool:
    """Return whether the evidence of a look passes a criterion, once the poison's effect is shown."""
    if criterion.exact:
        return not rejects(result.p_fail, plan.null_level)
    return rejects(result.p_pass, plan.pass_level)


class _Ahead(NamedTuple):
    """The test that is to decide, as `tost_power` takes it, in the unit of what was tested.

    Attributes:
        passes: Whether it is that of a PASS; else it is that of a FAIL.
    """

    margin: float
    sd: float
    level: float
    two_sided: bool
    true: float
    passes: bool


def _ahead(criterion: Criterion, result: Result, plan: Plan) -> _Ahead | None:
    """Return the test of the verdict on whose side of the margins the estimate is; None if it is on one of them.

    A PASS has to clear both margins. A FAIL is beyond the nearer one, from which the far one takes next to nothing.
    """
    distance = t_statistic(result.p_pass, result.df) * result.se if result.se > 0 else 0.0  # to the nearer margin
    sd, (lo, hi) = result.se * math.sqrt(result.n), result.bounds
    if distance == 0:
        return None
    if distance < 0:
        return _Ahead(-distance, sd, plan.fail_level(criterion.judged), two_sided=False, true=0.0, passes=False)
    inside = min(result.estimate - lo, hi - result.estimate)
    if not 0 < inside < math.inf or math.inf in (-lo, hi):
        return _Ahead(distance, sd, plan.pass_level, two_sided=False, true=0.0, passes=True)
    half = distance * (hi - lo) / 2 / inside  # what was tested is the estimate in another unit
    return _Ahead(half, sd, plan.pass_level, two_sided=True, true=half - distance, passes=True)


# Mixtures of P and R are tested again at every look, and beside every method and control.
_retention = functools.lru_cache(maxsize=4096)(retention)


def _test(criterion: Criterion, evidence: Evidence, alpha: float, tau_over: float | None = None) -> Result:
    higher_is_worse = criterion.measure.worse == "higher"
    if criterion.measure.test == "retention":
        return _retention(
            evidence.poisoned, evidence.retrained, evidence.unlearned, tau=criterion.margin, tau_over=tau_over,
            direction=1 if higher_is_worse else -1, alpha=alpha, sd_floor=evidence.resolution,
        )  # fmt: skip
    if criterion.exact:
        return exact_null(evidence.poisoned, evidence.retrained, evidence.unlearned, alpha=alpha)
    lo, hi = (-math.inf, criterion.margin) if higher_is_worse else (-criterion.margin, math.inf)
    return equivalence_paired(evidence.unlearned, evidence.retrained, lo, hi, alpha=alpha, sd_floor=evidence.resolution)


#: How far from 1 the share of its own examples may be that retraining is measured at.
METERED = 0.01


def judge_budget(
    found: Mapping[str, float | None], budget: float, retraining: Sequence[float] = (), seconds: float = math.inf
) -> tuple[Outcome, Reason]:
    """Judge whether a method kept to the budget by every yardstick. A bound, not a test.

    Args:
        found: Its largest share of retraining by yardstick.
        budget: As a fraction of retraining.
        retraining: What the same meter found of retraining, seed by seed, in shares of its examples. Unless that is
            all of them, compute escapes the meter, and no method can be said to keep to its budget.
        seconds: CPU time of retraining. If that is all there is to compare with, it must be long enough to be measured.
    """
    if beyond(found, budget):
        return Outcome.FAIL, Reason.OVER_BUDGET
    if counted_in(found) == ("cpu_seconds",) and seconds < CPU_FLOOR:
        return Outcome.INCONCLUSIVE, Reason.TOO_QUICK
    if any(abs(share - 1) > METERED for share in retraining):
        return Outcome.INCONCLUSIVE, Reason.UNMETERED
    return Outcome.PASS, Reason.WITHIN_BUDGET
