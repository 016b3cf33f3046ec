"""The grammar of specs, ``[ALIAS=]NAME[:FIELD=VALUE[,FIELD=VALUE...]]``, and the values of fields as text."""

from __future__ import annotations

import re
import shlex
import types
import typing
from typing import Any, Literal

from harness.api import UnlearningError


class SpecError(UnlearningError):
    """A name, dotted path or field that cannot be resolved."""


def split(spec: str) -> tuple[str, str, str]:
    """Split a spec, of which an alias is left out, into target, colon and fields.

    The fields begin at the first segment that assigns.
    """
    _, spec = aliased(spec)
    match = re.fullmatch(r"(?P<target>[^=]+?)(?P<colon>:)(?P<fields>\s*\w+\s*=.*)", spec, re.DOTALL)
    return (match["target"], ":", match["fields"]) if match else (spec, "", "")


def aliased(spec: str) -> tuple[str, str]:
    """Split ``ALIAS=SPEC`` into both; the alias is ``""`` where there is none.

    No target of a spec holds an equals sign, and fields stand behind a colon.
    """
    match = re.fullmatch(r"(?P<alias>[^\W\d][\w-]*)=(?P<spec>.+)", spec, re.DOTALL)
    return (match["alias"], match["spec"]) if match else ("", spec)


def called(unlearner: str) -> str:
    """Return what people call a method: its alias, or its id if it has none."""
    return aliased(unlearner)[0] or unlearner


def names_file(target: str) -> bool:
    """Return whether a target is a Python file, ``pipeline.py``, or something in one, ``pipeline.py:remove``."""
    return target.partition(":")[0].endswith(".py")


def fields_in(spec: str, text: str) -> dict[str, str]:
    """Return the fields that the end of a spec assigns, as text.

    Raises:
        SpecError: They are not FIELD=VALUE, or a field is given twice.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = ",", True, ""
    fields = {}
    try:
        for token in lexer:
            name, equals, value = token.partition("=")
            if not equals or not name.strip().isidentifier():
                raise SpecError(f"{spec!r}: {token!r} is not FIELD=VALUE")
            if name.strip() in fields:
                raise SpecError(f"{spec!r}: the field {name.strip()!r} is given twice")
            fields[name.strip()] = value
    except ValueError as error:
        raise SpecError(f"{spec!r}: {str(error).lower()}") from None
    return fields


def converted(what: str, text: str, hint: Any) -> Any:
    """Convert text to an annotated type: bool, int, float, str, Literal, and unions of these with None.

    Raises:
        SpecError: It is of no such type; ``what`` is what the message calls the field.
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if type(None) in options and text.strip().lower() == "none":
        return None
    for option in options:
        if option is bool and text.strip().lower() in ("true", "false"):
            return text.strip().lower() == "true"
        if typing.get_origin(option) is Literal and text.strip() in map(str, typing.get_args(option)):
            return next(v for v in typing.get_args(option) if str(v) == text.strip())
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
        if option is str or option is Any:
            return text
    names = " or ".join(_type_name(option) for option in options)
    raise SpecError(f"{what} takes {names}, not {text!r}")


def _type_name(option: Any) -> str:
    if typing.get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(option)))
    names = {int: "an integer", float: "a number", bool: "true or false", type(None): "none"}
    return names.get(option) or str(getattr(option, "__name__", option))


def shown(value: Any) -> str:
    """Return the text of a field's value, as a spec spells it."""
    text = format(value, "g") if isinstance(value, float) and float(format(value, "g")) == value else str(value)
    text = text.lower() if isinstance(value, bool | None) else text
    if not re.search(r"[\s,=\"'\\]", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
