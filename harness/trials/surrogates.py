"""Models of the task that an attacker trained on clean data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from harness.cells import Trial
from harness.guards.guard import guarded
from harness.store.artefacts import has_tensors
from harness.trials import keys
from harness.trials.bench import Bench

if TYPE_CHECKING:
    from torch import Tensor, nn


def surrogate(bench: Bench, trial: Trial, number: int) -> nn.Module:
    """Return one of the surrogates of a trial's seed, a copy that may be changed; it is trained once."""
    import torch

    from harness.training.loop import is_finite, train
    from harness.training.seeds import derive

    task = trial.cell.task
    split = bench.split(task)
    seed = derive("surrogate", trial.seed, number)

    def make() -> tuple[dict[str, Any], dict[str, Tensor]]:
        everything = torch.ones(len(split.train), dtype=torch.bool)

        def on_epoch(_: nn.Module, done: int, of: int) -> None:
            bench.show(trial, "a surrogate", done, of)

        with guarded(f"the task {task.id!r}"):
            model, examples = train(task.value, split.train, everything, seed, on_epoch)
        return {"examples": examples, "finite": is_finite(model)}, model.state_dict()

    artefact = bench.obtain("model", keys.surrogate(bench.on(task), seed), make, trial, has_tensors)
    return copy.deepcopy(bench.model(task, artefact))
