"""What was planted, and which of it the unlearner is told of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.api import ContractError, Planted, Reading, Registered, Trial
from harness.store.artefacts import Artefact
from harness.training.data import Data, Split, digest
from harness.training.seeds import derive


def handed_over(points: int, discovery: float, seed: int) -> Tensor:
    """Return the ascending positions, among so many planted points, of those that the unlearner is told of.

    A share in (0, 1] of them, rounded, at least one. The draw follows from the seed: a larger share holds a smaller
    one, and poisons of one size share it.
    """
    order = torch.randperm(points, generator=torch.Generator().manual_seed(derive("discovery", seed)))
    return order[: max(1, round(discovery * points))].sort().values


@dataclass(frozen=True)
class PlantedIn:
    """A planted set with what follows from it.

    Attributes:
        planted: The set itself.
        keep: Mask of what is not planted, over the training set.
        blob: Hash of everything planted, secrets included.
        poisoned: Hash of what training on the poisoned set sees of it.
        retained: Hash of the place in the training set of what is not planted.
        known: Positions, among the planted points, of those that the unlearner is told of.
        left: Mask of all but these, over the training set: its retain set.
        remaining: Hash of that retain set's place in the training set.
        models: P, R and D, by arm, once they were found or made; and
        readings: of these and of U, by claim and model. So a second method asks the store for its own alone.
    """

    planted: Planted
    keep: Tensor
    blob: str
    poisoned: str
    retained: str
    known: Tensor
    left: Tensor
    remaining: str
    models: dict[str, Artefact] = field(default_factory=dict)
    readings: dict[tuple[str, str], tuple[Reading, Artefact]] = field(default_factory=dict)

    @classmethod
    def of(cls, planted: Planted, train: Data, blob: str, trial: Trial) -> PlantedIn:
        """Return a planted set in a training set, as the trial's unlearner is told of it."""
        known = handed_over(len(planted.forget), trial.cell.discovery, trial.seed)
        keep, left = torch.ones(2, len(train), dtype=torch.bool)
        keep[planted.forget] = False
        left[planted.forget[known]] = False
        seen = {**planted.inputs, "labels": planted.labels, "forget": planted.forget}
        retained, remaining = digest({"keep": keep}), digest({"keep": left})
        return cls(planted, keep, blob, digest(seen), retained, known, left, remaining)


@contextmanager
def unchanged(split: Split, poison: Registered) -> Iterator[None]:
    """Refuse a poison that writes to the task's data, which every later trial uses."""
    tensors = [t for data in (split.train, split.test) for t in (*data.inputs.values(), data.labels)]
    versions = [t._version for t in tensors]
    yield
    if versions != [t._version for t in tensors]:
        raise ContractError(f"the poison {poison.id!r} changed the task's data in place; it must copy them first")


def check_planted(poison: Registered, planted: Planted, train: Data) -> None:
    """Refuse what cannot have been planted in a training set.

    Raises:
        ContractError: It says what is wrong.
    """
    forget = planted.forget
    if forget.dtype != torch.int64 or len(forget) == 0 or not bool((forget.diff() > 0).all()):
        raise ContractError(f"the poison {poison.id!r} must plant ascending int64 indices, at least one")
    if int(forget[0]) < 0 or int(forget[-1]) >= len(train) or len(forget) == len(train):
        raise ContractError(f"the poison {poison.id!r} planted indices outside the training set, or all of it")
    rows = {*map(len, planted.inputs.values()), len(planted.labels)}
    if rows != {len(forget)} or set(planted.inputs) != set(train.inputs):
        raise ContractError(f"the poison {poison.id!r} must give one row of every input, and a label, per index")


def pack(planted: Planted) -> dict[str, Tensor]:
    """Return what was planted as named tensors, for the store."""
    return {
        "forget": planted.forget,
        "labels": planted.labels,
        **{f"inputs.{name}": tensor for name, tensor in planted.inputs.items()},
        **{f"secrets.{name}": tensor for name, tensor in planted.secrets.items()},
    }


def unpack(tensors: Mapping[str, Tensor]) -> Planted:
    """Return what `pack` made tensors of.

    Raises:
        KeyError: They are none of it.
    """

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    return Planted(tensors["forget"], part("inputs."), tensors["labels"], part("secrets."))
