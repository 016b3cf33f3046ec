"""Audits from Python, without pytest, over the same engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.judging.plan import Plan
from harness.judging.verdict import Verdict
from harness.studies.study import Study, claims_of
from harness.trials.lab import open_lab


def audit(
    unlearner: str | Callable[..., Any],
    *,
    task: str = DEFAULTS["task"],
    poison: str | Sequence[str] | None = None,
    seeds: int = DEFAULTS["seeds"],
    alpha: float = DEFAULTS["alpha"],
    futility: float = DEFAULTS["futility"],
    tolerance: float = DEFAULTS["tolerance"],
    budget: float = DEFAULTS["budget"],
    discovery: float = DEFAULTS["discovery"],
    store: str | Path | None = None,
    data: str | Path | None = None,
    device: str = DEFAULTS["device"],
) -> list[Verdict]:
    """Audit an unlearner: plant poisons, let it remove them, and judge the result against retraining.

    Args:
        unlearner: A callable ``(model, request) -> model``, or a spec as on the command line.
        task: Spec of a task.
        poison: Specs of poisons; None for those the task lists.
        seeds: Stop the plan after so many seeds, 3 to 16.
        alpha: Error rate of a PASS and of a FAIL, in (0, .5).
        futility: Give up what 16 seeds would decide with less probability, in [0, 1); 0 gives nothing up.
        tolerance: Fraction of a poison's effect that still passes, in [0, 1).
        budget: Compute the unlearner may use, as a fraction of retraining, > 0.
        discovery: Share of the poisoned points that it is told of, in (0, 1]; the others stay in its retain set.
        store: Directory or URL for what is trained; None for the user's cache directory.
        data: Directory with data sets, for tasks that read files.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns:
        For each poison the verdicts on the poison, on accuracy and on the budget.

    Raises:
        UnlearningError: Something named cannot be found or used.
        ValueError: A number is out of range.
        Exception: Whatever the unlearner raised.
    """
    if not 0 <= tolerance < 1 or not budget > 0:
        raise ValueError("tolerance must lie in [0, 1) and budget must be positive")
    plan = Plan(seeds, alpha, futility)
    method = registry.method(unlearner)
    poisons = [poison] if isinstance(poison, str) else poison or ()
    cells = registry.cells([method], [registry.resolve("task", task)], poisons, discovery)
    study = Study(cells, open_lab(store, data, device, budget, "python"), plan, tolerance)
    return [study.verdict(cell, measure) for cell in cells for measure in (*claims_of(cell, tolerance), "cost")]
