"""Where the fields of a method lie in the ranges that are searched, and back; and which of them lie on an edge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness import registry
from harness.api import Search
from harness.cells import Registered

#: A number lies on the edge of its range in the outer twentieth, counted as the range is searched.
EDGE = 0.05


@dataclass(frozen=True)
class Recipe:
    """What ranges may count in.

    Attributes:
        optimizer: That the task trains with.
        blocks: Number of blocks of the task's models.
    """

    optimizer: Any
    blocks: int

    @classmethod
    def of(cls, task: Registered) -> Recipe:
        """Return that of a task."""
        model = task.value.new_model()
        return cls(task.value.optimizer(model), len(task.value.blocks(model)))

    def unit(self, method: Registered, name: str, search: Search) -> float:
        """Return what a field's range counts in, for a method with the values of all fields that count in nothing."""
        if search.of == "rate":
            own = getattr(method.value, f"{name}_unit", None)
            rate: float = self.optimizer.param_groups[0]["lr"] if own is None else own(self.optimizer)
            return rate
        return self.blocks if search.of == "blocks" else float(method.fields[search.of]) if search.of else 1.0


def placed(method: Registered, recipe: Recipe, found: dict[str, Any]) -> Registered:
    """Return a method at positions in the ranges of its fields."""
    space = registry.searches(method)
    plain = {name: _value(space[name], at, 1.0) for name, at in found.items() if not space[name].of}
    method = registry.with_fields(method, plain)
    counted = {
        name: _value(space[name], at, recipe.unit(method, name, space[name]), method.fields[name])
        for name, at in found.items()
        if space[name].of
    }
    return registry.with_fields(method, counted)


def positions(method: Registered, recipe: Recipe) -> dict[str, Any]:
    """Return where in their ranges a method's fields are, the inverse of `placed`; none for those that are nowhere."""
    found = {}
    for name, search in registry.searches(method).items():
        value = method.fields[name]
        if search.choices:
            found[name] = value
        elif value is None and search.of == "rate":
            found[name] = getattr(method.value, f"{name}_of_recipe", 1.0)
        elif value is not None and search.of:
            # An integer is rounded up, so that it comes from the middle of what is rounded to it.
            found[name] = (value - isinstance(value, int) / 2) / recipe.unit(method, name, search)
        elif value is not None:
            found[name] = value if search.below is None else search.below - value
    return found


def inside(search: Search, at: Any) -> bool:
    """Return whether a position lies in a range, or among its choices."""
    return at in search.choices if search.choices else search.low <= at <= search.high


def distributions(method: Registered) -> dict[str, Any]:
    """Return the ranges of a method's fields as Optuna has them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for name, search in registry.searches(method).items():
        if search.choices:
            found[name] = CategoricalDistribution(search.choices)
        elif isinstance(method.fields[name], int) and not search.of:
            found[name] = IntDistribution(int(search.low), int(search.high), log=search.log)
        else:
            found[name] = FloatDistribution(search.low, search.high, log=search.log)
    return found


def edges(method: Registered, recipe: Recipe) -> dict[str, str]:
    """Return the fields that lie on the edge of their range, and at which end: ``"lower"`` or ``"upper"``.

    Choices have no edge. Nor has a number where nothing lies beyond it: there are no fewer passes than 0 or 1, and no
    more blocks than all.
    """
    space, found = registry.searches(method), {}
    for name, at in positions(method, recipe).items():
        search = space[name]
        if search.choices:
            continue
        value = method.fields[name]
        if isinstance(value, int):
            kind = float if search.of else int  # a share of something, or the number itself
            unit = recipe.unit(method, name, search)
            low, high = (_value(search, kind(end), unit, value) for end in (search.low, search.high))
            at_end = (value <= low > 1, value >= high and not (search.of == "blocks" and high == recipe.blocks))
        else:
            low, high, at = (math.log(x) if search.log else x for x in (search.low, search.high, at))
            share = (at - low) / (high - low)
            at_end = (share < EDGE, share > 1 - EDGE)
            if search.below is not None:  # what is searched is the distance from above
                at_end = at_end[::-1]
        if any(at_end):
            found[name] = "lower" if at_end[0] else "upper"
    return found


def _value(search: Search, at: Any, unit: float, like: Any = None) -> Any:
    """Return the value of a field at a position in its range."""
    if search.choices or isinstance(at, int):
        return at
    if isinstance(like, int):
        return max(1, math.ceil(at * unit))
    # Three digits are all that a search can tell apart, and can be read.
    value = float(f"{at * unit:.3g}")
    return value if search.below is None else round(search.below - value, 12)
