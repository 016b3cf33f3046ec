"""One trial: plant, train P and R, unlearn U, measure. Each artefact is made once, by whoever comes first."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import data as data_module
from harness import measures, training
from harness.api import ContractError, ForgetRequest, Planted, Reading, Registered, Trial
from harness.compute import Meter
from harness.data import Batches, Data, Split, digest
from harness.seeds import derive
from harness.store import Artefact, Busy, Store

ARMS = {"P": "poisoned", "R": "retrained", "U": "unlearned"}


@dataclass(frozen=True)
class TrialResult:
    """What a finished trial shows.

    Attributes:
        readings: By measure (``"poison"``, ``"accuracy"``) and arm (``"P"``, ``"R"``, ``"U"``).
        cost: ``train_examples`` (of R), ``unlearn_examples``, ``unlearn_fraction``, ``seconds`` by arm, and
            ``built``: the arms that this run trained on behalf of this very trial.
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
    """

    def __init__(
        self,
        store: Store,
        device: torch.device,
        budget: float,
        folder: Path | None = None,
        on_epoch: Callable[[Trial, str, int, int], None] = lambda *_: None,
    ) -> None:
        self.store = store
        self.device = device
        self.budget = budget
        self._folder = folder
        self._on_epoch = on_epoch
        self._splits: dict[Registered, Split] = {}
        self._planted: OrderedDict[str, Planted] = OrderedDict()
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        # What trained models depend on beside the task: this device, this torch, and the loop itself.
        self._circumstances = {
            "torch": torch.__version__,
            "device": device.type,
            "code": _code(training, data_module),
        }

    def run(self, trial: Trial) -> TrialResult:
        """Make what the trial lacks and return what it shows.

        Raises:
            Busy: Something it needs is being made by another process; everything else of it that can be made, is.
            Exception: Whatever the unlearner raised; nothing of it is stored.
        """
        torch.set_num_threads(trial.cell.task.value.threads)
        plan = self._plant(trial)
        arms: dict[str, Artefact] = {}
        busy: Busy | None = None
        for arm, make in (("P", self._poisoned), ("R", self._retrained)):
            try:
                arms[arm] = make(trial, plan)
            except Busy as error:
                busy = error
        if busy is not None:
            raise busy
        arms["U"] = self._unlearned(trial, plan, arms["P"])
        readings = {
            "poison": {arm: self._poison_reading(trial, plan, arms[arm]) for arm in arms},
            "accuracy": {arm: self._accuracy(trial, arms[arm]) for arm in arms},
        }
        return self._result(trial, arms, {name: {a: r[0] for a, r in by.items()} for name, by in readings.items()},
                            [r[1] for by in readings.values() for r in by.values()])

    def split(self, task: Registered) -> Split:
        """Return a task's data on the device; loaded once."""
        if task not in self._splits:
            with training.isolated_rng(0):
                self._splits[task] = task.value.load(self._folder).to(self.device)
        return self._splits[task]

    # Each artefact below is what its determinants say, and nothing else.

    def _plant(self, trial: Trial) -> _Plan:
        task, poison, split = trial.cell.task, trial.cell.poison, self.split(trial.cell.task)
        seed = derive("poison", trial.seed)

        def make() -> tuple[dict[str, Any], dict[str, Tensor]]:
            with training.isolated_rng(seed):
                planted = poison.value.plant(task.value, split, seed)
            _check_planted(poison, planted, split.train)
            return {"points": len(planted.forget)}, _pack(planted)

        artefact = self.store.obtain(
            "planted",
            {"task": task.identity, "data": split.fingerprint, "poison": poison.identity, "seed": trial.seed}
            | self._circumstances,
            make,
            trial.id,
        )
        planted = self._planted.get(artefact.key)
        if planted is None:
            tensors = self.store.tensors(artefact)
            if tensors is None:
                return self._plant(trial)
            planted = self._planted[artefact.key] = _unpack(tensors)
            while len(self._planted) > 8:
                self._planted.popitem(last=False)
        keep = torch.ones(len(split.train), dtype=torch.bool)
        keep[planted.forget] = False
        return _Plan(planted, keep, str(artefact.blob), digest({"keep": keep}))

    def _poisoned(self, trial: Trial, plan: _Plan) -> Artefact:
        rows = {**plan.planted.inputs, "labels": plan.planted.labels, "forget": plan.planted.forget}
        of = {"stream": "train", "poisoned": digest(rows)}
        return self._trained(trial, "P", of, lambda: self.split(trial.cell.task).train.poisoned_with(plan.planted),
                             torch.ones_like(plan.keep))

    def _retrained(self, trial: Trial, plan: _Plan) -> Artefact:
        of = {"stream": "train", "retain": plan.retain}
        return self._trained(trial, "R", of, lambda: self.split(trial.cell.task).train, plan.keep)

    def _trained(
        self, trial: Trial, arm: str, of: dict[str, Any], data: Callable[[], Data], keep: Tensor
    ) -> Artefact:
        """Train on ``data[keep]``. P and R of a seed share initialisation and order: common random numbers."""
        task: Any = trial.cell.task.value

        def make() -> tuple[dict[str, Any], nn.Module]:
            with training.isolated_rng(derive("initialisation", trial.seed)):
                model = task.new_model().to(self.device)
                order = torch.Generator().manual_seed(derive("order", trial.seed))
                batches = Batches(data(), task.batch_size, task.epochs, order, keep)
                examples = training.fit(task, model, batches, lambda *done: self._on_epoch(trial, arm, *done))
            return {"examples": examples}, model

        return self._model(trial, of, make)

    def _unlearned(self, trial: Trial, plan: _Plan, poisoned: Artefact) -> Artefact:
        task: Any = trial.cell.task.value
        method = trial.cell.unlearner
        from_scratch = bool(getattr(method.value, "from_scratch", False))
        of = {"method": method.identity, "budget": self.budget, "retain": plan.retain}
        if not from_scratch:
            of |= {"poisoned": poisoned.key}

        def make() -> tuple[dict[str, Any], nn.Module]:
            train = self.split(trial.cell.task).train
            nothing = torch.empty(0, dtype=torch.int64)
            seed = derive("unlearning", method.name, trial.seed)
            with training.isolated_rng(seed):
                model = task.new_model().to(self.device)
                if not from_scratch:
                    model.load_state_dict(self.model(trial.cell.task, poisoned).state_dict())
                reference = copy.deepcopy(model)
                request = ForgetRequest(
                    retain=train.subset(plan.keep.nonzero().squeeze(1)),
                    forget=train.subset(nothing) if from_scratch
                    else Data(plan.planted.inputs, plan.planted.labels).to(self.device),
                    budget=self.budget * task.epochs,
                    generator=torch.Generator().manual_seed(seed),
                    device=self.device,
                    _recipe=task,
                )
                self._on_epoch(trial, "U", 0, 1)
                with Meter(reference) as meter, torch.enable_grad():
                    returned = method.value(model.train(), request)
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
            _check_model(method.id, returned, reference)
            return {"examples": meter.examples, "unlearner_seconds": meter.seconds}, returned

        return self._model(trial, of, make)

    def _model(
        self, trial: Trial, of: dict[str, Any], make: Callable[[], tuple[dict[str, Any], nn.Module]]
    ) -> Artefact:
        task = trial.cell.task

        def make_tensors() -> tuple[dict[str, Any], dict[str, Tensor]]:
            info, model = make()
            return {**info, "finite": training.is_finite(model)}, model.state_dict()

        determinants = {
            "task": task.identity,
            "data": self.split(task).fingerprint,
            "seed": trial.seed,
            **of,
            **self._circumstances,
        }
        return self.store.obtain("model", determinants, make_tensors, trial.id)

    def model(self, task: Registered, artefact: Artefact) -> nn.Module:
        """Return a stored model in eval mode, on the device. It is shared: do not change it."""
        assert artefact.blob is not None
        if artefact.blob not in self._models:
            tensors = self.store.tensors(artefact)
            if tensors is None:
                raise Busy(artefact.key)  # it was damaged and is gone: the next attempt makes it again
            with training.isolated_rng(0):
                model: nn.Module = task.value.new_model().to(self.device)
            model.load_state_dict(tensors)
            self._models[artefact.blob] = model
            while len(self._models) > 6:
                self._models.popitem(last=False)
        return self._models[artefact.blob].eval()

    def _poison_reading(self, trial: Trial, plan: _Plan, model: Artefact) -> tuple[Reading, Artefact]:
        poison, task = trial.cell.poison, trial.cell.task
        of = {"measure": poison.value.measure.name, "source": poison.source, "planted": plan.blob}
        return self._reading(trial, model, of, lambda m: poison.value.probe(m, plan.planted, task.value, self.split(task)))

    def _accuracy(self, trial: Trial, model: Artefact) -> tuple[Reading, Artefact]:
        task = trial.cell.task
        of = {"measure": measures.ACCURACY.name, "source": _code(measures)}
        return self._reading(trial, model, of, lambda m: measures.accuracy(m, task.value, self.split(task).test))

    def _reading(
        self, trial: Trial, model: Artefact, of: dict[str, Any], probe: Callable[[nn.Module], Reading]
    ) -> tuple[Reading, Artefact]:
        task = trial.cell.task

        def make() -> tuple[dict[str, Any], None]:
            # Classifiers made of NaN still answer; only their weights tell that they diverged.
            reading = Reading(math.nan)
            if model.info["finite"]:
                with training.isolated_rng(0):
                    reading = probe(self.model(task, model))
            details = {name: _plain(value) for name, value in reading.details.items()}
            return {"value": _plain(reading.value), "resolution": float(reading.resolution), "details": details}, None

        # Equal weights have equal readings, whichever method made them: the blob stands for the model.
        determinants = {"model": model.blob, "finite": model.info["finite"], "data": self.split(task).fingerprint,
                        "task": task.identity, **of, **self._circumstances}
        artefact = self.store.obtain("value", determinants, make, trial.id)
        info = artefact.info
        value = math.nan if info["value"] is None else info["value"]
        return Reading(value, info["resolution"], info["details"]), artefact

    def _result(
        self,
        trial: Trial,
        arms: dict[str, Artefact],
        readings: dict[str, dict[str, Reading]],
        values: list[Artefact],
    ) -> TrialResult:
        def here(artefact: Artefact) -> bool:
            return artefact.made["run"] == self.store.run and artefact.made["trial"] == trial.id

        trained, used = arms["R"].info["examples"], arms["U"].info["examples"]
        cost = {
            "train_examples": trained,
            "unlearn_examples": round(used, 3),
            "unlearn_fraction": used / trained,
            "seconds": {arm: artefact.made["seconds"] for arm, artefact in arms.items()},
            "built": [arm for arm, artefact in arms.items() if here(artefact)],
        }
        return TrialResult(readings, cost, any(map(here, [*arms.values(), *values])))


@dataclass(frozen=True)
class _Plan:
    """A planted set with what follows from it: the retain mask, and hashes of both."""

    planted: Planted
    keep: Tensor
    blob: str
    retain: str


def _check_planted(poison: Registered, planted: Planted, train: Data) -> None:
    forget = planted.forget
    if forget.dtype != torch.int64 or len(forget) == 0 or not bool((forget.diff() > 0).all()):
        raise ContractError(f"the poison {poison.id!r} must plant ascending int64 indices, at least one")
    if int(forget[0]) < 0 or int(forget[-1]) >= len(train) or len(forget) == len(train):
        raise ContractError(f"the poison {poison.id!r} planted indices outside the training set, or all of it")
    rows = {*map(len, planted.inputs.values()), len(planted.labels)}
    if rows != {len(forget)} or set(planted.inputs) != set(train.inputs):
        raise ContractError(f"the poison {poison.id!r} must give one row of every input, and a label, per index")


def _check_model(name: str, returned: object, reference: nn.Module) -> None:
    if not isinstance(returned, nn.Module):
        raise ContractError(
            f"the unlearner {name!r} returned {type(returned).__name__}; it must return the cleaned model"
        )
    expected = {k: (tuple(t.shape), t.dtype) for k, t in reference.state_dict().items()}
    actual = {k: (tuple(t.shape), t.dtype) for k, t in returned.state_dict().items()}
    if type(returned) is not type(reference) or actual != expected:
        odd = sorted(expected.items() ^ actual.items())
        where = f", first at {odd[0][0]!r}" if odd else ""
        raise ContractError(
            f"the unlearner {name!r} returned another architecture ({type(returned).__name__} in place of "
            f"{type(reference).__name__}{where}); it must return a model of the one it was given"
        )


def _pack(planted: Planted) -> dict[str, Tensor]:
    return {
        "forget": planted.forget,
        "labels": planted.labels,
        **{f"inputs.{name}": tensor for name, tensor in planted.inputs.items()},
        **{f"secrets.{name}": tensor for name, tensor in planted.secrets.items()},
    }


def _unpack(tensors: dict[str, Tensor]) -> Planted:
    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    return Planted(tensors["forget"], part("inputs."), tensors["labels"], part("secrets."))


def _plain(value: float) -> float | None:
    """Numbers cross process and file borders as plain floats; what is not finite crosses as null."""
    value = float(value)
    return value if math.isfinite(value) else None


def _code(*modules: Any) -> str:
    import hashlib

    return hashlib.sha256(b"\0".join(Path(m.__file__).read_bytes() for m in modules)).hexdigest()
