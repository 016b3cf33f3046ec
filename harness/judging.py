"""From evidence to a judgement: the looks of the seed plan, the oracle's gate, and what stops them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import statistics
from harness.api import Evidence, Measure, Outcome, Verdict
from harness.plan import LOOKS, MIN_PASS, Plan


class AuditFailure(AssertionError):  # noqa: N818 - pytest prints the name; it is a failed test, not an error
    """An audit did not conclude what it must."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.cell}: {verdict.measure.name} {verdict.outcome.value} ({verdict.reason})")
        self.verdict = verdict


class InconclusiveAudit(AuditFailure):
    """The evidence does not allow a verdict."""


def require(verdict: Verdict, outcome: Outcome = Outcome.PASS) -> None:
    """Assert what an audit concludes.

    Raises:
        InconclusiveAudit: It concludes nothing; never as good as a FAIL that is expected.
        AuditFailure: It concludes the opposite.
    """
    if verdict.outcome is Outcome.INCONCLUSIVE:
        raise InconclusiveAudit(verdict)
    if verdict.outcome is not outcome:
        raise AuditFailure(verdict)


@dataclass(frozen=True)
class Claim:
    """What an audit asserts: a measure within a margin of retraining.

    Attributes:
        measure: The measure.
        margin: Retention: largest fraction of the poison's effect that may be left, in [0, 1). Non-inferiority:
            largest loss against retraining, in the measure's unit.
        judged: Number of claims in the cell that are tested, over which the error rate of FAIL is split.
    """

    measure: Measure
    margin: float
    judged: int = 1


@dataclass(frozen=True)
class Judgement:
    """The state of a claim after the looks that the evidence allows.

    Attributes:
        outcome, reason: What is concluded, and why.
        result: The test at the look that decided, with its interval at ``level``.
        level: What the deciding p-value was held against.
        seeds: Seeds that it rests on.
        final: Whether more seeds of the plan cannot change it.
    """

    outcome: Outcome
    reason: str
    result: statistics.Result
    level: float
    seeds: int
    final: bool


def judge(claim: Claim, evidence: Evidence, plan: Plan) -> Judgement:
    """Walk the looks of the plan that the evidence reaches, and stop at the first conclusion.

    The result depends on the prefix of seeds up to that conclusion and on nothing computed beyond it. The oracle is
    judged by the same claim: while it has not passed nothing can, and where it fails nothing is judged.
    """
    oracle = _walk(claim, evidence.of_oracle(), plan, None)
    return _walk(claim, evidence, plan, oracle)


def _walk(claim: Claim, evidence: Evidence, plan: Plan, oracle: Judgement | None) -> Judgement:
    reached = [n for n in plan.looks if n <= len(evidence)]
    if not reached:
        return Judgement(
            Outcome.INCONCLUSIVE, "too-few-seeds", _test(claim, evidence, plan.pass_level), plan.pass_level,
            len(evidence), final=False,
        )  # fmt: skip
    bites = False
    passed: Judgement | None = None
    for n in reached:
        here = evidence.first(n)
        result = _test(claim, here, plan.pass_level)
        state = Judgement(Outcome.INCONCLUSIVE, "need-more-seeds", result, plan.pass_level, n, final=False)
        fail_level = plan.fail_level(claim.judged)
        bites = bites or result.p_bite is None or statistics.rejects(result.p_bite, plan.bite_level)
        if result.reason == "nonfinite-reference":
            return replace(state, reason=result.reason, final=True)
        if result.reason == "diverged":
            return replace(state, outcome=Outcome.FAIL, reason="diverged", level=fail_level, final=True)
        if oracle is not None and oracle.outcome is Outcome.FAIL and oracle.seeds <= n:
            return replace(state, reason="oracle-fails", final=True)
        if passed is None and not bites:
            state = replace(state, reason="no-bite")
        elif passed is None and statistics.rejects(result.p_fail, fail_level):
            failed = _test(claim, here, fail_level)
            return Judgement(Outcome.FAIL, "outside-margin", failed, fail_level, n, final=True)
        elif passed is None and n >= MIN_PASS and statistics.rejects(result.p_pass, plan.pass_level):
            passed = replace(state, outcome=Outcome.PASS, reason="equivalent", final=True)
        # A PASS is latched: later seeds of the oracle may confirm it, its own are not looked at again.
        if passed is not None:
            if oracle is None or (oracle.outcome is Outcome.PASS and oracle.seeds <= n):
                return passed
            state = replace(passed, outcome=Outcome.INCONCLUSIVE, reason="oracle-not-pass", final=False)
    if reached[-1] == plan.looks[-1]:
        reason = "underpowered" if state.reason == "need-more-seeds" and reached[-1] == LOOKS[-1] else state.reason
        return replace(state, reason=reason, final=True)
    return state


def _test(claim: Claim, evidence: Evidence, alpha: float) -> statistics.Result:
    higher_is_worse = claim.measure.worse == "higher"
    if claim.measure.test == "retention":
        return statistics.retention(
            evidence.poisoned, evidence.retrained, evidence.unlearned, tau=claim.margin,
            direction=1 if higher_is_worse else -1, alpha=alpha, sd_floor=evidence.resolution,
        )  # fmt: skip
    lo, hi = (-math.inf, claim.margin) if higher_is_worse else (-claim.margin, math.inf)
    return statistics.equivalence_paired(
        evidence.unlearned, evidence.retrained, lo, hi, alpha=alpha, sd_floor=evidence.resolution
    )


def judge_budget(fractions: Sequence[float], budget: float) -> tuple[Outcome, str]:
    """Say whether every seed kept to the budget, both as fractions of retraining. A bound, not a test."""
    over = max(fractions) > budget * (1 + 1e-6)
    return (Outcome.FAIL, "over-budget") if over else (Outcome.PASS, "within-budget")
