"""The models of a trial: P, R, U and D, and checkpoints of P."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.api import DeviceLost, declares
from harness.cells import ARMS, REMAINING, Cell, Registered, Trial
from harness.guards.guard import guarded
from harness.isolated import method as isolation
from harness.store.artefacts import Artefact, Busy, Gone, Lock, Make, ask_all, has_tensors, key_of
from harness.trials import keys
from harness.trials.bench import Bench
from harness.trials.planting import Planting
from harness.trials.unlearning import Unlearning

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.loop import Job, OnEpoch

#: Returns trials.
Soon = Callable[[], Iterable[Trial]]
#: A model of a trial.
Arm = tuple[Trial, str]
#: What a model cost, in plain values, and its tensors.
Made = tuple[dict[str, Any], "dict[str, Tensor]"]
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
        self._soon: Soon = tuple
        self._surviving: set[Registered] = set()  # tasks whose models are what their state dicts say
        self.unlearning = Unlearning(bench, planting)

    def will_need(self, cells: Iterable[Cell], soon: Soon = tuple) -> None:
        """Have checkpoints of P kept that the cells' methods want, while P is trained.

        Args:
            cells: The cells.
            soon: Called for the trials that come next, in order: their models may be trained side by side.
        """
        self._cells += cells
        self._soon = soon

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

    def _trained(self, trial: Trial, arm: str) -> Made:
        """Train P, R or D, and what will be asked for soon and can be trained beside it.

        Those of a seed share initialisation and order: common random numbers.
        """
        if any(cell.unlearner.isolated for cell in self._cells):
            isolation.warm()

        def soon() -> Iterator[tuple[Trial, str]]:
            for each in self._soon():
                yield from ((each, of) for of in arms_of(each.cell) if of != "U")

        return self._together((trial, arm), soon(), self._fit)

    def _together(self, first: Arm, soon: Iterable[Arm], make: Callable[[Sequence[Arm]], list[Made]]) -> Made:
        """Make a model and what can be made beside it, and store the latter.

        Args:
            first: What is asked for.
            soon: What comes next, in order.
            make: Makes several side by side.
        """
        with ExitStack() as held:
            beside = self._beside(first, soon, held)
            made, *others = make([first, *beside])
            for ((trial, arm), lock), each in zip(beside.items(), others, strict=True):
                check = _is_unlearned if arm == "U" else _is_trained
                self._bench.obtain("model", self._determinants(trial, arm), lambda m=each: m, trial, check, lock)  # type: ignore[misc]
        return made

    def _beside(self, first: Arm, soon: Iterable[Arm], held: ExitStack) -> dict[Arm, Lock]:
        """Return what of the models that come next is best made with one: not stored, and in nobody's hands."""
        if self._bench.group == 1:
            return {}
        task = first[0].cell.task
        most = self._bench.pace(task).together - 1
        found: dict[Arm, Lock] = {}
        keys_taken = {self.key(*first)}
        for trial, arm in soon:
            if len(found) == most:
                break
            crafted = getattr(trial.cell.poison.value, "crafted", False)
            if trial.cell.task != task or (crafted and not self._planting.is_stored(trial)):
                continue
            try:
                key = self.key(trial, arm)
            except Exception:  # being planted elsewhere, or a plugin's error, which the trial itself raises again
                continue
            if key not in keys_taken and self.stored(trial, arm) is None:
                lock = held.enter_context(self._bench.store.lock(key))
                if lock.take() and self.stored(trial, arm) is None:
                    keys_taken.add(key)
                    found[trial, arm] = lock
        return found

    def _wanted(self, task: Registered) -> set[int]:
        from harness.training.unlearning import wanted_epochs

        wanted: set[int] = set()
        for cell in self._cells:
            if cell.task == task:
                with contextlib.suppress(Exception):  # of a plugin: the cell's own trials raise it again
                    wanted.update(wanted_epochs(cell.unlearner, task.value.epochs))
        return wanted

    def _fit(self, group: Sequence[Arm], stop: int | None = None, show: str = "") -> list[Made]:
        """Train models of one task side by side.

        Args:
            group: At least one trial with one of its arms.
            stop: Passes after which they end, on the schedule of them all.
            show: What is said to be trained; ``""`` for what it is.
        """
        from harness.training.clock import now, worked
        from harness.training.data import batch_count
        from harness.training.loop import is_finite, train_all

        registered = group[0][0].cell.task
        task: Any = registered.value
        if getattr(task, "compiled", False):  # each process compiles once, and finds what others compiled
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._bench.store.files.scratch / "compiled"))
        # Before the clock runs: torch sets up on the first step what no training shall pay for.
        self.unlearning.flops_per_example(registered)
        jobs = [self._job(trial, arm, stop) for trial, arm in group]
        show = show or group[0][1] + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        jobs[0] = replace(jobs[0], on_epoch=self._showing(group[0][0], show, jobs[0].on_epoch))
        on_gpu = self._bench.kind == "cuda"
        started, began = worked(on_gpu), now()
        with guarded(f"the task {registered.id!r}", passing=(Busy, DeviceLost, Gone)):
            trained = train_all(task, jobs)
        spent, seconds = worked(on_gpu) - started, now() - began
        steps = [sum(batch_count(size, task.batch_size) for size in job.keep.sum(dim=1).tolist()) for job in jobs]
        if registered not in self._surviving and stop is None:
            self.unlearning.check(group[0][0], trained[0][0], f"the task {registered.id!r}", "trained")
            self._surviving.add(registered)
        made: list[Made] = []
        for (model, examples), own in zip(trained, steps, strict=True):
            # On a GPU what methods are held against: each step called, as those of most methods are.
            cpu_seconds = own * self._bench.pace(registered).called if on_gpu else spent * own / sum(steps)
            info = {"examples": examples, "steps": own, "cpu_seconds": cpu_seconds}
            info |= {"seconds": seconds * own / sum(steps), "finite": is_finite(model)}
            made.append((info, model.state_dict()))
        return made

    def _job(self, trial: Trial, arm: str, stop: int | None) -> Job:
        from harness.training.loop import Job

        task = trial.cell.task
        points, clean = self._planting.points(trial), self._bench.split(task).train
        data = clean.retained_with(points.planted) if arm == "R" else clean.poisoned_with(points.planted)
        keep = points.trained_on(arm, task.value.epochs)
        wanted = self._wanted(task) if arm == "P" and stop is None else set()

        def on_epoch(model: nn.Module, done: int, of: int) -> None:
            if done in wanted:  # on the way, so that no method has it trained again
                with contextlib.suppress(Busy):
                    self._checkpoint(trial, done, lambda: ({}, model.state_dict()))

        return Job(data, keep, trial.seed, on_epoch, stop)

    def _showing(self, trial: Trial, what: str, on_epoch: OnEpoch | None) -> OnEpoch:
        def told(model: nn.Module, done: int, of: int) -> None:
            self._bench.show(trial, what, done, of)
            if on_epoch is not None:
                on_epoch(model, done, of)

        return told

    def _checkpoint(self, trial: Trial, epoch: int, make: Make | None = None) -> Artefact:
        """Return P as it was after an epoch; if it was not kept, P is trained again up to there."""

        def again() -> Made:
            ((_, tensors),) = self._fit([(trial, "P")], epoch, "P again")
            return {}, tensors

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

    def _unlearned(self, trial: Trial, arm: str) -> Made:
        self._bench.show(trial, arm, 0, 1)
        if self._bench.group != 1 and hasattr(trial.cell.unlearner.value, "begin"):
            same = ((each, arm) for each in self._soon() if each.cell.unlearner == trial.cell.unlearner)
            return self._together((trial, arm), same, self._retrained)
        made = self._made(trial)
        first = self.unlearning.asked_before(trial, made[1])
        if first is not None:
            with contextlib.suppress(Busy):  # what it is made of is gone, and is no business of this trial
                self.unlearning.compare(first, self._made(first)[1], trial)
        return made

    def _retrained(self, group: Sequence[Arm]) -> list[Made]:
        trials = [trial for trial, _ in group]
        return self.unlearning.make_all(trials, self._bench.pace(trials[0].cell.task).called)

    def _made(self, trial: Trial) -> Made:
        poisoned: Mapping[str, Tensor] = {}
        trained = self.of(trial, "P")
        if not declares(trial.cell.unlearner.value, "from_scratch"):
            poisoned = self._bench.model(trial.cell.task, trained).state_dict()
        patience = max(SHORTEST, PATIENCE * float(trained.info["seconds"]))
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
    _is_model(artefact, artefact.info["seconds"])
    if not min(artefact.info["examples"], artefact.info["steps"], artefact.info["seconds"]) > 0:
        raise ValueError("what others are measured against must be positive")


def _is_model(artefact: Artefact, *numbers: object) -> None:
    has_tensors(artefact)
    if not isinstance(artefact.info["finite"], bool):
        raise TypeError("the entry 'finite' must be true or false")
    numbers = (*numbers, *(artefact.info[name] for name in ("examples", "steps", "cpu_seconds")))
    if not all(isinstance(each, int | float) for each in numbers):
        raise TypeError("the cost of a training must be in numbers")
