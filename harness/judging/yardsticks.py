"""What compute is measured by, and how much of it a budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

#: CPU time below this says nothing, in seconds: a method has fixed costs, which small models do not outweigh.
CPU_FLOOR = 0.2


@dataclass(frozen=True)
class Yardstick:
    """One measure of compute, as a fraction of retraining's; `harness.trials.lab` measures it.

    Attributes:
        title: What people read.
        allows: How many times its budget a method may use by it; None if it informs and decides nothing. Measures
            differ: a forward pass counts as a third of an example, and takes up to half of its operations.
    """

    title: str
    allows: float | None = None


#: By name, as in the ``fractions`` of a trial's cost, in the order in which they are shown.
YARDSTICKS = {
    "examples": Yardstick("examples", 1),
    "flops": Yardstick("operations", 1.5),
    "cpu_seconds": Yardstick("CPU time", 4),
    "steps": Yardstick("optimiser steps"),
}
#: Those of which the larger one is what a method is said to have used.
COUNTED = ("examples", "flops")


def counted_in(found: Mapping[str, object]) -> tuple[str, ...]:
    """Return the yardsticks of which the largest is what a method is said to have used.

    CPU time stands in for examples and operations if neither were counted: the task trains by a loop of its own.
    """
    return tuple(name for name in COUNTED if name in found) or ("cpu_seconds",)


def shares(costs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return by yardstick the share of retraining that a method used: the largest of all seeds.

    By CPU time, of those on which the process had called the method before: the first call also pays for what the
    method imports. If there are none, it is the median of all seeds. Seeds below `CPU_FLOOR` count as 0, and if nothing
    is left of it, the yardstick is left out.

    Args:
        costs: Of the trials, seed by seed, as in `harness.trials.lab.TrialResult`.
    """
    found = {}
    for name in YARDSTICKS:
        if name != "cpu_seconds" and (of := [cost["fractions"][name] for cost in costs if name in cost["fractions"]]):
            found[name] = max(of)
    timed = [cost for cost in costs if "cpu_seconds" in cost["fractions"]]
    later = [_of_cpu(cost) for cost in timed if not cost["first_call"]]
    share = max(later) if later else median(map(_of_cpu, timed)) if timed else 0.0
    return found | {"cpu_seconds": share} if share else found


def _of_cpu(cost: Mapping[str, Any]) -> float:
    share: float = cost["fractions"]["cpu_seconds"]
    return share if cost["cpu_seconds"]["U"] >= CPU_FLOOR else 0.0


def beyond(found: Mapping[str, float | None], budget: float) -> list[str]:
    """Return the yardsticks by which shares of retraining are more than a budget allows.

    Args:
        found: Shares by yardstick.
        budget: A fraction of retraining.
    """
    allows = {name: yardstick.allows for name, yardstick in YARDSTICKS.items()}
    if counted_in(found) == ("cpu_seconds",):
        allows["cpu_seconds"] = 1
    return [
        name
        for name, times in allows.items()
        if times is not None and (found.get(name) or 0.0) > times * budget * (1 + 1e-6)
    ]
