"""What the tasks on data sets read of them: the rows of a split, checked in sentences that name what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import UnlearningError


def rows_of(found: Any, split: str, columns: Sequence[Sequence[str]], source: str) -> Any:
    """Return the rows of a split.

    Args:
        found: The splits by name.
        split: Name of one.
        columns: The columns that are read, each by its possible names.
        source: Where the data set is from, in words.

    Raises:
        UnlearningError: The split or a column is missing.
    """
    if split not in found:
        raise UnlearningError(f"{source} has no split {split!r}, only {_list(found)}; it must have 'train' and 'test'")
    rows = found[split]
    for names in columns:
        if not set(names) & set(rows.column_names):
            wanted = " or ".join(map(repr, names))
            raise UnlearningError(
                f"the split {split!r} of {source} has no column {wanted}, only {_list(rows.column_names)}; rename the "
                "one that is meant"
            )
    return rows


def labels_of(rows: Any, classes: int, source: str) -> list[int]:
    """Return the labels of rows.

    Raises:
        UnlearningError: They are not integers, or beyond the classes.
    """
    labels = list(rows["label"])
    wrong = next((each for each in labels if not isinstance(each, int)), None)
    if wrong is not None:
        raise UnlearningError(f"the column 'label' of {source} holds {wrong!r}; labels must be integers from 0 on")
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise UnlearningError(
            f"the labels of {source} go from {min(labels)} to {max(labels)}; this task has {classes} classes, 0 to "
            f"{classes - 1}"
        )
    return labels


def first_rows(rows: Any, size: int, split: str, field: str, source: str) -> Any:
    """Return the first rows; where rows are sorted by class, as many of them at equal distances.

    Raises:
        UnlearningError: There are too few.
    """
    if size > len(rows):
        raise UnlearningError(
            f"the split {split!r} of {source} has {len(rows)} rows, but {field}={size} asks for more; lower {field}"
        )
    labels = list(rows["label"])
    if all(isinstance(each, int) for each in labels) and labels == sorted(labels):
        return rows.select([i * len(rows) // size for i in range(size)])
    return rows.select(range(size))


def _list(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"
