"""Audits from Python, without pytest, over the same engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import registry
from harness.api import Trial, UnlearningError, Verdict
from harness.plan import LOOKS, Plan
from harness.store import Store, default_root
from harness.studies import Study, claims_of
from harness.trial import Lab


def pick_device(name: str, share: float = 1.0) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` names.

    Args:
        name: One of the three.
        share: Part of the GPU's memory that this process may fill, in (0, 1], where others were handed the same GPU.

    Raises:
        UnlearningError: ``cuda`` without a GPU, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UnlearningError(f"the device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UnlearningError("no GPU can be used here; run with --audit-device=cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    return torch.device("cuda:0")


def open_lab(
    store: str | Path | None, data: str | Path | None, device: str, budget: float, run: str, made_on: str | None = None
) -> Lab:
    """Return a lab for the Python front ends.

    Args:
        store: Directory or URL for what is trained; None for the user's cache directory.
        data: Directory with data sets, or None.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        budget: Compute an unlearner may use, as a fraction of retraining.
        run: What the run is called in the store.
        made_on: As for `harness.trial.Lab`.

    Raises:
        UnlearningError: The store cannot be written or the device cannot be used.
    """
    where, folder = store or default_root(), Path(data) if data else None
    return make_lab(where, f"{run}-{time.time_ns():x}", device, budget, folder, made_on=made_on)


def make_lab(
    store: str | Path,
    run: str,
    device: str,
    budget: float,
    folder: Path | None,
    on_epoch: Callable[[Trial, str, int, int], None] = lambda *_: None,
    share: float = 1.0,
    made_on: str | None = None,
) -> Lab:
    """Return a lab over a store; as `open_lab`, with the run's id as it stands, on a share of the device."""
    return Lab(Store(store, run), pick_device(device, share), budget, folder, on_epoch, made_on)


def audit(
    unlearner: str | Callable[..., Any],
    *,
    task: str = "digits-cnn",
    poison: str | Sequence[str] | None = None,
    seeds: int = LOOKS[-1],
    alpha: float = 0.05,
    futility: float = Plan.futility,
    tolerance: float = 0.2,
    budget: float = 0.1,
    discovery: float = 1.0,
    store: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
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
