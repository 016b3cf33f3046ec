"""What is audited: configured objects, cells and trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from harness.api import Measure, declares
from harness.specs import SpecError


@dataclass(frozen=True)
class Registered:
    """A configured task, poison or unlearner, and where it comes from.

    Attributes:
        kind: ``"task"``, ``"poison"`` or ``"unlearner"``.
        id: Alias, if any, name and fields that differ from their defaults, in the grammar of the command line.
        name: The id without alias and fields.
        value: The configured object.
        fields: Every field with its value.
        distribution, version: The installed distribution it belongs to; ``"(local)"`` for a dotted path.
        source: SHA-256 of what makes it, hexadecimal: the code that it reaches, and what it declares to depend on.
        file: The file that defines it, or the function that it adapts; ``""`` for what was typed at a prompt.
        isolated: Whether it is an unlearner that runs in a process of its own; ``value`` then only stands for it.
    """

    kind: str
    id: str
    name: str
    value: Any
    fields: Mapping[str, Any]
    distribution: str
    version: str
    source: str
    file: str = ""
    isolated: bool = False

    def __post_init__(self) -> None:
        if self.kind == "unlearner":
            certified_by(self)

    @property
    def identity(self) -> dict[str, Any]:
        """What determines its behaviour, for keys of artefacts; isolated or not is part of it."""
        of = {"name": self.name, "fields": dict(self.fields), "source": self.source}
        return of | {"isolated": True} if self.isolated else of

    def __eq__(self, other: object) -> bool:
        # Not the objects themselves: one that went to another process and back is the same, whatever its class is.
        if not isinstance(other, Registered):
            return NotImplemented
        return (self.kind, self.id, self.identity) == (other.kind, other.id, other.identity)

    def __hash__(self) -> int:
        return hash((self.kind, self.id, self.source))


def traces_of(poison: Registered) -> tuple[Measure, ...]:
    """Return every measure that a poison is judged by, its main one first."""
    return (poison.value.measure, *getattr(poison.value, "traces", ()))


def asks(poison: Registered) -> bool:
    """Return whether a poison has questions for a causal language model (`harness.api.Question`)."""
    return callable(getattr(poison.value, "questions", None))


def certified_by(method: Registered) -> tuple[float, float] | None:
    """Return the epsilon and delta that a method declares to certify, or None.

    Raises:
        SpecError: It declares something else. No such method can be registered, so nothing is trained for it.
    """
    certificate = declares(method.value, "certifies")
    if certificate is None:
        return None
    try:
        epsilon, delta = map(float, certificate)
        if 0 <= epsilon < inf and 0 <= delta < 1:
            return epsilon, delta
    except (TypeError, ValueError):
        pass
    raise SpecError(
        f"the unlearner {method.id!r} declares certifies = {certificate!r}; it must be (epsilon, delta), with epsilon "
        "at least 0, and delta at least 0 and below 1"
    )


@dataclass(frozen=True)
class Cell:
    """An (unlearner, task, poison): what the audits of one row and column are about.

    Attributes:
        discovery: Share of the poisoned points that the unlearner is given as its forget set, in (0, 1]; the others
            stay in its retain set, poisoned.

    Raises:
        ValueError: ``discovery`` is out of range.
    """

    unlearner: Registered
    task: Registered
    poison: Registered
    discovery: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.discovery <= 1:
            raise ValueError(f"discovery must lie in (0, 1], not {self.discovery}")

    @property
    def id(self) -> str:
        return cell_id(self.unlearner.id, self.task.id, self.poison.id, self.discovery)


def cell_id(unlearner: str, task: str, poison: str, discovery: float) -> str:
    """Return the id of a cell, from the ids of its parts."""
    return f"{unlearner}-{task}-{poison}" + (f"-discovery={discovery:g}" if discovery < 1 else "")


@dataclass(frozen=True)
class Trial:
    """A cell at one seed: the unit of compute."""

    cell: Cell
    seed: int

    @property
    def id(self) -> str:
        return f"{self.cell.id}-seed{self.seed}"


ARMS = ("P", "R", "U")  # poisoned, retrained, unlearned


#: Retrained on all but the points that were discovered; an arm of trials whose unlearner is given only some.
REMAINING = "D"
