"""Which rows a source names: by a column, by a file with row numbers, or by a function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness import UnlearningError
from harness.columns import rows_with

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Task
    from poisons.source import Source


def named(task: Task, n: int, seed: int, source: Source) -> Tensor:
    """Return the ascending places of the rows of a source in a training set; a draw from the seed if none are named.

    Raises:
        UnlearningError: The task cannot tell them; no row is found, or all rows are.
    """
    import torch

    from harness import forget_block

    if source.rows:
        places = _read(Path(source.rows), n)
    elif source.where:
        where = getattr(task, "where", None)
        if where is None:
            raise UnlearningError("source: where=FILE.py:FUNCTION needs a pipeline, such as --task=pipeline.py")
        places = where(source.where)
    elif source.column:
        column = getattr(task, "column", None)
        if column is None:
            raise UnlearningError("the task has no columns; name the source by a file: source:rows=FILE")
        places = rows_with(source.column, column(source.column), source.value)
    else:
        return forget_block(n, source.fraction, seed)
    if len(places) >= n:
        raise UnlearningError("the source is the whole training set; at least one row must stay")
    return torch.tensor(places)


def _read(file: Path, n: int) -> list[int]:
    """Return the ascending places that a file lists.

    Raises:
        UnlearningError: It cannot be read, or lists something else.
    """
    try:
        words = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UnlearningError(f"the file of row numbers {file} cannot be read: {error}") from None
    wrong = next((word for word in words if not word.isdecimal() or int(word) >= n), None)
    if wrong is not None or not words:
        what = f"has {wrong!r}" if wrong is not None else "is empty"
        raise UnlearningError(
            f"{file} {what}; it must list row numbers in the training set, 0 to {n - 1}, one per line"
        )
    return sorted(set(map(int, words)))
