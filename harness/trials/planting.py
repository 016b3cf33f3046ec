"""What was planted, and which of it the unlearner is told of."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.api import ContractError, DeviceLost, Planted
from harness.cells import REMAINING, Registered, Trial
from harness.guards.guard import called_back, guarded
from harness.store.artefacts import Artefact, Busy, Gone, has_tensors, key_of
from harness.trials import keys
from harness.trials.bench import Bench
from harness.trials.cache import Cache
from harness.trials.checks import check_planted
from harness.trials.surrogates import surrogate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.data import Split


def known_points(points: int, discovery: float, seed: int) -> Tensor:
    """Return the ascending positions, among so many planted points, of those that the unlearner is told of.

    A share in (0, 1] of them, rounded, at least one. The draw follows from the seed: a larger share holds a smaller
    one, and poisons of one size share it.
    """
    import torch

    from harness.training.seeds import derive

    order = torch.randperm(points, generator=torch.Generator().manual_seed(derive("discovery", seed)))
    return order[: max(1, round(discovery * points))].sort().values


@dataclass(frozen=True)
class PlantedIn:
    """What follows from a planted set, for keys: read from the store, and no tensor among it.

    Attributes:
        blob: Hash of everything planted, secrets included.
        poisoned: Hash of what training on the poisoned set sees of it, and in which epochs.
        seen: Hash of what training sees of it in any epoch.
        retained: Hash of the place in the training set of what is not planted, and of what is planted and stays.
        remaining: Hash of the place of all but the points that the unlearner is told of: its retain set.
    """

    blob: str
    poisoned: str
    seen: str
    retained: str
    remaining: str

    @classmethod
    def from_plain(cls, blob: str, info: Mapping[str, Any]) -> PlantedIn:
        """Return what the store says of a planted set.

        Raises:
            KeyError, TypeError, ValueError: It says something else.
        """
        hashes = {name: str(info[name]) for name in ("poisoned", "seen", "retained", "remaining")}
        if any(len(bytes.fromhex(each)) != 32 for each in hashes.values()):
            raise ValueError("a hash is a SHA-256")
        return cls(blob, **hashes)


@dataclass(frozen=True)
class Points:
    """A planted set in a training set.

    Attributes:
        planted: The set itself.
        keep: Mask of what is not planted, over the training set.
        known: Positions, among the planted points, of those that the unlearner is told of.
        left: Mask of all but these, over the training set: its retain set.
    """

    planted: Planted
    keep: Tensor
    known: Tensor
    left: Tensor

    @classmethod
    def of(cls, planted: Planted, n: int, trial: Trial) -> Points:
        """Return a planted set in a training set of ``n`` points, as the trial's unlearner is told of it."""
        import torch

        known = known_points(len(planted.forget), trial.cell.discovery, trial.seed)
        keep, left = torch.ones(2, n, dtype=torch.bool)
        keep[planted.forget] = False
        left[planted.forget[known]] = False
        return cls(planted, keep, known, left)

    def trained_on(self, arm: str, epochs: int) -> Tensor:
        """Return what P, R or D is trained on in each pass: masks over the training set, shape (epochs, n).

        D sees what the unlearner may keep, and so in every pass, whenever the poison arrived.
        """
        import torch

        everything = torch.ones_like(self.keep)
        seen = {"P": everything, "R": self.keep, REMAINING: self.left}[arm].expand(epochs, -1)
        when = self.planted.epochs
        if when is None or arm != "P":
            return seen
        present = torch.tensor([epoch in when for epoch in range(epochs)])
        return torch.where(present[:, None], everything, self.keep)

    def plain(self) -> dict[str, Any]:
        """Return what follows from it, for the store."""
        from harness.training.data import digest

        planted, stays = self.planted, self.planted.stays
        when = {"epochs": _ends(planted.epochs)} if planted.epochs is not None else {}
        beside = {f"stays.{name}": tensor for name, tensor in _seen(stays).items()} if stays else {}
        return {
            "poisoned": digest({**_seen(planted), **when, **beside}),
            "seen": digest({**_seen(planted), **beside}),
            "retained": digest({"keep": self.keep, **beside}),
            "remaining": digest({"keep": self.left, **beside}),
        }


class Planting:
    """Plants poisons.

    Args:
        bench: Where.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._planted: Cache[tuple[Hashable, ...], PlantedIn] = Cache(1024)
        self._points: Cache[tuple[Hashable, ...], Points] = Cache(16)

    def of(self, trial: Trial) -> PlantedIn:
        """Return what follows from a trial's planted set, which is planted if it is not stored.

        Raises:
            Busy: Another process is planting it.
        """
        return self._planted.get(self._place(trial), lambda: self._of(trial))

    def _of(self, trial: Trial) -> PlantedIn:
        blob = str(self._artefact(trial).blob)
        of = keys.told(self._bench.on(trial.cell.task), trial, blob)
        told = self._bench.obtain("told", of, lambda: (self.points(trial).plain(), None), trial, _is_told)
        return PlantedIn.from_plain(blob, told.info)

    def points(self, trial: Trial) -> Points:
        """Return a trial's planted set itself.

        Raises:
            Busy: Another process is planting it.
            Gone: It is damaged, or not what the store says of it; what was wrong is removed.
        """
        return self._points.get(self._place(trial), lambda: self._checked(trial))

    def _checked(self, trial: Trial) -> Points:
        artefact = self._artefact(trial)
        points, blob = self._read(trial, artefact), str(artefact.blob)
        key = key_of("told", keys.told(self._bench.on(trial.cell.task), trial, blob))
        told = self._bench.store.get(key, _is_told)
        if told is not None and PlantedIn.from_plain(blob, told.info) != PlantedIn.from_plain(blob, points.plain()):
            self._planted.drop(self._place(trial))
            self._bench.discard(told)
            raise Gone(key)
        return points

    def is_stored(self, trial: Trial) -> bool:
        """Return whether a trial's planted set is stored."""
        return self._stored(trial) is not None

    def stored(self, trial: Trial) -> Planted | None:
        """Return a trial's planted set if it is stored and sound; from then on `of` knows it. Plants nothing."""
        artefact = self._stored(trial)
        if artefact is None:
            return None
        try:
            points = self._read(trial, artefact)
        except Gone:
            return None
        self._planted.get(self._place(trial), lambda: PlantedIn.from_plain(str(artefact.blob), points.plain()))
        return points.planted

    def _stored(self, trial: Trial) -> Artefact | None:
        return self._bench.store.get(key_of("planted", self._determinants(trial)), has_tensors)

    def _determinants(self, trial: Trial) -> dict[str, Any]:
        return keys.planted(self._bench.on(trial.cell.task), trial)

    def _place(self, trial: Trial) -> tuple[Hashable, ...]:
        data = self._bench.on(trial.cell.task)["data"]  # whose hash may turn out to be another
        return (trial.cell.task, data, trial.cell.poison, trial.seed, trial.cell.discovery)

    def _artefact(self, trial: Trial) -> Artefact:
        return self._bench.obtain("planted", self._determinants(trial), lambda: self._plant(trial), trial, has_tensors)

    def _plant(self, trial: Trial) -> tuple[dict[str, Any], dict[str, Tensor]]:
        from harness.training.isolation import isolated_rng
        from harness.training.seeds import derive

        task, poison, split = trial.cell.task, trial.cell.poison, self._bench.split(trial.cell.task)
        seed = derive("poison", trial.seed)

        def trained(number: int) -> nn.Module:
            with called_back():
                return surrogate(self._bench, trial, number)

        passing = (Busy, Gone, DeviceLost)
        with isolated_rng(seed), unchanged(split, poison), guarded(f"the poison {poison.id!r}", passing=passing):
            planted = poison.value.plant(task.value, split, seed, trained)
        check_planted(poison, planted, split, task.value.epochs)
        return {"points": len(planted.forget)}, pack(planted)

    def _read(self, trial: Trial, artefact: Artefact) -> Points:
        task, split = trial.cell.task, self._bench.split(trial.cell.task)
        check: Callable[[dict[str, Tensor]], None] = lambda found: check_planted(  # noqa: E731
            trial.cell.poison, unpack(found), split, task.value.epochs
        )
        try:
            tensors = self._bench.tensors(artefact, check)
        except Gone:  # what is planted in its place may be something else: nothing that followed from it holds
            self._planted.clear()
            self._points.clear()
            raise
        return Points.of(unpack(tensors), len(split.train), trial)


def _seen(planted: Planted) -> dict[str, Tensor]:
    """Return what training sees of what is planted."""
    return {**planted.inputs, "labels": planted.labels, "forget": planted.forget}


def _ends(epochs: range) -> Tensor:
    """Return the first of the passes in which points are planted, and the one after the last."""
    import torch

    return torch.tensor([epochs.start, epochs.stop])


def _is_told(artefact: Artefact) -> None:
    PlantedIn.from_plain("", artefact.info)


@contextmanager
def unchanged(split: Split, poison: Registered) -> Iterator[None]:
    """Refuse a poison that writes to the task's data, which every later trial uses."""
    tensors = [t for data in (split.train, split.test) for t in (*data.inputs.values(), data.labels)]
    versions = [t._version for t in tensors]
    yield
    if versions != [t._version for t in tensors]:
        raise ContractError(f"the poison {poison.id!r} changed the task's data in place; it must copy them first")


def pack(planted: Planted) -> dict[str, Tensor]:
    """Return what was planted as named tensors, for the store."""
    return {
        "forget": planted.forget,
        "labels": planted.labels,
        **{f"inputs.{name}": tensor for name, tensor in planted.inputs.items()},
        **{f"secrets.{name}": tensor for name, tensor in planted.secrets.items()},
        **({f"stays.{name}": tensor for name, tensor in pack(planted.stays).items()} if planted.stays else {}),
        **({} if planted.epochs is None else {"epochs": _ends(planted.epochs)}),
    }


def unpack(tensors: Mapping[str, Tensor]) -> Planted:
    """Return what `pack` made tensors of.

    Raises:
        KeyError: They are not those of a planted set.
    """

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    stays, inputs, secrets = part("stays."), part("inputs."), part("secrets.")
    epochs = range(*tensors["epochs"].tolist()) if "epochs" in tensors else None
    return Planted(tensors["forget"], inputs, tensors["labels"], secrets, unpack(stays) if stays else None, epochs)
