"""By which of its fields a poison's effect grows: each is doubled in a pilot of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness import registry
from harness.api import UnlearningError
from harness.cells import Registered
from harness.specs import shown

if TYPE_CHECKING:
    from harness.studies.pilot import Forecast

#: Fields that set the strength of a poison, in words.
DIALS: Mapping[str, str] = {
    "fraction": "more points",
    "sd": "stronger noise",
    "size": "a larger trigger",
    "columns": "a trigger of more columns",
    "eps": "larger changes of the inputs",
    "radius": "larger changes of the inputs",
}


def stronger(poison: Registered) -> dict[str, tuple[str, str]]:
    """Return a poison with one field doubled, by field: its spec, and why it does not take that; ``""`` if it does.

    Fields that a poison lists in an attribute ``unused`` have no effect as it is set, and are left out.
    """
    unused = getattr(poison.value, "unused", ())
    found = {}
    for field in DIALS:
        value = poison.fields.get(field)
        if not isinstance(value, int | float) or not value or field in unused:
            continue
        fields = {name: each for name, each in poison.fields.items() if each is not None} | {field: 2 * value}
        spec = f"{poison.name}:{','.join(f'{name}={shown(each)}' for name, each in fields.items())}"
        try:
            found[field] = registry.resolve("poison", spec).id, ""
        except UnlearningError as error:
            found[field] = spec, str(error)
    return found


def power(forecasts: Sequence[Forecast]) -> float:
    """Return the probability that the oracle PASSes by the weakest trace of a poison; accuracy is none."""
    return min(each.power for each in forecasts if each.test != "non-inferiority")
