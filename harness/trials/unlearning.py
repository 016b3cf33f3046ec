"""How U is made: what a method is handed, what is kept of what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.api import declares
from harness.cells import Registered, Trial
from harness.isolated import method as isolated
from harness.isolated.method import Measured
from harness.isolated.process import Limits
from harness.trials.bench import Bench
from harness.trials.cache import Cache
from harness.trials.planting import Planting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.meter import Meter

#: Batches whose operations are averaged where they differ in length.
SAMPLED = 8
#: An isolated method is stopped after so many times the seconds of the training that it undoes, and after these at
#: least: machines differ in load.
PATIENCE, LEAST = 20, 60.0


class Unlearning:
    """Has methods make U.

    Args:
        bench: Where.
        planting: Plants the poisons.
    """

    def __init__(self, bench: Bench, planting: Planting) -> None:
        self._bench = bench
        self._planting = planting
        self._flops: Cache[Registered, float] = Cache(16)
        self._called: set[str] = set()

    def make(
        self,
        trial: Trial,
        poisoned: Mapping[str, Tensor],
        history: Mapping[int, Mapping[str, Tensor]],
        seconds: float,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Hand P and the request to the unlearner; say what it cost beside what it returned.

        Args:
            trial: The trial.
            poisoned: State dict of P, empty for a method that works from scratch.
            history: The checkpoints of P that the method declares to want, by epoch.
            seconds: What training P took.

        Raises:
            Exception: Whatever the unlearner raised.
        """
        from harness.training.loop import is_finite
        from harness.training.seeds import derive
        from harness.training.unlearning import handed_over, unlearn

        task: Any = trial.cell.task.value
        method = trial.cell.unlearner
        points, train = self._planting.points(trial), self._bench.split(trial.cell.task).train
        retain, forget = handed_over(train, points.planted, points.known, points.left)
        per_example = self.flops_per_example(trial.cell.task)  # before: it sets up what torch sets up once
        given: dict[str, Any] = {
            "budget": self._bench.budget * task.epochs, "seed": derive("unlearning", trial.seed), "history": history,
        }  # fmt: skip
        model: nn.Module
        meter: Meter | Measured
        if method.isolated:
            limits = Limits(max(LEAST, PATIENCE * seconds))
            model, meter = isolated.unlearn(method, trial.cell.task, poisoned, retain, forget, limits=limits, **given)
        else:
            model, meter = unlearn(method, task, poisoned, retain, forget, **given)
        info = {
            "examples": meter.examples, "steps": meter.steps, "seconds": meter.seconds,
            "flops": meter.flops, "flops_per_example": 0 if declares(method.value, "control") else per_example,
            "cpu_seconds": meter.cpu_seconds,
            # In a process of its own every call is the first, and what that takes is counted against it.
            "first_call": not method.isolated and method.id not in self._called,
        }  # fmt: skip
        self._called.add(method.id)
        if history:
            info["history_bytes"] = sum(t.numel() * t.element_size() for s in history.values() for t in s.values())
        return {**info, "finite": is_finite(model)}, model.state_dict()

    def flops_per_example(self, task: Registered) -> float:
        """Return the floating-point operations of one example in a step of the recipe; counted once in a process."""
        return self._flops.get(task, lambda: self._count(task))

    def _count(self, task: Registered) -> float:
        import torch

        from harness.training.isolation import isolated_rng
        from harness.training.loop import fit
        from harness.training.operations import Operations

        recipe: Any = task.value
        batches = list(self._bench.split(task).train.batches(recipe.batch_size, 1, torch.Generator().manual_seed(0)))
        # Texts differ in length from batch to batch.
        batches = batches[:: max(1, len(batches) // SAMPLED)] if "length" in batches[0].inputs else batches[:1]
        with isolated_rng(0):
            model = recipe.new_model().to(self._bench.device)
            with Operations() as operations:
                fit(recipe, model, batches)
        return operations.total / sum(map(len, batches))


def are_numbers(*values: object) -> None:
    """Refuse what an artefact says of a cost and is no number.

    Raises:
        TypeError: It is none.
    """
    if not all(isinstance(each, int | float) for each in values):
        raise TypeError("the cost of a training must be in numbers")
