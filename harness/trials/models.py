"""The models of a trial: P, R, U and D, and checkpoints of P."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from harness.api import DeviceLost, declares
from harness.cells import ARMS, REMAINING, Cell, Registered, Trial
from harness.guards.guard import guarded
from harness.isolated import method as isolation
from harness.store.artefacts import Artefact, Busy, Gone, Make, ask_all, has_tensors, key_of
from harness.trials import keys
from harness.trials.bench import Bench
from harness.trials.planting import Planting
from harness.trials.unlearning import Unlearning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.loop import OnEpoch

#: Times that the training of P took, in which a method must end, and the seconds that it has at least.
PATIENCE, SHORTEST = 20, 60


class Models:
    """Makes the models of trials.

    Args:
        bench: Where.
        planting: Plants their poisons.

    Attributes:
        unlearning: Has methods make U.
    """

    def __init__(self, bench: Bench, planting: Planting) -> None:
        self._bench = bench
        self._planting = planting
        self._cells: list[Cell] = []
        self._surviving: set[Registered] = set()  # tasks whose models are what their state dicts say
        self.unlearning = Unlearning(bench, planting)

    def will_need(self, cells: Iterable[Cell]) -> None:
        """Have checkpoints of P kept that the cells' methods want, while P is trained."""
        self._cells += cells

    def key(self, trial: Trial, arm: str) -> str:
        """Return the key of an arm's model."""
        return key_of("model", self._determinants(trial, arm))

    def stored(self, trial: Trial, arm: str) -> Artefact | None:
        """Return an arm's model if it is stored and sound."""
        return self._bench.store.get(self.key(trial, arm), _is_unlearned if arm == "U" else _is_trained)

    def arms(self, trial: Trial) -> dict[str, Artefact]:
        """Return a trial's models by arm, made if they are not stored.

        Raises:
            Busy: One of them is being made by another process; the others are made all the same.
        """
        arms = arms_of(trial.cell)
        return dict(zip(arms, ask_all(functools.partial(self.of, trial, arm) for arm in arms), strict=True))

    def of(self, trial: Trial, arm: str) -> Artefact:
        """Return an arm's model, made if it is not stored.

        Raises:
            Busy: Another process is making it, or what it is made of.
            Exception: Whatever the unlearner raised.
        """
        make, check = (self._unlearned, _is_unlearned) if arm == "U" else (self._trained, _is_trained)
        return self._bench.obtain("model", self._determinants(trial, arm), lambda: make(trial, arm), trial, check)

    def _determinants(self, trial: Trial, arm: str) -> dict[str, Any]:
        on = self._bench.on(trial.cell.task)
        return keys.model(on, trial, self._planting.of(trial), arm, self._bench.budget)

    def _trained(self, trial: Trial, arm: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Train P, R or D. Those of a seed share initialisation and order: common random numbers."""
        from harness.training.loop import is_finite

        wanted = self._wanted(trial.cell.task) if arm == "P" else set()
        if any(cell.unlearner.isolated for cell in self._cells):
            isolation.warm()

        def on_epoch(model: nn.Module, done: int, of: int) -> None:
            self._bench.show(trial, arm, done, of)
            if done in wanted:  # on the way, so that no method has it trained again
                with contextlib.suppress(Busy):
                    self._checkpoint(trial, done, lambda: ({}, model.state_dict()))

        info, model = self._fit(trial, arm, on_epoch)
        if trial.cell.task not in self._surviving:
            self.unlearning.check(trial, model, f"the task {trial.cell.task.id!r}", "trained")
            self._surviving.add(trial.cell.task)
        return {**info, "finite": is_finite(model)}, model.state_dict()

    def _wanted(self, task: Registered) -> set[int]:
        from harness.training.unlearning import wanted_epochs

        wanted: set[int] = set()
        for cell in self._cells:
            if cell.task == task:
                with contextlib.suppress(Exception):  # of a plugin: the cell's own trials raise it again
                    wanted.update(wanted_epochs(cell.unlearner, task.value.epochs))
        return wanted

    def _fit(
        self, trial: Trial, arm: str, on_epoch: OnEpoch, stop: int | None = None
    ) -> tuple[dict[str, Any], nn.Module]:
        from harness.training.clock import worked
        from harness.training.data import batch_count
        from harness.training.loop import train

        task: Any = trial.cell.task.value
        # Before the clock runs: torch sets up on the first step what no training shall pay for.
        self.unlearning.flops_per_example(trial.cell.task)
        points, clean = self._planting.points(trial), self._bench.split(trial.cell.task).train
        data = clean.retained_with(points.planted) if arm == "R" else clean.poisoned_with(points.planted)
        keep = points.trained_on(arm, task.epochs)
        on_gpu = self._bench.kind == "cuda"
        started = worked(on_gpu)
        with guarded(f"the task {trial.cell.task.id!r}", passing=(Busy, DeviceLost, Gone)):
            model, examples = train(task, data, keep, trial.seed, on_epoch, stop)
        steps = sum(batch_count(size, task.batch_size) for size in keep.sum(dim=1).tolist())
        return {"examples": examples, "steps": steps, "cpu_seconds": worked(on_gpu) - started}, model

    def _checkpoint(self, trial: Trial, epoch: int, make: Make | None = None) -> Artefact:
        """Return P as it was after an epoch; if it was not kept, P is trained again up to there."""

        def again() -> tuple[dict[str, Any], dict[str, Tensor]]:
            show: OnEpoch = lambda _, done, of: self._bench.show(trial, "P again", done, of)  # noqa: E731
            return {}, self._fit(trial, "P", show, stop=epoch)[1].state_dict()

        of = self._determinants(trial, "P") | {"epoch": epoch}
        return self._bench.obtain("model", of, make or again, trial, has_tensors)

    def _history(self, trial: Trial) -> dict[int, dict[str, Tensor]]:
        """Return the checkpoints that the method declares to want, on the device."""
        from harness.training.isolation import isolated_rng
        from harness.training.unlearning import wanted_epochs

        epochs = wanted_epochs(trial.cell.unlearner, trial.cell.task.value.epochs)
        if not epochs:
            return {}
        with isolated_rng(0):
            model: nn.Module = trial.cell.task.value.new_model()
        history = {}
        for epoch in epochs:
            tensors = self._bench.tensors(self._checkpoint(trial, epoch), model.load_state_dict)
            history[epoch] = {name: tensor.to(self._bench.device) for name, tensor in tensors.items()}
        return history

    def _unlearned(self, trial: Trial, arm: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        self._bench.show(trial, arm, 0, 1)
        made = self._made(trial)
        first = self.unlearning.asked_before(trial, made[1])
        if first is not None:
            with contextlib.suppress(Busy):  # what it is made of is gone, and is no business of this trial
                self.unlearning.compare(first, self._made(first)[1], trial)
        return made

    def _made(self, trial: Trial) -> tuple[dict[str, Any], dict[str, Tensor]]:
        poisoned: Mapping[str, Tensor] = {}
        trained = self.of(trial, "P")
        if not declares(trial.cell.unlearner.value, "from_scratch"):
            poisoned = self._bench.model(trial.cell.task, trained).state_dict()
        patience = max(SHORTEST, PATIENCE * float(trained.made["seconds"]))
        return self.unlearning.make(trial, poisoned, self._history(trial), self._bench.timeout or patience)


def arms_of(cell: Cell) -> tuple[str, ...]:
    """Return the models that a trial of the cell consists of."""
    return ARMS if cell.discovery == 1 else (*ARMS, REMAINING)


def _is_unlearned(artefact: Artefact) -> None:
    info = artefact.info
    _is_model(artefact, info["seconds"], info["flops"], info["flops_per_example"])
    if not isinstance(info["first_call"], bool):
        raise TypeError("the entry 'first_call' must be true or false")


def _is_trained(artefact: Artefact) -> None:
    _is_model(artefact, artefact.made["seconds"])
    if not min(artefact.info["examples"], artefact.info["steps"], artefact.made["seconds"]) > 0:
        raise ValueError("what others are measured against must be positive")


def _is_model(artefact: Artefact, *numbers: object) -> None:
    has_tensors(artefact)
    if not isinstance(artefact.info["finite"], bool):
        raise TypeError("the entry 'finite' must be true or false")
    numbers = (*numbers, *(artefact.info[name] for name in ("examples", "steps", "cpu_seconds")))
    if not all(isinstance(each, int | float) for each in numbers):
        raise TypeError("the cost of a training must be in numbers")
