"""``COLUMN=VALUE``: the one rule by which it names rows."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from decimal import Decimal
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from harness.api import UnlearningError
from harness.specs import shown

#: Values that an error lists, and values that are compared to find the nearest.
LISTED, COMPARED = 5, 2000
#: Ends of the names of files that are taken for pictures.
PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class Picture(NamedTuple):
    """A picture in a class folder; ``of`` and ``path`` are the columns that pictures have.

    Attributes:
        of: Its class, the name of the folder.
        path: Its path in the folder of all, with slashes, such as ``cat/batch3/001.png``.
        file: The file.
    """

    of: str
    path: str
    file: Path


def pictures_in(folder: Path) -> list[Picture]:
    """Return the pictures in class folders and in folders within these, sorted by class and path."""
    files = (file for of in folder.iterdir() if of.is_dir() for file in of.rglob("*"))
    paths = {file.relative_to(folder).as_posix(): file for file in files if file.suffix.lower() in PICTURES}
    return sorted(Picture(path.partition("/")[0], path, file) for path, file in paths.items())


def parted(text: str) -> tuple[str, str]:
    """Return the column and the value of ``COLUMN=VALUE``, without spaces around them.

    Raises:
        UnlearningError: It is not that.
    """
    column, equals, value = (part.strip() for part in text.partition("="))
    if not (column and equals and value):
        raise UnlearningError(f"the source must be COLUMN=VALUE, not {text!r}")
    return column, value


def rows_with(column: str, values: Sequence[Any], wanted: str) -> list[int]:
    """Return the ascending places of the rows whose column has a value.

    The first of these rules that finds a row decides:

    1. The value is spelled as wanted. Whole numbers have no decimals (3, not 3.0). Truth values are ``true`` and
       ``false``.
    2. The value is the same number (``3.0`` and ``3``), or the same truth value in other case (``True``).
    3. The value matches the wanted text with ``*`` for any text and ``?`` for any one character.

    A missing value (None, not a number, empty text) matches nothing.

    Args:
        column: Its name.
        values: Its values, row by row.
        wanted: What people wrote.

    Raises:
        UnlearningError: No row has the value; the text lists values that exist, the nearest first.
    """
    spelled = [spelling(value) for value in values]
    known = set(spelled)
    pattern = wanted.replace("[", "[[]")  # only * and ? are wildcards
    for found in (
        {wanted},
        {each for each in known if _like(each) == _like(wanted)},
        {each for each in known if fnmatch.fnmatchcase(each, pattern)},
    ):
        if rows := [place for place, each in enumerate(spelled) if each and each in found]:
            return rows
    raise UnlearningError(f"no row has {column}={wanted}; {_existing(column, known - {''}, wanted)}")


def spelling(value: Any) -> str:
    """Return how people spell a value of a column; ``""`` for a missing one."""
    if value is None or _is_nan(value):
        return ""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of numpy
        value = value.item()
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return format(Decimal(repr(value)), ".0f")  # 1e23 has no digits that nobody wrote
    return shown(value) if isinstance(value, bool | int | float) else str(value)


def _is_nan(value: Any) -> bool:
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA is neither equal nor unequal to anything
        return True
    except ValueError:  # an array is a value, too
        return False


def _like(text: str) -> object:
    """Return what two spellings of one number, or of one truth value, have in common; the text itself for others."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = Decimal(text)  # a float would take long ids for one another
    except ArithmeticError:
        return text
    return number if number.is_finite() and "_" not in text else text


def _existing(column: str, known: set[str], wanted: str) -> str:
    if not known:
        return f"the column {column!r} has no values"

    def apart(text: str) -> tuple[float, str]:
        return -SequenceMatcher(None, text.lower(), wanted.lower()).ratio(), text

    nearest = sorted(sorted(known)[:COMPARED], key=apart)[:LISTED]
    more = ", …" if len(known) > len(nearest) else ""
    return f"the column {column!r} has the values {', '.join(nearest)}{more}"
