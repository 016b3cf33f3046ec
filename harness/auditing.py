"""Audits from Python, without pytest, over the same engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.api import Task, UnlearningError
from harness.cells import Registered
from harness.isolated import method as isolation
from harness.isolated.walls import require_hidden
from harness.judging.claims import CLAIMS
from harness.judging.drawing import draw, salt_file
from harness.judging.plan import Plan
from harness.judging.reliable import too_strict
from harness.report.results import Results
from harness.studies.notes import Bar
from harness.studies.study import Study
from harness.trials.lab import Lab


def audit(
    unlearner: str | Callable[..., Any],
    *,
    task: str | Task = DEFAULTS["task"],
    poison: str | Sequence[str] | None = None,
    seeds: int = DEFAULTS["seeds"],
    seeds_from: str | None = DEFAULTS["seeds_from"],
    plan: str = DEFAULTS["plan"],
    alpha: float = DEFAULTS["alpha"],
    futility: float = DEFAULTS["futility"],
    tolerance: float = DEFAULTS["tolerance"],
    budget: float = DEFAULTS["budget"],
    discovery: float = DEFAULTS["discovery"],
    store: str | Path | None = None,
    data: str | Path | None = None,
    device: str = DEFAULTS["device"],
    isolated: bool = False,
    timeout: float | None = DEFAULTS["timeout"],
    group: int | None = DEFAULTS["group"],
    progress: bool | None = None,
) -> Results:
    """Audit an unlearner: plant poisons, let it remove them, and judge the result against retraining.

    Args:
        unlearner: A callable ``(model, request) -> model``, or a spec as on the command line.
        task: Spec of a task, or a task, such as a `harness.Pipeline`.
        poison: Specs of poisons; None for those the task lists.
        seeds: Stop the plan after so many seeds: 3, 5, 8, 12 or 16.
        seeds_from: Where the salt is by which seeds are drawn for this method, ``"env:NAME"`` or a file; None for the
            fixed list.
        plan: ``"quick"``: a PASS rests on the average over seeds; ``"reliable"``: all of 16 seeds must be good, too.
        alpha: Error rate of a PASS and of a FAIL, in (0, 0.5).
        futility: Stop early if all 16 seeds would decide with a lower probability than this, in [0, 1); 0 never does.
        tolerance: Fraction of a poison's effect that still passes, in [0, 1).
        budget: Compute the unlearner may use, as a fraction of retraining, > 0.
        discovery: Share of the poisoned points that it is given, in (0, 1]; the others stay in its retain set.
        store: Directory or URL for what is trained; None for the user's cache directory.
        data: Directory with data sets, for tasks that read files.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        isolated: Whether to run the method in a process of its own, which has its request and nothing else. It must
            then be a spec.
        timeout: Seconds that the unlearner has each time; None for 20 times what training took, at least a minute.
        group: Models that are trained side by side, at most; None for 1 on a CPU, and on a GPU the number that trains
            fastest.
        progress: Whether to show what is trained, on standard error; None on a terminal and in a notebook. Needs tqdm.

    Returns:
        For each poison the verdicts on the poison, on accuracy and on the budget: a sequence of `Verdict` that shows
        itself as a table, and has a method ``to_frame``.

    Raises:
        UnlearningError: Something named cannot be found or used, or the method cannot be isolated.
        ValueError: A number is out of range.
        Exception: Whatever the unlearner raised.
    """
    if not 0 <= tolerance < 1 or not budget > 0 or (group is not None and group < 1):
        raise ValueError("tolerance must lie in [0, 1), budget must be positive, and group at least 1")
    resolve = isolation.method if isolated else registry.method
    method = resolve(unlearner)
    drawn = _drawn(seeds_from, method, resolve(unlearner)) if seeds_from is not None else ()
    looks = Plan(seeds, alpha, futility, kind=plan, drawn=drawn)
    if sentence := too_strict(looks, tolerance):
        raise ValueError(sentence)
    poisons = [poison] if isinstance(poison, str) else poison or ()
    of = registry.resolve("task", task) if isinstance(task, str) else registry.register("task", cast("Any", task))
    cells = registry.cells([method], [of], poisons, discovery)
    bar = Bar(progress)
    lab = Lab.open(store, data=data, device=device, budget=budget, timeout=timeout, group=group, show=bar)
    if isolated:
        isolation.require_separate(cells)
        places = {"the store": lab.store.files.scratch, "the directory of data sets": Path(data) if data else None}
        require_hidden({**places, "the salt": salt_file(seeds_from) if seeds_from is not None else None})
    study = Study(cells, lab, looks, tolerance)
    bar.count = study.done_of_needed
    claims = [claim for claim in CLAIMS.values() if claim.gates and not claim.mark]
    asked = [(cell, claim.name) for cell in cells for claim in claims if claim.applies(cell)]
    with bar:
        return Results.of((claim, study.verdict(cell, claim)) for cell, claim in asked)


def _drawn(seeds_from: str, method: Registered, again: Registered) -> tuple[int, ...]:
    """Return the seeds that are drawn for a method, which is resolved twice to see whether it stays the same."""
    if method.identity != again.identity:
        raise UnlearningError(
            f"seeds_from: {method.name} is typed at a prompt or made with objects that are not plain values, so each "
            "run would draw other seeds; put it in a file, and name it by a spec"
        )
    return draw(seeds_from, [method]).seeds
