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


def stronger(poison: Registered) -> dict[str, str]:
    """Return specs of a poison with one field doubled, by field; without those that the poison does not take so large.

    Rows that are named stay as many, whatever ``fraction`` says.
    """
    fixed = any(poison.fields.get(name) for name in ("column", "rows"))
    found = {}
    for field in DIALS:
        value = poison.fields.get(field)
        if not isinstance(value, int | float) or not value or (fixed and field == "fraction"):
            continue
        fields = {name: each for name, each in poison.fields.items() if each is not None} | {field: 2 * value}
        spec = f"{poison.name}:{','.join(f'{name}={shown(each)}' for name, each in fields.items())}"
        try:
            found[field] = registry.resolve("poison", spec).id
        except UnlearningError:
            continue
    return found


def power(forecasts: Sequence[Forecast]) -> float:
    """Return the probability that the oracle PASSes by the weakest trace of a poison; accuracy is none."""
    return min(each.power for each in forecasts if each.test != "non-inferiority")
