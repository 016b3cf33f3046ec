"""Whether a JSON result has the form that is published, so that whoever reads on needs no checks of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

#: What JSON Schema calls the types that `json` returns; true and false are no numbers.
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "number": (int, float), "integer": (int,),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def misfit(document: Any) -> str | None:
    """Return where a result first departs from ``schema.json``, as ``"audits[0] has no 'seeds'"``; None if nowhere.

    Checked is what a reader relies on: types, and which keys there are. Ranges of numbers and choices of words are not.
    """
    return next(_misfits(document, _schema(), ""), None)


@cache
def _schema() -> Mapping[str, Any]:
    schema: Mapping[str, Any] = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    return schema


def _misfits(value: Any, form: Mapping[str, Any], place: str) -> Iterator[str]:
    if "$ref" in form:
        yield from _misfits(value, _schema()["$defs"][form["$ref"].rpartition("/")[2]], place)
    wanted = form.get("type", ())
    names = [wanted] if isinstance(wanted, str) else wanted
    if names and not any(_is(value, name) for name in names):
        yield f"{place or 'it'} is no {' or '.join(names)}"
        return
    if isinstance(value, dict):
        properties, others = form.get("properties", {}), form.get("additionalProperties")
        yield from (f"{place or 'it'} has no {name!r}" for name in form.get("required", ()) if name not in value)
        for name, each in value.items():
            inner = properties.get(name, others)
            if isinstance(inner, dict):
                yield from _misfits(each, inner, f"{place}.{name}" if place else name)
    if isinstance(value, list) and isinstance(form.get("items"), dict):
        for at, each in enumerate(value):
            yield from _misfits(each, form["items"], f"{place}[{at}]")


def _is(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
