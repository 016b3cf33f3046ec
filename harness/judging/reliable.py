"""The reliable plan: what must hold beside the t tests, since seeds need not be normal.

Unlearning is where seeds are all or nothing: a method may do nothing on one seed in five and pass a test of the mean on
five good ones. So under the reliable plan

* nothing passes before so many seeds that, if none of them is bad, a fifth of all seeds cannot be (`MOST_BAD`);
* no seed may be bad: beyond a margin, and by more than the oracle's own scatter over seeds explains;
* a PASS for little poison left, and a FAIL of retention, must also hold without normality, by an e-value.

The quick plan asks for none of it. ``ci/benchmarks/calibration.py --robust`` compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from harness.api import Outcome
from harness.judging.claims import Criterion
from harness.judging.plan import LOOKS, Plan
from harness.judging.reasons import Reason, forbids
from harness.judging.verdict import Evidence
from harness.statistics import Result, e_value, standing_out

#: How far beyond retraining one seed may lie, as a fraction of the poison's effect, if a FAIL is to need no normality.
PAST_RETRAINING = 0.2


def withheld(criterion: Criterion, evidence: Evidence, plan: Plan, result: Result, outcome: Outcome) -> str:
    """Return why a plan withholds what the t tests say, or ``""``.

    Args:
        criterion: What is tested.
        evidence: Of the seeds so far.
        plan: The plan.
        result: What the t tests say of them.
        outcome: PASS or FAIL, which they show.
    """
    if outcome is Outcome.PASS and len(evidence) < plan.min_pass:
        return Reason.WAITS_FOR_SEEDS if plan.reliable else Reason.NEED_MORE_SEEDS
    if not plan.reliable:
        return ""
    if outcome is Outcome.PASS and bad_seeds(criterion, evidence, result):
        return Reason.BAD_SEEDS
    needed = (criterion.judged if outcome is Outcome.FAIL else 1) / plan.evidence_level
    enough = evidence_for(criterion, evidence, result, outcome) >= needed * (1 - 1e-9)
    return "" if enough else Reason.NEEDS_NORMALITY


def too_strict(plan: Plan, tolerance: float) -> str:
    """Return, in a sentence, why no method could pass under a plan, were it as good as retraining; ``""`` if one could.

    Args:
        plan: The plan.
        tolerance: The margin of retention.
    """
    if not plan.reliable or e_value([-tolerance] * LOOKS[-1], 1 - tolerance) >= 1 / plan.evidence_level:
        return ""
    return (
        f"the reliable plan passes nothing at a tolerance of {tolerance:g} and an error rate of {plan.alpha:g}: "
        f"{LOOKS[-1]} seeds are too few for that; raise one of the two, or use the quick plan"
    )


def details_of(criterion: Criterion, evidence: Evidence, plan: Plan, result: Result, reason: str) -> dict[str, float]:
    """Return what the reliable plan found beside the t tests: ``bad_seeds`` and, of retention, ``e_pass``, ``e_fail``.

    Empty for the quick plan, for an exact null, and where there was nothing to judge.
    """
    unjudged = forbids(reason) or reason in (Reason.NO_BITE, Reason.TOO_FEW_SEEDS, Reason.DIVERGED)
    if not plan.reliable or criterion.exact or unjudged:
        return {}
    found = {"bad_seeds": float(len(bad_seeds(criterion, evidence, result)))}
    if criterion.measure.test == "retention":
        for name, outcome in (("e_pass", Outcome.PASS), ("e_fail", Outcome.FAIL)):
            found[name] = evidence_for(criterion, evidence, result, outcome)
    return found


def bad_seeds(criterion: Criterion, evidence: Evidence, result: Result) -> list[int]:
    """Return the indices of seeds beyond a margin by more than the oracle's scatter over these seeds explains."""
    floor = evidence.resolution / _unit(criterion, evidence)
    found = set()
    for side, margin in enumerate(result.bounds):
        if math.isfinite(margin):
            arms = (evidence.unlearned, evidence.oracle)
            own, fresh = (_beyond(criterion, evidence, arm, side, margin) for arm in arms)
            found.update(standing_out(own, fresh, floor))
    return sorted(found)


def evidence_for(criterion: Criterion, evidence: Evidence, result: Result, outcome: Outcome) -> float:
    """Return the evidence for a PASS or a FAIL as an e-value, which needs no normality; infinite where none is asked.

    Of retention alone, whose fractions have bounds: on no seed is more left of the poison than all of it. Where a FAIL
    says that too much is left, none lies further beyond retraining than `PAST_RETRAINING`. Of a PASS it is asked at
    the margin of what is left. Accuracy has no bounds near its margin.

    What is bounded is the mean over seeds of the fraction that is left of each seed's own effect. The t test is about
    another number, the mean of what is left over the mean effect. The two are equal if effects are, or have nothing to
    do with the fractions. There is no evidence if the poison has no effect on a seed.
    """
    if criterion.measure.test != "retention":
        return math.inf
    worse = 1 if criterion.measure.worse == "higher" else -1
    arms = (evidence.poisoned, evidence.retrained, evidence.unlearned)
    of_seeds = [(worse * (p - r), worse * (u - r)) for p, r, u in zip(*arms, strict=True)]
    if any(effect <= 0 for effect, _ in of_seeds):
        return 1.0
    left = [remains / effect for effect, remains in of_seeds]
    high = result.bounds[1]
    if outcome is Outcome.PASS:
        return e_value([each - high for each in left], 1 - high)
    if result.side == Reason.POISON_LEFT:
        return e_value([high - each for each in left], high + PAST_RETRAINING)
    low = result.bounds[0]
    return e_value([each - low for each in left], 1 - low)


def _beyond(criterion: Criterion, evidence: Evidence, arm: Sequence[float], side: int, margin: float) -> list[float]:
    """Return how far each seed of an arm lies beyond the lower (0) or upper (1) margin, negative within it.

    For retention as fractions of the mean effect, the effect of each seed counted as in the test; else in the measure's
    unit.
    """
    outwards = 1 if side else -1
    differences = [a - r for a, r in zip(arm, evidence.retrained, strict=True)]
    if criterion.measure.test != "retention":
        return [outwards * (d - margin) for d in differences]
    unit = _unit(criterion, evidence)
    worse = 1 if criterion.measure.worse == "higher" else -1
    effects = [worse * (p - r) for p, r in zip(evidence.poisoned, evidence.retrained, strict=True)]
    return [outwards * (worse * d - margin * e) / unit for d, e in zip(differences, effects, strict=True)]


def _unit(criterion: Criterion, evidence: Evidence) -> float:
    """Return the size of the poison's effect, which was shown before anything is judged; 1 for other tests."""
    if criterion.measure.test != "retention":
        return 1.0
    return abs(fmean(p - r for p, r in zip(evidence.poisoned, evidence.retrained, strict=True)))
