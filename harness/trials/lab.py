"""One trial: plant, train P and R, unlearn U, measure. Each artefact is made once, by whoever comes first."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from harness.api import (
    ARMS,
    REMAINING,
    Cell,
    ContractError,
    DeviceLost,
    Planted,
    Reading,
    Registered,
    Trial,
    UnlearningError,
    declares,
)
from harness.judging.claims import ACCURACY
from harness.store.artefacts import Artefact, Busy, Lock, Make, Store, ask_all, default_root, key_of
from harness.training import loop
from harness.training.data import Data, Split, digest
from harness.training.isolation import isolated_rng
from harness.training.loop import OnEpoch, fit, is_finite, train
from harness.training.meter import Meter
from harness.training.seeds import derive
from harness.training.unlearning import unlearn, wanted_epochs
from harness.trials import metrics, relearning
from harness.trials.bench import pick_device
from harness.trials.keys import code_of, sources
from harness.trials.planting import PlantedIn, check_planted, pack, unchanged, unpack
from harness.trials.readings import accuracy, as_plain, from_plain, heuristics_from_plain


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
        made_on: As for `harness.trials.lab.Lab`.

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


#: Floating-point operations are counted on this seed alone, once for all poisons of a size, and not of controls, whose
#: cost is no question: counting slows small models by half, and every seed has the same.
COUNTED_SEED = 0


_Of = TypeVar("_Of")


_Stored = tuple[Reading, Artefact]


class _Arm(NamedTuple):
    """A model, and what is read of it."""

    model: Artefact
    accuracy: _Stored
    poison: _Stored


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial shows.

    Attributes:
        readings: By measure (``"poison"``, ``"accuracy"``) and arm (``"P"``, ``"R"``, ``"U"``; ``"D"`` where not all
            poisoned points were handed over).
        cost: ``train_examples`` (of the retraining on what the unlearner keeps: R, or D where there is one),
            ``unlearn_examples``, ``unlearn_fraction``; ``fractions`` of that retraining by
            yardstick (``examples``, ``steps``, ``seconds``, and on `COUNTED_SEED` ``flops``); ``history_bytes``, of the
            checkpoints that the method was handed; ``seconds`` by arm; and ``built``: the arms that this run trained
            on behalf of this very trial.
        made_here: Whether this run made anything for it, measures included.
    """

    readings: Mapping[str, Mapping[str, Reading]]
    cost: Mapping[str, Any]
    made_here: bool


class Lab:
    """Makes what trials need, on one device, over one store.

    Args:
        store: Where artefacts live.
        device: Where models are trained.
        budget: Compute an unlearner may use, as a fraction of retraining.
        folder: Data sets for tasks that read files, or None.
        on_epoch: Called with (trial, what is being trained, passes done, passes in all).
        made_on: Class of the device that artefacts were made on, ``"cpu"`` or ``"cuda"``, where it is not ``device``'s:
            for reading them elsewhere.
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        budget: float,
        folder: Path | None = None,
        on_epoch: Callable[[Trial, str, int, int], None] = lambda *_: None,
        made_on: str | None = None,
    ) -> None:
        self.store = store
        self.device = device
        self.made_on = made_on or device.type
        self.budget = budget
        self._folder = folder
        self._on_epoch = on_epoch
        self._wanted: dict[Registered, set[int]] = {}
        self._splits: dict[Registered, Split | UnlearningError] = {}
        self._flops: dict[Registered, float] = {}
        self._planted: OrderedDict[tuple[Registered, Registered, int, float], PlantedIn] = OrderedDict()
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        # What artefacts depend on beside their own determinants: this device, this torch, and our code. Training needs
        # little of it, so that the dearest artefacts outlive most edits.
        code = sources()
        self._circumstances = {"torch": code["torch"], "device": self.made_on, "code": code["code"]}
        self._harness = {"harness": code["harness"]}

    def will_need(self, cells: Iterable[Cell]) -> None:
        """Have checkpoints of P kept that the cells' methods want, while P is trained."""
        for cell in cells:
            with contextlib.suppress(Exception):  # of a plugin: the cell's own trials raise it again
                self._wanted.setdefault(cell.task, set()).update(wanted_epochs(cell.unlearner, cell.task.value.epochs))

    def run(self, trial: Trial) -> TrialResult:
        """Make what the trial lacks and return what it shows.

        Raises:
            Busy: Something it needs is being made by another process; everything else of it that can be made, is.
            UnlearningError: The GPU's memory did not suffice.
            Exception: Whatever the unlearner raised; nothing of it is stored.
        """
        with self._computing(trial):
            return self._run(trial)

    @contextmanager
    def _computing(self, trial: Trial) -> Iterator[None]:
        """Compute on the task's number of threads, which has a say in sums, and tell in words where memory ran out."""
        task = trial.cell.task
        threads = torch.get_num_threads()
        torch.set_num_threads(task.value.threads)
        try:
            yield
        except torch.OutOfMemoryError as error:
            self._models.clear()
            torch.cuda.empty_cache()
            sizes = " or ".join(name for name in ("batch_size", "width", "train_size") if name in task.fields)
            lower = f"lower {sizes} (--task={task.name}:FIELD=VALUE), or " if sizes else ""
            raise UnlearningError(
                f"the GPU ran out of memory in {trial.id}; {lower}run fewer workers (-n), or on the CPU "
                f"(--audit-device=cpu)"
            ) from error
        except RuntimeError as error:
            if self.device.type == "cuda" and not _answers(self.device):
                raise DeviceLost(f"the GPU answers no more after {trial.id}: {error}") from error
            raise
        finally:
            torch.set_num_threads(threads)

    def _run(self, trial: Trial) -> TrialResult:
        planted = self._plant(trial)
        arms = self._each(trial, lambda arm: self._arm(trial, planted, arm))
        if arms["U"].model.blob in {arms[arm].model.blob for arm in ("R", REMAINING) if arm in arms}:
            raise ContractError(
                f"the unlearner {trial.cell.unlearner.id!r} returned the retrained model of seed {trial.seed}, bit by "
                "bit; it must make its own"
            )
        return self._result(trial, arms, self._operations(trial, planted) if _is_counted(trial) else None)

    def heuristics(self, trials: Sequence[Trial]) -> list[dict[str, dict[str, Reading]]]:
        """Return what the usual metrics say of the trials of a cell: for each by heuristic and arm.

        Raises:
            Busy: They are being computed by another process.
            ValueError: There are fewer than three trials.
        """
        with self._computing(trials[0]):
            planted = [self._plant(trial) for trial in trials]
            models = [self._arms(*each) for each in zip(trials, planted, strict=True)]
            arms = [{arm: of[arm] for arm in ARMS} for of in models]
            stored = self._stored_heuristics(trials[0], planted, arms)
        return heuristics_from_plain(stored.info)

    def _stored_heuristics(
        self, trial: Trial, planted: Sequence[PlantedIn], arms: Sequence[Mapping[str, Artefact]]
    ) -> Artefact:
        task = trial.cell.task

        def make() -> tuple[dict[str, Any], None]:
            with isolated_rng(0):
                found = self._heuristics(task, planted, arms)
            return {
                "readings": [{n: {a: as_plain(r) for a, r in by.items()} for n, by in of.items()} for of in found]
            }, None

        determinants = {
            "heuristics": code_of("trials/metrics"),
            "task": task.identity,
            "data": self.split(task).fingerprint,
            "planted": [each.blob for each in planted],
            "models": [{arm: of[arm].blob for arm in of} for of in arms],
            **self._circumstances,
        }
        return self.store.obtain("value", determinants, make, trial.id, lambda found: heuristics_from_plain(found.info))

    def relearned(self, trial: Trial) -> dict[str, Reading]:
        """Return, by arm, what the poison's measure reads of a trial's models after they were trained on.

        Raises:
            Busy: It is being computed by another process.
        """
        with self._computing(trial):
            return self._relearned(trial)

    def _relearned(self, trial: Trial) -> dict[str, Reading]:
        planted = self._plant(trial)
        task, poison, split = trial.cell.task, trial.cell.poison, self.split(trial.cell.task)
        retain = split.train.subset(planted.keep.nonzero().squeeze(1))
        forget = Data(planted.planted.inputs, planted.planted.labels).to(self.device)

        def again(model: nn.Module) -> Reading:
            return relearning.relearned(
                model, task.value, retain, forget, trial.seed,
                lambda net: poison.value.probe(net, planted.planted, task.value, split),
            )  # fmt: skip

        of = {
            "relearning": code_of("trials/relearning"),
            "poison": poison.identity,
            "planted": planted.blob,
            "seed": trial.seed,
        }
        arms = self._arms(trial, planted)
        return {arm: self._reading(trial, planted, arms[arm], "relearning", of, again)[0] for arm in ARMS}

    def _heuristics(
        self, task: Registered, planted: Sequence[PlantedIn], arms: Sequence[Mapping[str, Artefact]]
    ) -> list[dict[str, dict[str, Reading]]]:
        split = self.split(task)
        forget = [Data(each.planted.inputs, each.planted.labels).to(self.device) for each in planted]
        own: list[dict[str, metrics.Answers]] = []
        retrained: list[list[Tensor]] = [[] for _ in arms]
        for s, of in enumerate(arms):
            retain = split.train.subset(planted[s].keep.nonzero().squeeze(1))
            answers = {}
            for arm, artefact in of.items():
                model = self.model(task, artefact)
                answers[arm] = metrics.answers(model, task.value, forget[s], split.test, retain)
                if not artefact.info["finite"]:
                    answers[arm] = answers[arm].diverged()
            own.append(answers)
            model = self.model(task, of["R"])
            for each, losses in zip(forget, retrained, strict=True):
                losses.append(metrics.asked(model, task.value, each)[0])
        return metrics.readings(own, retrained)

    def planted(self, trial: Trial) -> Planted:
        """Return what the trial plants, secrets included; made if it is not stored."""
        return self._plant(trial).planted

    def stored(self, trial: Trial) -> tuple[Planted | None, dict[str, Artefact]]:
        """Return what of a trial the store has: what was planted, and models by arm. Makes nothing.

        Without what was planted nobody knows the keys of the models, and there are none.

        Raises:
            UnlearningError: The task's data cannot be had.
        """
        artefact = self.store.get(key_of("planted", self._planted_determinants(trial)), _has_tensors)
        planted = self._planted_in(trial, artefact) if artefact is not None else None
        if planted is None:
            return None, {}
        found = {arm: self.store.get(key_of("model", self._determinants(trial, planted, arm))) for arm in ARMS}
        return planted.planted, {arm: artefact for arm, artefact in found.items() if artefact is not None}

    def models(self, trial: Trial) -> dict[str, Artefact]:
        """Return a trial's models by arm, made where they are not stored.

        Raises:
            Busy: One of them is being made by another process.
            Exception: Whatever the unlearner raised.
        """
        with self._computing(trial):
            return self._arms(trial, self._plant(trial))

    def missing(self, trial: Trial) -> dict[str, str]:
        """Return the models that a trial would have to make: keys by arm. Trains nothing, plants what is soon planted.

        Where a poison would have to be crafted first nobody knows the keys: its names stand in their place.
        """
        task, method, poison = trial.cell.task, trial.cell.unlearner, trial.cell.poison
        planted_before = self.store.get(key_of("planted", self._planted_determinants(trial)))
        if getattr(poison.value, "crafted", False) and planted_before is None:
            share = f"{trial.cell.discovery:g}"
            names = {"P": "", "R": "", "U": f"{method.id} {share}", REMAINING: share}
            return {arm: f"{arm} {task.id} {poison.id} {trial.seed} {names[arm]}" for arm in _arms_of(trial.cell)}
        planted = self._plant(trial)
        keys = {arm: key_of("model", self._determinants(trial, planted, arm)) for arm in _arms_of(trial.cell)}
        return {arm: key for arm, key in keys.items() if self.store.get(key) is None}

    def cost(self, task: Registered) -> tuple[float, int]:
        """Return what one training takes, by timing a few steps: seconds and bytes of the stored model."""
        recipe: Any = task.value
        torch.set_num_threads(recipe.threads)
        train = self.split(task).train
        with isolated_rng(0):
            model = recipe.new_model().to(self.device)
            size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
            batch = train.batch(torch.arange(min(recipe.batch_size, len(train))))
            steps = [batch] * 3  # the first pays for what is set up once
            fit(recipe, model, steps)
            started = time.perf_counter()
            fit(recipe, model, steps)
            seconds = (time.perf_counter() - started) / len(steps)
        return seconds * recipe.epochs * math.ceil(len(train) / recipe.batch_size), size

    def split(self, task: Registered) -> Split:
        """Return a task's data on the device; loaded once, or found not to be had once.

        Raises:
            UnlearningError: They cannot be had.
        """
        if task not in self._splits:
            try:
                with isolated_rng(0):
                    self._splits[task] = task.value.load(self._folder).to(self.device)
            except UnlearningError as error:  # a hub that does not answer takes half a minute to say so
                self._splits[task] = error
        split = self._splits[task]
        if isinstance(split, UnlearningError):
            raise split
        return split

    def _plant(self, trial: Trial) -> PlantedIn:
        task, poison, split = trial.cell.task, trial.cell.poison, self.split(trial.cell.task)
        place = (task, poison, trial.seed, trial.cell.discovery)
        if place in self._planted:
            return self._planted[place]
        seed = derive("poison", trial.seed)

        def make() -> tuple[dict[str, Any], dict[str, Tensor]]:
            with isolated_rng(seed), unchanged(split, poison):
                planted = poison.value.plant(task.value, split, seed, lambda i: self._surrogate(trial, i))
            check_planted(poison, planted, split.train)
            return {"points": len(planted.forget)}, pack(planted)

        while True:
            artefact = self.store.obtain("planted", self._planted_determinants(trial), make, trial.id, _has_tensors)
            found = self._planted_in(trial, artefact)
            if found is not None:  # otherwise it was damaged, and is gone now
                break
        self._planted[place] = found
        while len(self._planted) > 64:
            self._planted.popitem(last=False)
        return found

    def _planted_in(self, trial: Trial, artefact: Artefact) -> PlantedIn | None:
        train = self.split(trial.cell.task).train
        tensors = self._usable(artefact, lambda found: check_planted(trial.cell.poison, unpack(found), train))
        return PlantedIn.of(unpack(tensors), train, str(artefact.blob), trial) if tensors is not None else None

    def _planted_determinants(self, trial: Trial) -> dict[str, Any]:
        """Return all that determines what is planted."""
        task, poison = trial.cell.task, trial.cell.poison
        of = {"task": task.identity, "data": self.split(task).fingerprint, "poison": poison.identity}
        return of | {"seed": trial.seed} | self._circumstances

    def _surrogate(self, trial: Trial, number: int) -> nn.Module:
        """Return a model trained on clean data, one of those that attackers of this seed may use."""
        task = trial.cell.task
        split = self.split(task)
        seed = derive("surrogate", trial.seed, number)

        def make() -> tuple[dict[str, Any], dict[str, Tensor]]:
            everything = torch.ones(len(split.train), dtype=torch.bool)

            def on_epoch(_: nn.Module, done: int, of: int) -> None:
                self._on_epoch(trial, "a surrogate", done, of)

            model, examples = train(task.value, split.train, everything, seed, on_epoch)
            return {"examples": examples, "finite": is_finite(model)}, model.state_dict()

        of = {"task": task.identity, "data": split.fingerprint, "surrogate": seed} | self._circumstances
        return copy.deepcopy(self.model(task, self.store.obtain("model", of, make, trial.id, _has_tensors)))

    def _determinants(self, trial: Trial, planted: PlantedIn, arm: str) -> dict[str, Any]:
        """Return all that determines a model's weights; equal determinants share one model.

        R never depends on the unlearner, nor on the poison beyond the points that it took. Nor does a method that
        works from scratch, unless undiscovered poison is left in what it is given.
        """
        task, method = trial.cell.task, trial.cell.unlearner
        common = {"task": task.identity, "data": self.split(task).fingerprint, "seed": trial.seed} | self._circumstances
        if arm == "P":
            return common | {"poisoned": planted.poisoned}
        if arm == "R":
            return common | {"retained": planted.retained}
        if arm == REMAINING:
            return common | {"poisoned": planted.poisoned, "remaining": planted.remaining}
        start = {"retained": planted.retained}
        if not declares(method.value, "from_scratch"):
            start |= {"poisoned": planted.poisoned}
        if trial.cell.discovery < 1:
            start |= {"poisoned": planted.poisoned, "remaining": planted.remaining}
        return common | start | {"method": method.identity, "budget": self.budget} | self._harness

    def _arms(self, trial: Trial, planted: PlantedIn) -> dict[str, Artefact]:
        """Return a trial's models, made where they are not stored.

        Raises:
            Busy: One of them is being made by another process; the others are made all the same.
        """
        return self._each(trial, lambda arm: self._model(trial, planted, arm))

    def _each(self, trial: Trial, ask: Callable[[str], _Of]) -> dict[str, _Of]:
        """Ask for something of every arm of a trial; for what is left, too, if somebody is busy with one."""
        arms = _arms_of(trial.cell)
        return dict(zip(arms, ask_all(functools.partial(ask, arm) for arm in arms), strict=True))

    def _arm(self, trial: Trial, planted: PlantedIn, arm: str) -> _Arm:
        """Return an arm's model, its accuracy, and what the poison's measure says of it.

        Equal weights, by whichever method, are read by one process: the lock is that of the weights.
        """
        model = self._model(trial, planted, arm)
        with self.store.lock(str(model.blob)) as lock:
            accuracy = self._accuracy_of(trial, planted, model, lock)
            return _Arm(model, accuracy, self._poison_of(trial, planted, model, lock))

    def _model(self, trial: Trial, planted: PlantedIn, arm: str) -> Artefact:
        make, check = (self._unlearn, _is_unlearned) if arm == "U" else (self._train, _is_trained)

        def make_tensors() -> tuple[dict[str, Any], dict[str, Tensor]]:
            info, model = make(trial, planted, arm)
            return {**info, "finite": is_finite(model)}, model.state_dict()

        if arm in planted.models:
            return planted.models[arm]
        of = self._determinants(trial, planted, arm)
        artefact = self.store.obtain("model", of, make_tensors, trial.id, check)
        if arm != "U":  # the others serve every method
            planted.models[arm] = artefact
        return artefact

    def _train(self, trial: Trial, planted: PlantedIn, arm: str) -> tuple[dict[str, Any], nn.Module]:
        """Train P, R or D. Those of a seed share initialisation and order: common random numbers."""
        wanted = self._wanted.get(trial.cell.task, set()) if arm == "P" else set()

        def on_epoch(model: nn.Module, done: int, of: int) -> None:
            self._on_epoch(trial, arm, done, of)
            if done in wanted:  # on the way, so that no method has it trained again
                with contextlib.suppress(Busy):
                    self._checkpoint(trial, planted, done, lambda: ({}, model.state_dict()))

        return self._fit(trial, planted, arm, on_epoch)

    def _fit(
        self, trial: Trial, planted: PlantedIn, arm: str, on_epoch: OnEpoch, stop: int | None = None
    ) -> tuple[dict[str, Any], nn.Module]:
        task: Any = trial.cell.task.value
        train = self.split(trial.cell.task).train
        data = train if arm == "R" else train.poisoned_with(planted.planted)
        keep = {"P": torch.ones_like(planted.keep), "R": planted.keep, REMAINING: planted.left}[arm]
        model, examples = loop.train(task, data, keep, trial.seed, on_epoch, stop)
        return {"examples": examples, "steps": task.epochs * math.ceil(int(keep.sum()) / task.batch_size)}, model

    def _checkpoint(self, trial: Trial, planted: PlantedIn, epoch: int, make: Make | None = None) -> Artefact:
        """Return P as it was after an epoch; where it was not kept, P is trained again up to there."""

        def again() -> tuple[dict[str, Any], dict[str, Tensor]]:
            show: OnEpoch = lambda _, done, of: self._on_epoch(trial, "P again", done, of)  # noqa: E731
            return {}, self._fit(trial, planted, "P", show, stop=epoch)[1].state_dict()

        of = self._determinants(trial, planted, "P") | {"epoch": epoch}
        return self.store.obtain("model", of, make or again, trial.id, _has_tensors)

    def _history(self, trial: Trial, planted: PlantedIn) -> dict[int, dict[str, Tensor]]:
        """Return the checkpoints that the method declares to want, on the device."""
        epochs = wanted_epochs(trial.cell.unlearner, trial.cell.task.value.epochs)
        if not epochs:
            return {}
        with isolated_rng(0):
            model: nn.Module = trial.cell.task.value.new_model()
        history = {}
        for epoch in epochs:
            tensors = self._usable(artefact := self._checkpoint(trial, planted, epoch), model.load_state_dict)
            if tensors is None:
                raise Busy(artefact.key)  # it was damaged and is gone: the next attempt makes it again
            history[epoch] = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        return history

    def _unlearn(self, trial: Trial, planted: PlantedIn, arm: str) -> tuple[dict[str, Any], nn.Module]:
        """Hand P and the request to the unlearner; say what it cost beside what it returned."""
        task: Any = trial.cell.task.value
        method = trial.cell.unlearner
        poisoned: Mapping[str, Tensor] = {}
        if not declares(method.value, "from_scratch"):
            poisoned = self.model(trial.cell.task, self._model(trial, planted, "P")).state_dict()
        history = self._history(trial, planted)
        self._on_epoch(trial, arm, 0, 1)
        # Copies: the method may write to what it is given, and what was planted serves later trials.
        forget = Data(planted.planted.inputs, planted.planted.labels).subset(planted.known)
        train = self.split(trial.cell.task).train
        if trial.cell.discovery < 1:
            train = train.poisoned_with(planted.planted)
        counted = _is_counted(trial) and self._operations(trial, planted) is None
        model, meter = unlearn(
            method, task, poisoned, train.subset(planted.left.nonzero().squeeze(1)), forget.to(self.device),
            budget=self.budget * task.epochs, seed=derive("unlearning", method.name, trial.seed), history=history,
            count_flops=counted,
        )  # fmt: skip
        info = {"examples": meter.examples, "steps": meter.steps, "seconds": meter.seconds}
        if counted:
            found = {"flops": meter.flops, "flops_per_example": self._flops_per_example(trial.cell.task)}
            with contextlib.suppress(Busy):  # another process stores its count of the same
                of = self._operations_determinants(trial, planted)
                self.store.obtain("operations", of, lambda: (found, None), trial.id, _is_count)
        if history:
            info["history_bytes"] = sum(t.numel() * t.element_size() for s in history.values() for t in s.values())
        return info, model

    def _operations(self, trial: Trial, planted: PlantedIn) -> Artefact | None:
        return self.store.get(key_of("operations", self._operations_determinants(trial, planted)), _is_count)

    def _operations_determinants(self, trial: Trial, planted: PlantedIn) -> dict[str, Any]:
        """Return what a method's floating-point operations depend on: sizes, which poisons may share."""
        inputs = planted.planted.inputs
        sizes = {name: [len(planted.known), *tensor.shape[1:]] for name, tensor in inputs.items()}
        lengths = digest({name: tensor[planted.known] for name, tensor in inputs.items() if name == "length"})
        of = {"method": trial.cell.unlearner.identity, "budget": self.budget, "task": trial.cell.task.identity}
        return of | {"forget": sizes, "lengths": lengths} | self._harness | self._circumstances

    def _flops_per_example(self, task: Registered) -> float:
        """Return the floating-point operations of one example in a step of the recipe."""
        if task not in self._flops:
            recipe: Any = task.value
            train = self.split(task).train
            batch = train.batch(torch.arange(min(recipe.batch_size, len(train))))
            with isolated_rng(0):
                model = recipe.new_model().to(self.device)
                with Meter(model, flops=True) as meter:
                    fit(recipe, model, [batch])
            self._flops[task] = meter.flops / len(batch)
        return self._flops[task]

    def model(self, task: Registered, artefact: Artefact) -> nn.Module:
        """Return a stored model in eval mode, on the device. It is shared: do not change it."""
        assert artefact.blob is not None
        if artefact.blob not in self._models:
            with isolated_rng(0):
                model: nn.Module = task.value.new_model().to(self.device)
            if self._usable(artefact, model.load_state_dict) is None:
                raise Busy(artefact.key)  # it was damaged and is gone: the next attempt makes it again
            self._models[artefact.blob] = model
            while len(self._models) > 6:
                self._models.popitem(last=False)
        self._models.move_to_end(artefact.blob)
        return self._models[artefact.blob].eval()

    def _usable(self, artefact: Artefact, use: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor] | None:
        """Return an artefact's tensors once they were put to use, or None if they are damaged; they are gone then."""
        tensors = self.store.tensors(artefact)
        try:
            if tensors is not None:
                use(tensors)
                return tensors
        except Exception:
            if artefact.made["run"] == self.store.run:  # our own: an error of ours, or of a plugin, and no damage
                raise
            self.store.discard(artefact)
        self._planted.clear()  # what was found before may be gone, too: it is looked for again
        return None

    def _poison_of(self, trial: Trial, planted: PlantedIn, model: Artefact, lock: Lock) -> _Stored:
        poison, task = trial.cell.poison, trial.cell.task
        of = {"measure": poison.value.measure.name, "poison": poison.identity, "planted": planted.blob}
        split = self.split(task)

        def probe(net: nn.Module) -> Reading:
            try:
                with unchanged(split, poison):
                    reading: Reading = poison.value.probe(net, planted.planted, task.value, split)
                return reading
            finally:  # it may have done to the model what it likes; who needs that again, reads it again
                self._models.pop(str(model.blob), None)

        return self._reading(trial, planted, model, "poison", of, probe, lock)

    def _accuracy_of(self, trial: Trial, planted: PlantedIn, model: Artefact, lock: Lock) -> _Stored:
        task: Any = trial.cell.task.value
        test = self.split(trial.cell.task).test
        of = {"measure": ACCURACY.name}  # its source is part of the harness's
        measured = functools.partial(accuracy, task=task, data=test)
        return self._reading(trial, planted, model, "accuracy", of, measured, lock)

    def _reading(
        self,
        trial: Trial,
        planted: PlantedIn,
        model: Artefact,
        claim: str,
        of: dict[str, Any],
        probe: Callable[[nn.Module], Reading],
        lock: Lock | None = None,
    ) -> _Stored:
        task, place = trial.cell.task, (claim, str(model.blob))
        if place in planted.readings:
            return planted.readings[place]

        def make() -> tuple[dict[str, Any], None]:
            # Classifiers made of NaN still answer; only their weights tell that they diverged.
            reading = Reading(math.nan)
            if model.info["finite"]:
                with isolated_rng(0):
                    reading = probe(self.model(task, model))
            return as_plain(reading), None

        # Equal weights have equal readings, whichever method made them: the blob stands for the model.
        determinants = {
            **self._harness,
            "model": model.blob,
            "finite": model.info["finite"],
            "data": self.split(task).fingerprint,
            "task": task.identity,
            **of,
            **self._circumstances,
        }
        artefact = self.store.obtain("value", determinants, make, trial.id, lambda found: from_plain(found.info), lock)
        planted.readings[place] = from_plain(artefact.info), artefact
        return planted.readings[place]

    def _result(self, trial: Trial, arms: Mapping[str, _Arm], operations: Artefact | None) -> TrialResult:
        def here(artefact: Artefact) -> bool:
            return (artefact.made["run"], artefact.made["trial"]) == (self.store.run, trial.id)

        models = {arm: of.model for arm, of in arms.items()}
        retrained = REMAINING if REMAINING in arms else "R"
        trained, used = models[retrained].info, models["U"].info
        seconds = {arm: artefact.made["seconds"] for arm, artefact in models.items()} | {"U": used["seconds"]}
        fractions = {
            "examples": used["examples"] / trained["examples"],
            "steps": used["steps"] / trained["steps"],
            "seconds": seconds["U"] / seconds[retrained],
        }
        counted = operations.info if operations is not None else {}
        if counted.get("flops_per_example"):  # a model without a matrix product has none that are counted
            fractions["flops"] = counted["flops"] / (counted["flops_per_example"] * trained["examples"])
        cost = {
            "train_examples": trained["examples"],
            "unlearn_examples": round(used["examples"], 3),
            "unlearn_fraction": fractions["examples"],
            "fractions": fractions,
            "history_bytes": used.get("history_bytes", 0),
            "seconds": seconds,
            "built": [arm for arm, artefact in models.items() if here(artefact)],
        }
        readings = {
            "poison": {arm: of.poison[0] for arm, of in arms.items()},
            "accuracy": {arm: of.accuracy[0] for arm, of in arms.items()},
        }
        made = [artefact for of in arms.values() for artefact in (of.model, of.poison[1], of.accuracy[1])]
        return TrialResult(readings, cost, any(map(here, made)))


def _arms_of(cell: Cell) -> tuple[str, ...]:
    """Return the models that a trial of the cell consists of."""
    return ARMS if cell.discovery == 1 else (*ARMS, REMAINING)


def _is_counted(trial: Trial) -> bool:
    """Say whether the trial's unlearner has its floating-point operations counted."""
    return trial.seed == COUNTED_SEED and not declares(trial.cell.unlearner.value, "control")


def _answers(device: torch.device) -> bool:
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def _has_tensors(artefact: Artefact) -> None:
    if artefact.blob is None:
        raise ValueError("an artefact of this kind has tensors")


def _is_unlearned(artefact: Artefact) -> None:
    _is_model(artefact, artefact.info["seconds"])


def _is_trained(artefact: Artefact) -> None:
    _is_model(artefact, artefact.made["seconds"])
    if not min(artefact.info["examples"], artefact.info["steps"], artefact.made["seconds"]) > 0:
        raise ValueError("what others are measured against is more than nothing")


def _is_model(artefact: Artefact, seconds: object) -> None:
    _has_tensors(artefact)
    if not isinstance(artefact.info["finite"], bool):
        raise TypeError("whether a model is finite is yes or no")
    _are_numbers(artefact.info["examples"], artefact.info["steps"], seconds)


def _is_count(artefact: Artefact) -> None:
    _are_numbers(artefact.info["flops"], artefact.info["flops_per_example"])


def _are_numbers(*values: object) -> None:
    if not all(isinstance(each, int | float) for each in values):
        raise TypeError("what a training cost is told in numbers")
