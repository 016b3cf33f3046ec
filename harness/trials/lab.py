"""One trial: plant, train P and R, unlearn U, measure. Each artefact is made once, by whoever comes first."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from _pytest_unlearning import DEFAULTS
from harness.api import ContractError, Planted, Reading, UnlearningError
from harness.cells import ARMS, REMAINING, Registered, Trial
from harness.conventions import has_own_loop
from harness.judging.yardsticks import counted_in
from harness.store.artefacts import Artefact, Gone, Store, ask_all, default_root, patiently
from harness.trials.bench import Bench, Show
from harness.trials.devices import kind_of_device
from harness.trials.models import Models, arms_of
from harness.trials.planting import Planting
from harness.trials.readings import Readings, Stored

if TYPE_CHECKING:
    import torch

    from harness.training.data import Split


Answer = TypeVar("Answer")


class _Arm(NamedTuple):
    """A model, and what is read of it."""

    model: Artefact
    accuracy: Stored
    poison: Stored


class Cost(NamedTuple):
    """What one training takes.

    Attributes:
        seconds: Of one process; on a GPU in a group, divided by its size.
        alone: The same, if no other model is trained beside it.
        size: Bytes of the stored model.
        memory: Bytes of main memory of the process that trains, at most; 0 if nobody knows.
        own_loop: Whether the task has a training loop of its own, of which a tenth of the rows was measured.
        gpu: As in `harness.trials.pace.Pace`.
    """

    seconds: float
    alone: float
    size: int
    memory: int
    own_loop: bool
    gpu: tuple[int, int]


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial shows.

    Attributes:
        readings: By measure (``"poison"``, ``"accuracy"``) and arm (``"P"``, ``"R"``, ``"U"``; ``"D"`` where not all
            poisoned points were handed over).
        cost: ``train_examples`` (of the retraining on what the unlearner keeps: R, or D where there is one),
            ``unlearn_examples``; ``fractions`` of that retraining by yardstick (`YARDSTICKS`; without ``flops`` where
            none are counted; ``cpu_seconds`` alone for a task with a training loop of its own);
            ``unlearn_fraction``, the largest one that is counted (`counted_in`);
            ``first_call``, whether the process had not called the method before; ``history_bytes``, of the checkpoints
            that the method was handed; ``seconds`` and ``cpu_seconds`` by arm; and ``built``: the arms that this run
            trained on behalf of this very trial.
        made_here: Whether this run made anything for it, measures included.
        nearness: How far U and P are from the nearest retrained model, by arm and measure (`harness.trials.nearness`).
        blobs: Hash of the weights, by arm.
        answers: Hash of the rows that are not planted and of the model's answers, by arm, for R and U of a task with a
            training loop of its own; ``""`` if it diverged.
    """

    readings: Mapping[str, Mapping[str, Reading]]
    cost: Mapping[str, Any]
    made_here: bool
    nearness: Mapping[str, Mapping[str, float]]
    blobs: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)


class Lab:
    """Runs trials, on one device, over one store.

    Args:
        bench: The store, the device, the budget.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._planting = Planting(bench)
        self._models = Models(bench, self._planting)
        self._readings = Readings(bench, self._planting, self._models)
        self.will_need = self._models.will_need
        self.model = bench.model

    @property
    def budget(self) -> float:
        """Compute an unlearner may use, as a fraction of retraining; it can be set from trial to trial."""
        return self.bench.budget

    @budget.setter
    def budget(self, budget: float) -> None:
        self.bench.budget = budget

    @classmethod
    def open(
        cls,
        store: str | Path | None = None,
        *,
        data: str | Path | None = None,
        device: str = "auto",
        budget: float = DEFAULTS["budget"],
        run: str | None = None,
        show: Show = lambda *_: None,
        share: float = 1.0,
        made_on: str | None = None,
        timeout: float | None = None,
        group: int | None = None,
    ) -> Lab:
        """Return a lab over a store.

        Args:
            store: Directory or URL for what is trained; None for the user's cache directory.
            data: Directory with data sets, or None.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            budget: Compute an unlearner may use, as a fraction of retraining.
            run: Id of the run, as its processes share it; None for one of its own.
            show: Called with (trial, what is being trained, passes done, passes in all).
            share: Part of the GPU's memory that this process may fill, in (0, 1].
            made_on: Kind of the device that artefacts were made on, ``"cpu"`` or ``"cuda"``, to read them elsewhere;
                None for the device at hand.
            timeout: Seconds that an unlearner has; None for `harness.trials.models.PATIENCE` times the training of P,
                at least a minute.
            group: Models that are trained side by side; None for 1 on a CPU, and on a GPU as many as are best.

        Raises:
            UnlearningError: A path is empty, the store cannot be opened, or the device cannot be used.
        """
        kind = kind_of_device(device)
        if data == "":
            raise UnlearningError("the path of the data sets is empty; write one, or leave it out")
        place = Store(default_root() if store is None else store, run or new_run("python"))
        return cls(Bench(place, kind, budget, Path(data) if data else None, show, made_on, share, timeout, group))

    @property
    def store(self) -> Store:
        """Where artefacts live."""
        return self.bench.store

    @property
    def device(self) -> torch.device:
        """Where models are trained."""
        return self.bench.device

    @property
    def made_on(self) -> str:
        """Kind of the device that models are made on."""
        return self.bench.made_on

    def run(self, trial: Trial) -> TrialResult:
        """Make what the trial lacks and return what it shows.

        Raises:
            Busy: Something it needs is being made by another process; everything else of it that can be made, is.
            UnlearningError: The GPU's memory did not suffice.
            Exception: Whatever the unlearner raised; nothing of it is stored.
        """
        return _again(lambda: self._run(trial))

    def unlearn(self, trial: Trial) -> None:
        """Make the trial's unlearned model, if it is not stored, and nothing that it does not need.

        Raises:
            Busy: Another process is making it, or what it is made of.
            Exception: Whatever the unlearner raised.
        """
        _again(lambda: self._models.of(trial, "U"))

    def _run(self, trial: Trial) -> TrialResult:
        names = arms_of(trial.cell)
        arms = dict(zip(names, ask_all(functools.partial(self._arm, trial, arm) for arm in names), strict=True))
        retrained = [arms[arm].model for arm in ("R", REMAINING) if arm in arms]
        if arms["U"].model.blob in {model.blob for model in retrained}:
            raise ContractError(
                f"the unlearner {trial.cell.unlearner.id!r} returned the retrained model of seed {trial.seed}, bit by "
                "bit; it must compute its own"
            )
        near = {arm: self._readings.nearness(trial, arms[arm].model, retrained) for arm in "UP"}
        answers: dict[str, str] = {}
        if has_own_loop(trial.cell.task.value):  # models may be stored with their seed, and differ by that alone
            kept = self._planting.of(trial).retained
            found = {arm: self._readings.answers(trial, arms[arm].model) for arm in "RU"}
            answers = {arm: each and f"{kept} {each}" for arm, each in found.items()}
        return self._result(trial, arms, near, answers)

    def _arm(self, trial: Trial, arm: str) -> _Arm:
        """Return an arm's model, its accuracy, and what the poison's measure says of it.

        Equal weights, by whichever method, are read by one process: the lock is that of the weights.
        """
        model = self._models.of(trial, arm)
        with self.store.lock(str(model.blob)) as lock:
            accuracy = self._readings.accuracy(trial, model, lock)
            return _Arm(model, accuracy, self._readings.poison(trial, model, lock))

    def heuristics(self, trials: Sequence[Trial]) -> list[dict[str, dict[str, Reading]]]:
        """Return what the usual metrics read of the trials of a cell: for each by metric and arm.

        Raises:
            Busy: They are being computed by another process.
            ValueError: There are fewer than three trials.
        """
        return _again(lambda: self._readings.heuristics(trials))

    def relearned(self, trial: Trial) -> dict[str, Reading]:
        """Return, by arm, what the poison's measure reads of a trial's models after they were trained on.

        Raises:
            Busy: It is being computed by another process.
        """
        return _again(lambda: {arm: self._readings.relearned(trial, arm) for arm in ARMS})

    def check(self, task: Registered) -> None:
        """Refuse a task that cannot be used. Its data are loaded, unless the store knows them.

        Raises:
            UnlearningError: Its data cannot be had, or nothing can be trained on them.
        """
        patiently(lambda: self.bench.on(task))

    def split(self, task: Registered) -> Split:
        """Return a task's data on the device; loaded once, or found once to be out of reach.

        Raises:
            UnlearningError: They cannot be had.
        """
        return _again(lambda: self.bench.split(task))

    def planted(self, trial: Trial) -> Planted:
        """Return what the trial plants, secrets included; made if it is not stored."""
        return _again(lambda: self._planting.points(trial).planted)

    def stored(self, trial: Trial) -> tuple[Planted | None, dict[str, Artefact]]:
        """Return what of a trial the store has: what was planted, and models by arm. Makes nothing.

        Without what was planted nobody knows the keys of the models, and there are none.

        Raises:
            UnlearningError: The task's data cannot be had.
        """
        planted = self._planting.stored(trial)
        if planted is None:
            return None, {}
        found = {arm: self._models.stored(trial, arm) for arm in ARMS}
        return planted, {arm: artefact for arm, artefact in found.items() if artefact is not None}

    def models(self, trial: Trial) -> dict[str, Artefact]:
        """Return a trial's models by arm, made if they are not stored.

        Raises:
            Busy: One of them is being made by another process.
            Exception: Whatever the unlearner raised.
        """
        return _again(lambda: self._models.arms(trial))

    def missing(self, trial: Trial) -> dict[str, str]:
        """Return the models that a trial would have to make: keys by arm. Trains nothing, plants what is soon planted.

        If a poison would have to be crafted first, nobody knows the keys: names stand in their place.
        """
        task, method, poison = trial.cell.task, trial.cell.unlearner, trial.cell.poison
        arms = arms_of(trial.cell)
        if getattr(poison.value, "crafted", False) and not self._planting.is_stored(trial):
            share = f"{trial.cell.discovery:g}"
            names = {"P": "", "R": "", "U": f"{method.id} {share}", REMAINING: share}
            return {arm: f"{arm} {task.id} {poison.id} {trial.seed} {names[arm]}" for arm in arms}
        return _again(
            lambda: {arm: self._models.key(trial, arm) for arm in arms if self._models.stored(trial, arm) is None}
        )

    def cost(self, task: Registered) -> Cost:
        """Return what one training takes, by timing a few steps, or a training on a tenth of the rows by its own loop.

        A loop of its own may take less with fewer rows, and more with all of them.
        """
        import torch

        from harness.training.data import batch_count
        from harness.training.isolation import isolated_rng
        from harness.trials.memory import Memory
        from harness.trials.pace import own_cost

        recipe: Any = task.value
        train = self.split(task).train
        threads = torch.get_num_threads()
        torch.set_num_threads(recipe.threads)
        try:
            with Memory() as memory:
                if has_own_loop(recipe):
                    seconds, size = own_cost(recipe, train)
                    alone, gpu = seconds, (0, 0)
                else:
                    batches = recipe.epochs * batch_count(len(train), recipe.batch_size)
                    pace = self.bench.pace(task)
                    seconds, alone, gpu = pace.seconds * batches, pace.alone * batches, pace.gpu
                    with isolated_rng(0):
                        size = sum(t.numel() * t.element_size() for t in recipe.new_model().state_dict().values())
        finally:
            torch.set_num_threads(threads)
        return Cost(seconds, alone, size, memory.peak, has_own_loop(recipe), gpu)

    def _result(
        self,
        trial: Trial,
        arms: Mapping[str, _Arm],
        near: Mapping[str, Mapping[str, float]],
        answers: Mapping[str, str],
    ) -> TrialResult:
        def here(artefact: Artefact) -> bool:
            return (artefact.made["run"], artefact.made["trial"]) == (self.store.run, trial.id)

        models = {arm: of.model for arm, of in arms.items()}
        retrained = REMAINING if REMAINING in arms else "R"
        trained, used = models[retrained].info, models["U"].info
        seconds = {arm: artefact.info["seconds"] for arm, artefact in models.items()}
        fractions = {name: used[name] / trained[name] for name in ("examples", "steps", "cpu_seconds") if trained[name]}
        if used["flops_per_example"]:  # none are counted of controls, nor of a model without a product
            fractions["flops"] = used["flops"] / (used["flops_per_example"] * trained["examples"])
        cost = {
            "train_examples": trained["examples"],
            "unlearn_examples": round(used["examples"], 3),
            "unlearn_fraction": max(fractions[name] for name in counted_in(fractions)),
            "fractions": fractions,
            "first_call": used["first_call"],
            "history_bytes": used.get("history_bytes", 0),
            "seconds": seconds,
            "cpu_seconds": {arm: artefact.info["cpu_seconds"] for arm, artefact in models.items()},
            "built": [arm for arm, artefact in models.items() if here(artefact)],
        }
        readings = {
            "poison": {arm: of.poison[0] for arm, of in arms.items()},
            "accuracy": {arm: of.accuracy[0] for arm, of in arms.items()},
        }
        made = [artefact for of in arms.values() for artefact in (of.model, of.poison[1], of.accuracy[1])]
        blobs = {arm: str(model.blob) for arm, model in models.items()}
        return TrialResult(readings, cost, any(map(here, made)), near, blobs, answers)


def new_run(name: str) -> str:
    """Return an id for a run that is called so."""
    return f"{name}-{time.time_ns():x}"


def _again(ask: Callable[[], Answer]) -> Answer:
    """Ask again as often as something was found damaged, and removed, on the way."""
    while True:
        try:
            return ask()
        except Gone:
            continue
