"""From a judgement to the verdict that is told: the test's numbers, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, isnan
from statistics import fmean, median
from typing import Any

from scipy import special

from harness.api import Reading
from harness.cells import REMAINING, Cell, certified_by
from harness.judging.claims import Criterion
from harness.judging.intersection import Intersection
from harness.judging.judge import Judgement, beside_remaining, judge_budget, path, seeds_to_decide
from harness.judging.plan import LOOKS, Plan
from harness.judging.reasons import Reason
from harness.judging.reliable import details_of
from harness.judging.verdict import Evidence, Trace, Verdict
from harness.judging.yardsticks import shares
from harness.statistics import bad_seed_bound, eps_lower_single, mu_lower
from harness.statistics.exact import TINIEST

#: Delta of the epsilon that is proven to be left, of methods that certify none.
DELTA = 1e-5


def verdict_of(
    cell: Cell,
    found: Intersection,
    evidence: Evidence,
    readings: Sequence[Mapping[str, Reading]],
    main: Sequence[Mapping[str, Reading]],
    plan: Plan,
    remaining: Evidence | None = None,
) -> Verdict:
    """Return the verdict that a judgement comes to.

    Args:
        cell: What was audited.
        found: The judgement, trace by trace.
        evidence: Of the trace that decides, and of the seeds that the judgement rests on.
        readings: What the evidence was read from, seed by seed, by arm.
        main: The readings of the main trace, by which residue is proven whichever trace decides.
        plan: When it was looked at.
        remaining: The poison's evidence of all seeds there are, to compare the method with retraining on what remains;
            None if it was given every poisoned point. It decides nothing.
    """
    criterion, judgement = found.criteria[found.decides], found.deciding
    details = _details(criterion, judgement, readings, plan)
    scores = [by_arm["U"].details.get("T") for by_arm in main]
    known = [t for t in scores if t is not None and isfinite(t)]  # a model that diverged has none
    if found.criteria[0].measure.exact_null and len(known) == len(scores):
        details |= residue(known, plan.alpha, certified_by(cell.unlearner))
    details |= details_of(criterion, evidence, plan, judgement.result, judgement.reason)
    values = {
        "poisoned": evidence.poisoned,
        "retrained": evidence.retrained,
        "unlearned": evidence.unlearned,
    }
    if evidence.remaining:
        values["remaining"] = evidence.remaining
    if remaining is not None:
        details |= beside_remaining(criterion, remaining, plan.pass_level)
    return Verdict(
        **vars(_trace(criterion, judgement, plan)) | {"seeds": tuple(plan.numbers(len(evidence)))},
        **_names(cell),
        values=values,
        details=details,
        by_seed=_by_seed(readings),
        looks=path(criterion, evidence.first(judgement.seeds), plan),
        traces=_traces(found, plan),
    )


def _traces(found: Intersection, plan: Plan) -> dict[str, Trace]:
    """Return what each of several traces comes to, by the name of its measure."""
    if len(found.criteria) == 1:
        return {}
    pairs = zip(found.criteria, found.judgements, strict=True)
    return {criterion.measure.name: _trace(criterion, judgement, plan) for criterion, judgement in pairs}


def _trace(criterion: Criterion, judgement: Judgement, plan: Plan) -> Trace:
    """Return what one trace comes to."""
    result = judgement.result
    return Trace(
        measure=criterion.measure,
        outcome=judgement.outcome,
        reason=str(judgement.reason),  # a plain string, as it goes from process to process
        estimate=result.estimate,
        interval=result.interval,
        margin=criterion.margin,
        p_pass=None if isnan(result.p_pass) else result.p_pass,
        p_fail=result.p_fail,
        p_bite=result.p_bite,
        level=judgement.level,
        seeds=tuple(plan.numbers(judgement.seeds)),
    )


def _details(
    criterion: Criterion, judgement: Judgement, readings: Sequence[Mapping[str, Reading]], plan: Plan
) -> dict[str, float]:
    """Return the numbers beside a judgement: what the readings carry, what is proven, what would decide it."""
    details = {
        name + suffix: fmean(by_arm[arm].details[name] for by_arm in readings)
        for name in readings[0]["U"].details
        for arm, suffix in (("U", ""), ("R", "_retrained"))
        if all(by_arm[arm].details.get(name) is not None for by_arm in readings)
    }
    undecided = judgement.reason in (Reason.NEED_MORE_SEEDS, Reason.UNDERPOWERED, Reason.FUTILE)
    if undecided and not criterion.exact:
        needed = seeds_to_decide(criterion, judgement, plan)
        details["seeds_to_decide"] = float("inf") if needed is None else float(needed)
    if judgement.reason == Reason.FUTILE:
        details["futility"] = plan.futility
    if judgement.result.worst is not None:
        details["worst_seed"] = float(plan.numbers(judgement.seeds)[judgement.result.worst])
        details["bad_seed_bound"] = bad_seed_bound(len(readings))
    return details


def budget_verdict(
    cell: Cell,
    criterion: Criterion,
    costs: Sequence[Mapping[str, Any]],
    oracle: Sequence[Mapping[str, Any]],
    plan: Plan,
) -> Verdict:
    """Return the verdict on what a method cost, seed by seed, as a fraction of retraining; it has no p-values.

    Args:
        cell: What was audited.
        criterion: What was tested.
        costs: Of the method's trials, seed by seed.
        oracle: Of those of the control that retrains.
        plan: When trials were looked at.
    """
    fractions = tuple(cost["unlearn_fraction"] for cost in costs)
    found = shares(costs)
    retraining = [cost["fractions"]["examples"] for cost in oracle if "examples" in cost["fractions"]]
    worked = median(cost["cpu_seconds"].get(REMAINING, cost["cpu_seconds"]["R"]) for cost in costs)
    outcome, reason = judge_budget(found, criterion.margin, retraining, worked)
    return Verdict(
        **_names(cell),
        measure=criterion.measure,
        outcome=outcome,
        reason=str(reason),
        estimate=max(fractions),
        interval=(min(fractions), max(fractions)),
        margin=criterion.margin,
        p_pass=None,
        p_fail=None,
        p_bite=None,
        level=None,
        seeds=tuple(plan.numbers(len(fractions))),
        values={"poisoned": (), "retrained": (1.0,) * len(fractions), "unlearned": fractions},
        details={
            "seconds of unlearning": median(cost["seconds"]["U"] for cost in costs),
            "seconds of retraining": median(cost["seconds"].get(REMAINING, cost["seconds"]["R"]) for cost in costs),
            "history_bytes": float(max(cost["history_bytes"] for cost in costs)),
            **({"retraining_measured": max(retraining, key=lambda share: abs(share - 1))} if retraining else {}),
            **{f"{name}_of_retraining": share for name, share in found.items()},
        },
        by_seed={},
        looks=(),
    )


def residue(t: Sequence[float], alpha: float, certificate: tuple[float, float] | None = None) -> dict[str, float]:
    """Return what is provably left: lower bounds on how far a method is from unlearning, at 1 - alpha.

    A model may remember in reverse, with a statistic far below 0, so both signs count, each at half of alpha.

    ``mu_lower``: no smaller mu makes it mu-GDP unlearning (Dong, Roth and Su 2022) of the planted set. ``eps_lower``:
    no smaller epsilon makes it (epsilon, delta)-unlearning; from the first seed alone. They prove failure, never
    deletion: a bound of 0 says that nothing was proven. The error rate of ``mu_lower`` is split over the looks of the
    plan, since the plan decides how many seeds there are.

    What a method certifies, an epsilon at a delta, is contradicted if ``eps_lower`` at this delta is larger. Of others
    delta is `DELTA`.
    """
    delta = DELTA if certificate is None else certificate[1]
    p = max(2 * float(special.ndtr(-abs(t[0]))), TINIEST)  # 0 would prove too much
    level = alpha / 2 / len(LOOKS)
    return {
        "mu_lower": max(mu_lower(t, level), mu_lower([-x for x in t], level)),
        "eps_lower": eps_lower_single(p, alpha, delta),
        "residue_confidence": 1 - alpha,
        **({} if certificate is None else {"certified_epsilon": certificate[0], "certified_delta": delta}),
    }


def _by_seed(readings: Sequence[Mapping[str, Reading]]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Return the details of readings, seed by seed: by name and by arm, not-a-number where a model has none."""
    arms = {"P": "poisoned", "R": "retrained", "U": "unlearned"}
    names = dict.fromkeys(name for by_arm in readings for arm in arms for name in by_arm[arm].details)

    def value(reading: Reading, name: str) -> float:
        found = reading.details.get(name)
        return float("nan") if found is None else found

    return {
        name: {title: tuple(value(by_arm[arm], name) for by_arm in readings) for arm, title in arms.items()}
        for name in names
    }


def _names(cell: Cell) -> dict[str, Any]:
    names = {"unlearner": cell.unlearner.id, "task": cell.task.id, "poison": cell.poison.id}
    return {**names, "discovery": cell.discovery}
