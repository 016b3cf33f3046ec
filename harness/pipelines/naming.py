"""Rows that a function of a team's own names, as the source to take back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.api import UnlearningError
from harness.importing import raised
from harness.pipelines.files import module_of


def rows_where(target: str, loaded: Any, n: int) -> list[int]:
    """Return the ascending places of the rows that a function names.

    Args:
        target: ``FILE.py:FUNCTION``.
        loaded: The training set as ``load`` returned it; the function is handed it.
        n: Its rows.

    Raises:
        UnlearningError: There is no such function, it raised an error, or it named no rows, or something else.
    """
    file, _, name = target.rpartition(":")
    function = getattr(module_of("source", target, Path(file)), name, None)
    if not callable(function):
        raise UnlearningError(f"the source {target!r}: {file} has no function {name!r}")
    try:
        answered = function(loaded)
        found = np.asarray(answered.cpu() if hasattr(answered, "cpu") else answered)
    except Exception as error:
        raise UnlearningError(f"the source {target!r} cannot be found: {raised(error)}") from error
    if found.dtype == bool and found.shape == (n,):
        found = found.nonzero()[0]
    elif found.size and (found.dtype.kind not in "iu" or found.ndim != 1 or not 0 <= found.min() <= found.max() < n):
        what = f"{found.dtype} of shape {found.shape}" if found.dtype.kind not in "OUS" else type(answered).__name__
        raise UnlearningError(
            f"the source {target!r} returned {what}; it must return a truth value for each of the {n} rows of the "
            f"training set, or row numbers from 0 to {n - 1}"
        )
    if not found.size:
        raise UnlearningError(f"the source {target!r} names no row")
    if len(found) == n > 2 and set(found.tolist()) <= {0, 1}:  # row numbers would name two rows
        raise UnlearningError(
            f"the source {target!r} returned {n} numbers that are all 0 or 1; return truth values (dtype bool), or row "
            "numbers"
        )
    return [int(each) for each in np.unique(found)]
