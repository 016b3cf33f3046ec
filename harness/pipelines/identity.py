"""What tells a function of a pipeline from others."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from typing import Any

from harness.sources import plain_value, state_of


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
