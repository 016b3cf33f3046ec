"""What tells a function of a pipeline from others, and what its settings may be."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from harness.api import UnlearningError
from harness.sources import plain_value, state_of

KINDS = ("image", "table", "text", "rows")


def identity_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what tells a function from others of the same module, as plain values.

    What is not a plain value gets a new name: nothing made with it is found again, which is slow and right.
    """
    if isinstance(function, functools.partial):
        given = {str(place): value for place, value in enumerate(function.args)} | function.keywords
        return identity_of(function.func) | {name: _plain(value) for name, value in given.items()}
    owner = function if hasattr(function, "__qualname__") else type(function)
    own = {"name": f"{owner.__module__}:{owner.__qualname__}", **state_of(function)}
    plain = getattr(function, "__func__", function)
    own |= {"defaults": getattr(plain, "__defaults__", None), "keywords": getattr(plain, "__kwdefaults__", None)}
    return {name: _plain(value) for name, value in own.items() if value is not None}


def _plain(value: Any) -> Any:
    return plain_value(value, f"{type(value).__name__}-{uuid.uuid4().hex}")


def check_settings(settings: Mapping[str, Any], who: str) -> None:
    """Refuse a setting that cannot be what it is taken for: names of a module may have been meant otherwise.

    Raises:
        UnlearningError: It says which, and what it must be.
    """

    def texts(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)

    def whole(value: Any) -> bool:
        return type(value) is int and value >= 1

    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "label": (lambda value: isinstance(value, str), "the name of a column"),
        "text": (lambda value: value is None or isinstance(value, str), "the name of a column, or None"),
        "features": (lambda value: value is None or texts(value), "a list of names of columns"),
        "margin": (lambda value: isinstance(value, int | float) and 0 < value < 1, "a number in (0, 1)"),
        "poisons": (lambda value: value is None or texts(value), "a list of specs of poisons"),
        "epochs": (whole, "a whole number of at least 1"),
        "batch_size": (whole, "a whole number of at least 1"),
        "threads": (whole, "a whole number of at least 1"),
        "kind": (lambda value: value is None or value in KINDS, f"one of {', '.join(KINDS)}"),
        "version": (lambda value: value is None or isinstance(value, str | int | float), "a text or a number"),
        "depends_on": (lambda value: isinstance(value, str) or texts(value), "a list of paths or modules"),
    }
    for name, (holds, wanted) in rules.items():
        if not holds(settings[name]):
            raise UnlearningError(
                f"{who} has {name} = {settings[name]!r}, which must be {wanted}; rename it if it is meant otherwise"
            )
