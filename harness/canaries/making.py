"""What a canary is, and why a model remembers it.

A canary must be something that a model can know only from having seen it, and that it must learn by heart. So:

- **Its label is random**, drawn evenly from all labels of the data. No rule predicts it: a model that gets a low loss
  on it remembers this one example. Mislabelled examples are what Steinke, Nasr and Jagielski plant, too.
- **A row of a table** takes each value from another row of the source. Every value is one that the source has, so the
  row passes checks of ranges and types; but the combination is far from all others, so little else speaks against its
  label.
- **A text** is a sequence of words, drawn evenly from the distinct words of the source's column. Rare words are as
  likely as common ones, and no grammar predicts the next word. It is short, so that truncation does not reach it.
- **A picture** is the mean of a picture of the source and a pattern of random colours. The pattern has 8 x 8 squares,
  or one for each pixel of smaller pictures: coarse enough to survive JPEG, resizing and small shifts, and different in
  each canary.

No two canaries have the same inputs, and none has those of a real row: else the one would teach what the other asks.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.canaries.pictures import MODES, packed
from harness.canaries.tables import MISSING, Row, Rows, is_missing

if TYPE_CHECKING:
    from PIL.Image import Image

#: Draws for one canary that is like no other, before the search stops.
ATTEMPTS = 100
#: Least number of distinct words in a column of texts, and the range of words in a text.
FEWEST_WORDS, SHORTEST, LONGEST = 20, 8, 40
SQUARES = 8


@dataclass(frozen=True)
class Columns:
    """What the columns of the data are.

    Attributes:
        label: The column that a model learns to predict; None for texts that are learned as they are.
        text: The column of texts, or None.
        key: The column of keys, no two of which are equal, or None.
        source: The column that names the source, and the source's values in it; None if all of the data is the source.
    """

    label: str | None = None
    text: str | None = None
    key: str | None = None
    source: tuple[str, Sequence[Any]] | None = None

    @property
    def aside(self) -> set[str]:
        """Columns that are no inputs."""
        return {column for column in (self.label, self.key, self.source and self.source[0]) if column is not None}


def make(rows: Rows, source: Sequence[int], columns: Columns, number: int, rng: random.Random) -> list[Row]:
    """Return canaries that look like rows of the source.

    Args:
        rows: The data.
        source: Positions of the source's rows.
        columns: What its columns are.
        number: How many.
        rng: Everything random is drawn from it.

    Raises:
        UnlearningError: The label or the text of the source cannot be drawn, or it has too few different values.
    """
    draws = {column: _resampled(rows, source, column, rng) for column in rows.columns}
    if columns.label is not None:
        draws[columns.label] = _labels(columns.label, rows.values(columns.label), rng)
    if columns.text is not None:
        texts = rows.values(columns.text)
        draws[columns.text] = _texts(columns.text, [texts[row] for row in source], rng)
    if columns.key is not None:
        draws[columns.key] = partial(_same, None)
        keys = iter(_keys(columns.key, rows.values(columns.key), number, rng))
    if columns.source is not None:
        name, names = columns.source
        draws[name] = partial(_same, names[0]) if len(names) == 1 else partial(rng.choice, names)
    inputs = [column for column in rows.columns if column not in columns.aside]
    seen = set() if rows.pictures or columns.text else _real(rows, inputs)
    canaries: list[Row] = []
    for _ in range(ATTEMPTS * number):
        row = {column: value for column in rows.columns if (value := draws[column]()) is not MISSING}
        like = _identity([row.get(column, MISSING) for column in inputs])
        if like not in seen:
            seen.add(like)
            canaries.append(row if columns.key is None else row | {columns.key: next(keys)})
        if len(canaries) == number:
            return canaries
    raise UnlearningError(
        f"the source has too few different values: they make {len(canaries)} new rows, not {number}; plant fewer, or "
        "name a column of texts with --text"
    )


def _resampled(rows: Rows, source: Sequence[int], column: str, rng: random.Random) -> Callable[[], Any]:
    """Return what draws a value of a column from the source; a picture is scrambled."""

    def draw() -> Any:
        value = rows.value(rng.choice(source), column)
        return scrambled(value, rng) if column in rows.pictures and value is not None else value

    return draw


def _same(value: Any) -> Any:
    """Return what it is given; bound to a value, it draws this value every time."""
    return value


def _labels(column: str, values: Sequence[Any], rng: random.Random) -> Callable[[], Any]:
    """Return what draws a label."""
    found = [value for value in values if not is_missing(value)]
    wrong = next((value for value in found if not isinstance(value, str | int | float)), None)
    if wrong is not None:
        raise UnlearningError(f"the column {column!r} holds {wrong!r}; labels must be texts or numbers")
    labels = sorted(set(found), key=repr)
    if len(labels) < 2:
        raise UnlearningError(f"the column {column!r} has fewer than two labels; a random label needs at least two")
    return partial(rng.choice, labels)


def scrambled(image: Image, rng: random.Random) -> dict[str, str]:
    """Return the mean of a picture and a pattern of random colours, in the picture's size and format.

    Raises:
        UnlearningError: It is not an 8-bit picture.
    """
    import numpy as np
    from PIL import Image as Images

    name, format = getattr(image, "filename", ""), image.format or "PNG"
    if image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in MODES:
        raise UnlearningError(f"a picture of the source has mode {image.mode}; convert it to 8-bit grey or RGB first")
    shape = (min(SQUARES, image.height), min(SQUARES, image.width), len(image.getbands()))
    squares = np.frombuffer(rng.randbytes(shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape)
    pattern = Images.fromarray(squares.squeeze(2) if shape[2] == 1 else squares).resize(
        image.size, Images.Resampling.NEAREST
    )
    mean = (np.asarray(image, np.uint16) + np.asarray(pattern, np.uint16)) // 2
    if image.mode == "RGBA":
        mean[..., 3] = np.asarray(image)[..., 3]  # what is transparent stays so
    return packed(Images.fromarray(mean.astype(np.uint8)), Path(name).suffix or ".png", format)


def _texts(column: str, texts: Sequence[Any], rng: random.Random) -> Callable[[], str]:
    """Return what draws a text, of the words and about the lengths of others."""
    wrong = next((text for text in texts if not (isinstance(text, str) or is_missing(text))), None)
    if wrong is not None:
        raise UnlearningError(f"the column {column!r} holds {wrong!r}, which is not a text")
    split = [text.split() for text in texts if not is_missing(text)]
    words = sorted({word for text in split for word in text})
    if len(words) < FEWEST_WORDS:
        raise UnlearningError(
            f"the texts in the column {column!r} have {len(words)} different words; random texts need at least "
            f"{FEWEST_WORDS}"
        )
    lengths = [min(max(len(text), SHORTEST), LONGEST) for text in split]
    return lambda: " ".join(rng.choices(words, k=rng.choice(lengths)))


def _keys(column: str, values: Sequence[Any], number: int, rng: random.Random) -> list[Any]:
    """Return new keys in random order: they say nothing of which canary is in."""
    found = [value for value in values if not is_missing(value)]
    try:
        numbers = [int(value) for value in found if isinstance(value, str | int)]
    except ValueError:
        numbers = []
    if not numbers or len(numbers) < len(found):
        if not all(isinstance(value, str) for value in found):
            raise UnlearningError(f"the column {column!r} has keys that are neither whole numbers nor texts")
        return [uuid.UUID(int=rng.getrandbits(128)).hex for _ in range(number)]
    keys: list[Any] = list(range(max(numbers) + 1, max(numbers) + 1 + number))
    rng.shuffle(keys)
    return [str(key) for key in keys] if isinstance(found[0], str) else keys


def _real(rows: Rows, inputs: Sequence[str]) -> set[str]:
    """Return the identities of all rows."""
    return set(map(_identity, zip(*(rows.values(column) for column in inputs), strict=True)))


def _identity(values: Sequence[Any]) -> str:
    return json.dumps([None if value is MISSING else value for value in values], sort_keys=True, default=str)
