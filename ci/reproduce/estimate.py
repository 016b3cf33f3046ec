"""How long a study will take on this device, from seconds that are measured here before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.api import Batch
from harness.cells import Trial
from harness.conventions import main_input
from harness.training.clock import now
from harness.training.data import Split
from harness.training.isolation import isolated_rng
from harness.trials.lab import Cost, Lab
from poisons.indiscriminate import Indiscriminate, span
from poisons.targeted import Targeted

#: Steps of crafting that are timed, by kind of device; as many again before that, for the warm-up.
TIMED = {"cuda": 20, "cpu": 2}


def seconds_of(lab: Lab, cost: Cost, epochs: int, forecast: dict[str, Any]) -> float:
    """Return about how long a study takes, in seconds. A pass of unlearning is taken for one of training.

    Args:
        lab: Where models are trained.
        cost: Of one training of the task.
        epochs: Of such a training.
        forecast: What `runs.Work.forecast` found missing.
    """
    passes = forecast["trained"] * cost.seconds + forecast["unlearned"] * cost.alone
    return passes / epochs + sum(crafting(lab, cost, forecast["crafted"]))


def crafting(lab: Lab, cost: Cost, trials: Sequence[Trial]) -> tuple[float, float]:
    """Return the seconds that surrogates take, and those of the loops that craft poisons, where they can be timed.

    Args:
        lab: Where they run.
        cost: Of the training of one surrogate.
        trials: One for each poison and seed that must be crafted; all on one task.
    """
    trials = [trial for trial in trials if can_be_timed(trial)]
    surrogates = {(t.seed, i) for t in trials for i in range(_surrogates(t.cell.poison.value))}
    loops = 0.0
    for poison, n in Counter(trial.cell.poison for trial in trials).items():
        step = step_seconds(trials[0].cell.task.value, poison.value, lab.split(trials[0].cell.task), lab.device.type)
        loops += n * poison.value.steps * getattr(poison.value, "restarts", 1) * step
    return len(surrogates) * cost.alone, loops


def can_be_timed(trial: Trial) -> bool:
    """Return whether a step of crafting a trial's poison can be timed by itself."""
    return type(trial.cell.poison.value) in (Targeted, Indiscriminate)  # what derives from them crafts more


def _surrogates(poison: Any) -> int:
    return poison.surrogates if isinstance(poison, Targeted) else 1


def step_seconds(task: Any, poison: Targeted | Indiscriminate, split: Split, kind: str) -> float:
    """Return what one step of crafting takes, in seconds, on a new model: what it has learned changes no time.

    Args:
        task: Of the models.
        poison: Gradient matching or Gradient Canceling.
        split: The task's data, on the device.
        kind: ``"cpu"`` or ``"cuda"``.
    """
    steps = TIMED[kind]
    threads = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        with isolated_rng(0):
            craft = _crafting(task, poison, split)
            marks = []
            for n in (steps, 2 * steps):  # what comes before and after the steps is in both
                begun = now()
                craft(n)
                marks.append(now() - begun)
    finally:
        torch.set_num_threads(threads)
    return max(0.0, marks[1] - marks[0]) / steps


def _crafting(task: Any, poison: Targeted | Indiscriminate, split: Split) -> Callable[[int], object]:
    """Return what crafts for so many steps."""
    train = split.train
    points = torch.arange(max(1, round(poison.fraction * len(train))))
    clean = train.batch(points)
    models = [task.new_model().to(train.device).eval() for _ in range(_surrogates(poison))]
    if isinstance(poison, Indiscriminate):
        kept = [torch.zeros_like(w) for w in models[0].parameters() if w.requires_grad]
        limits = span(train.inputs[main_input(train.inputs)])
        return lambda steps: replace(poison, steps=steps)._cancel(task, models[0], clean, kept, limits)
    aim: Batch = split.test.batch(torch.arange(poison.targets))
    return lambda steps: replace(poison, steps=steps, restarts=1)._brewed(
        task, models, aim, clean, torch.Generator().manual_seed(0)
    )
