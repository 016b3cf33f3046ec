"""Settings that are handed on to what is adapted."""

from __future__ import annotations

import ast
from typing import Any


def parsed(text: str, field: str = "args") -> dict[str, Any]:
    """Return settings such as ``alpha=0.5;mask=none``: Python's literals, or text where they are none.

    Args:
        text: The settings.
        field: The adapter's field that has them, for the error.

    Raises:
        ValueError: They are not NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for each in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = (part.strip() for part in each.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"{field} must be NAME=VALUE, separated by semicolons; {each!r} is not")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
