"""What a study would still cost, for a dry run."""

from __future__ import annotations

import functools
from typing import Any

from harness.api import declares
from harness.cells import Trial
from harness.store.artefacts import patiently
from harness.studies.controls import ORACLE
from harness.studies.study import Study
from harness.trials.lab import Lab


def remaining_cost(study: Study) -> list[dict[str, Any]]:
    """Return what the study would still cost, up to the first look that may pass and for the whole plan.

    Each has ``seeds``, ``trainings``, ``unlearnings``, ``seconds`` of one process, ``memory`` of one process and
    ``bytes`` of disk; ``gpu``, as in `harness.trials.pace.Pace`; under ``crafted`` the poisons whose crafting,
    surrogates included, comes on top; and ``tenth``, whether time and memory were measured with a tenth of the rows, as
    those of a task's own loop are.
    """
    lab = study.lab
    assert isinstance(lab, Lab), "a dry run computes here"
    per_task = {task: lab.cost(task) for task in dict.fromkeys(cell.task for cell in study.cells)}
    missing: dict[str, tuple[Trial, str]] = {}  # by key, since trials share models
    costs = []
    last = study.plan.looks[-1]
    place = {seed: i for i, seed in enumerate(study.plan.numbers(last))}
    wanted: dict[str, int] = {}  # by key, the place of the first seed that needs it
    for trial in study.trials:
        for arm, key in patiently(functools.partial(lab.missing, trial)).items():
            missing.setdefault(key, (trial, arm))
            wanted[key] = min(wanted.get(key, last), place[trial.seed])
    for seeds in sorted({min(study.plan.min_pass, last), last}):
        here = [(trial, arm) for key, (trial, arm) in missing.items() if wanted[key] < seeds]
        trainings = sum(_is_training(trial, arm) for trial, arm in here)
        # A method is taken to use its budget; one that belongs to its task has none, and may retrain.
        whole = [_is_training(t, arm) or declares(t.cell.unlearner.value, "needs_task") for t, arm in here]
        shares = [(t, 1.0 if all_of_it else lab.budget) for (t, _), all_of_it in zip(here, whole, strict=True)]
        costs.append(
            {
                "seeds": seeds,
                "trainings": trainings,
                "unlearnings": len(here) - trainings,
                "seconds": sum(share * per_task[t.cell.task].seconds for t, share in shares),
                "memory": max(cost.memory for cost in per_task.values()),
                "gpu": max(cost.gpu for cost in per_task.values()),
                "bytes": sum(per_task[t.cell.task].size for t, _ in here),
                "tenth": any(cost.own_loop for cost in per_task.values()),
                "crafted": sorted({t.cell.poison.id for t, arm in here if arm == "P" and _is_crafted(t)}),
            }
        )
    return costs


def _is_crafted(trial: Trial) -> bool:
    return getattr(trial.cell.poison.value, "crafted", False)


def _is_training(trial: Trial, arm: str) -> bool:
    return arm != "U" or trial.cell.unlearner.name == ORACLE
