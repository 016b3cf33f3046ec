"""The models of a trial: P, R, U and D, and checkpoints of P."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.api import DeviceLost, declares
from harness.calling import calling
from harness.cells import ARMS, REMAINING, Cell, Registered, Trial
from harness.conventions import has_own_loop
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

#: Returns the trials that come next, in order.
Soon = Callable[[], Iterable[Trial]]
#: A trial, and the letter of one of its models.
Needed = tuple[Trial, str]
#: The cost of a model as plain values, and its tensors.
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

    def will_need(self, cells: Iterable[Cell], soon: Soon | None = None) -> None:
        """Announce cells. While P is trained, the checkpoints that their methods want are stored.

        Args:
            cells: The cells.
            soon: Returns the trials that come next, in order. Their models may be trained in one group.
        """
        self._cells += cells
        self._soon = soon or self._soon

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
        """Train P, R or D, together with other models that are needed soon.

        Models of one seed share initialisation and order (common random numbers).
        """
        if self._isolated:
            isolation.warm()

        def soon() -> Iterator[Needed]:
            for each in self._soon():  # no isolated method may find the retrained model of its seed
                yield from ((each, of) for of in arms_of(each.cell) if of == "P" or (of != "U" and not self._isolated))

        return self._together((trial, arm), soon(), self._fit)

    def _together(self, first: Needed, soon: Iterable[Needed], make: Callable[[Sequence[Needed]], list[Made]]) -> Made:
        """Make a model, and other models in the same group. Store the others; the caller stores the first.

        Args:
            first: The model that was asked for.
            soon: Models that come next, in order.
            make: Makes a group of models.
        """
        with ExitStack() as held:
            beside = self._beside(first, soon, held)
            made, *others = make([first, *beside])
            for ((trial, arm), lock), each in zip(beside.items(), others, strict=True):
                check = _is_unlearned if arm == "U" else _is_trained
                self._bench.obtain("model", self._determinants(trial, arm), lambda m=each: m, trial, check, lock)  # type: ignore[misc]
        return made

    def _beside(self, first: Needed, soon: Iterable[Needed], held: ExitStack) -> dict[Needed, Lock]:
        """Choose the models to make in one group with the first, and lock them, until ``held`` is closed.

        They are not stored yet, and no other process is making them.
        """
        task = first[0].cell.task
        if self._bench.group == 1 or has_own_loop(task.value):
            return {}
        most = self._bench.pace(task).group - 1
        found: dict[Needed, Lock] = {}
        keys_taken = {self.key(*first)}
        for trial, arm in soon:
            if len(found) == most:
                break
            crafted = getattr(trial.cell.poison.value, "crafted", False)
            if trial.cell.task != task or (crafted and not self._planting.is_stored(trial)):
                continue
            with contextlib.suppress(Exception):  # of another process, a plugin, a full disk: the trial meets it again
                key = self.key(trial, arm)
                if key in keys_taken or self.stored(trial, arm) is not None:
                    continue
                lock = held.enter_context(self._bench.store.lock(key))
                if lock.take() and self.stored(trial, arm) is None:
                    keys_taken.add(key)
                    found[trial, arm] = lock
        return found

    @property
    def _isolated(self) -> bool:
        return any(cell.unlearner.isolated for cell in self._cells)

    def _wanted(self, task: Registered) -> set[int]:
        from harness.training.unlearning import wanted_epochs

        wanted: set[int] = set()
        for cell in self._cells:
            if cell.task == task:
                with contextlib.suppress(Exception):  # of a plugin: the cell's own trials raise it again
                    wanted.update(wanted_epochs(cell.unlearner, task.value.epochs))
        return wanted

    def _fit(self, group: Sequence[Needed], stop: int | None = None, show: str = "") -> list[Made]:
        """Train models of one task side by side.

        Args:
            group: The models to train, at least one.
            stop: Epochs after which they end; the schedule still covers all.
            show: Text for the progress display; ``""`` for the default, the name of the first model.
        """
        from harness.training.loop import train_all

        task = group[0][0].cell.task
        # Before timing starts: the first step initialises torch, and no training should be charged for that.
        self.unlearning.flops_per_example(task)
        jobs = [self._job(trial, arm, stop) for trial, arm in group]
        show = show or group[0][1] + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        jobs[0] = replace(jobs[0], on_epoch=self._showing(group[0][0], show, jobs[0].on_epoch))
        with guarded(f"the task {task.id!r}", passing=(Busy, DeviceLost, Gone)), self.unlearning.timed(task) as costs:
            fittings = train_all(task.value, jobs)
        if task not in self._surviving and stop is None:
            self.unlearning.check(group[0][0], fittings[0].model, f"the task {task.id!r}", "trained")
            if (check := getattr(task.value, "check_trained", None)) is not None:
                with calling(f"the task {task.id!r}"):
                    check(fittings[0].model)
            self._surviving.add(task)
        return costs(fittings)

    def _job(self, trial: Trial, arm: str, stop: int | None) -> Job:
        from harness.training.loop import Job

        task = trial.cell.task
        points, clean = self._planting.points(trial), self._bench.split(task).train
        data = clean.retained_with(points.planted) if arm == "R" else clean.poisoned_with(points.planted)
        keep = points.trained_on(arm, task.value.epochs)
        wanted = self._wanted(task) if arm == "P" and stop is None else set()

        def on_epoch(model: nn.Module, done: int, of: int) -> None:
            if done in wanted:  # stored now, so that P need not be trained again for a method
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
        method = trial.cell.unlearner
        ours = method.distribution == "pytest-unlearning" and hasattr(method.value, "begin")
        if ours and self._bench.group != 1 and not has_own_loop(trial.cell.task.value):
            later = () if self._isolated else self._soon()
            same = ((each, arm) for each in later if each.cell.unlearner == method)
            return self._together((trial, arm), same, self._retrained)
        made = self._made(trial)
        first = self.unlearning.asked_before(trial, made[1])
        if first is not None:
            with contextlib.suppress(Busy):  # what it is made of is gone, and is no business of this trial
                self.unlearning.compare(first, self._made(first)[1], trial)
        return made

    def _retrained(self, group: Sequence[Needed]) -> list[Made]:
        return self.unlearning.make_all([trial for trial, _ in group])

    def _made(self, trial: Trial) -> Made:
        poisoned: Mapping[str, Tensor] = {}
        trained = self.of(trial, "P")
        if not declares(trial.cell.unlearner.value, "from_scratch"):
            poisoned = self._bench.model(trial.cell.task, trained).state_dict()
        # Alone, P would take longer than its share of a group's time.
        patience = max(SHORTEST, PATIENCE * max(trained.info["seconds"], trained.info["cpu_seconds"]))
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
    counts = artefact.info["examples"], artefact.info["steps"]  # a task's own training loop counts neither
    if not artefact.info["seconds"] > 0 or (min(counts) <= 0 and counts != (0, 0)):
        raise ValueError("what others are measured against must be positive")


def _is_model(artefact: Artefact, *numbers: object) -> None:
    has_tensors(artefact)
    if not isinstance(artefact.info["finite"], bool):
        raise TypeError("the entry 'finite' must be true or false")
    numbers = (*numbers, *(artefact.info[name] for name in ("examples", "steps", "cpu_seconds")))
    if not all(isinstance(each, int | float) for each in numbers):
        raise TypeError("the cost of a training must be in numbers")
