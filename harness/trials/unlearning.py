"""How U is made: what a method is handed, what is kept of what it cost."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.api import declares
from harness.cells import Registered, Trial
from harness.isolated import method as isolated
from harness.isolated.method import Measured
from harness.isolated.process import Limits
from harness.store.artefacts import Artefact, Busy, key_of
from harness.trials import keys
from harness.trials.bench import Bench
from harness.trials.cache import Cache
from harness.trials.planting import Planting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.meter import Meter

#: Floating-point operations are counted on this seed alone, once for all poisons of a size, and not for controls, whose
#: cost is no question: counting slows small models by half, and every seed has the same.
COUNTED_SEED = 0
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
        counted = is_counted(trial) and self.operations(trial) is None
        given: dict[str, Any] = {
            "budget": self._bench.budget * task.epochs, "seed": derive("unlearning", trial.seed),
            "history": history, "count_flops": counted,
        }  # fmt: skip
        model: nn.Module
        meter: Meter | Measured
        if method.isolated:
            limits = Limits(max(LEAST, PATIENCE * seconds))
            model, meter = isolated.unlearn(method, trial.cell.task, poisoned, retain, forget, limits=limits, **given)
        else:
            model, meter = unlearn(method, task, poisoned, retain, forget, **given)
        info = {"examples": meter.examples, "steps": meter.steps, "seconds": meter.seconds}
        if isinstance(meter, Measured):
            info["cpu_seconds"] = meter.cpu_seconds
        if counted:
            found = {"flops": meter.flops, "flops_per_example": self._flops_per_example(trial.cell.task)}
            with contextlib.suppress(Busy):  # another process stores its count of the same
                self._bench.obtain("operations", self._counted(trial), lambda: (found, None), trial, _is_count)
        if history:
            info["history_bytes"] = sum(t.numel() * t.element_size() for s in history.values() for t in s.values())
        return {**info, "finite": is_finite(model)}, model.state_dict()

    def operations(self, trial: Trial) -> Artefact | None:
        """Return the floating-point operations of a trial's unlearner, if they were counted."""
        return self._bench.store.get(key_of("operations", self._counted(trial)), _is_count)

    def _counted(self, trial: Trial) -> dict[str, Any]:
        on = self._bench.on(trial.cell.task)
        return keys.operations(on, trial, self._planting.of(trial), self._bench.budget)

    def _flops_per_example(self, task: Registered) -> float:
        """Return the floating-point operations of one example in a step of the recipe."""
        return self._flops.get(task, lambda: self._count(task))

    def _count(self, task: Registered) -> float:
        import torch

        from harness.training.isolation import isolated_rng
        from harness.training.loop import fit
        from harness.training.meter import Meter

        recipe: Any = task.value
        train = self._bench.split(task).train
        batch = train.batch(torch.arange(min(recipe.batch_size, len(train))))
        with isolated_rng(0):
            model = recipe.new_model().to(self._bench.device)
            with Meter(model, flops=True) as meter:
                fit(recipe, model, [batch])
        return meter.flops / len(batch)


def is_counted(trial: Trial) -> bool:
    """Return whether the trial's unlearner has its floating-point operations counted."""
    return trial.seed == COUNTED_SEED and not declares(trial.cell.unlearner.value, "control")


def _is_count(artefact: Artefact) -> None:
    are_numbers(artefact.info["flops"], artefact.info["flops_per_example"])


def are_numbers(*values: object) -> None:
    """Refuse what an artefact says of a cost and is no number.

    Raises:
        TypeError: It is none.
    """
    if not all(isinstance(each, int | float) for each in values):
        raise TypeError("the cost of a training must be in numbers")
