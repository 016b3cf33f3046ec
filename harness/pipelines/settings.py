"""What a pipeline may define besides ``load`` and ``train``, and what its settings may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.api import UnlearningError

#: What a module may define besides ``load`` and ``train``: functions, and plain values with their defaults.
FUNCTIONS = ("predict", "probe", "model", "optimizer", "save_model", "load_model")
SETTINGS: Mapping[str, Any] = {
    "label": "label", "text": "text", "features": None, "margin": 0.01, "poisons": None, "epochs": 10, "batch_size": 64,
    "threads": 1, "kind": None, "version": None, "depends_on": (),
}  # fmt: skip
#: Settings that no model depends on.
OF_VERDICTS = ("margin", "poisons", "kind", "depends_on")
#: What the rows of a pipeline can be.
KINDS = ("image", "table", "text", "rows")


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
