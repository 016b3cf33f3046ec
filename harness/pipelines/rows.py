"""What rows of a pipeline are, whatever kind it loads.

A poison changes tensors. The functions of a pipeline are handed rows of the kind that they loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harness.api import UnlearningError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Name of the input that has the place of a row in what was loaded.
ROW = "row"


MISSING = "some labels are missing; leave these rows out, or label them"


class Rows(Protocol):
    """Rows as a pipeline loaded them.

    Attributes:
        kind: ``"table"``, ``"image"``, ``"text"``, or ``"rows"`` for those that poisons cannot change: what they are
            made of stays in the data set and is taken by index.
        inputs: What poisons can change, by name, first dimension the rows; empty for ``"rows"``.
        labels: The labels as they came, a numpy array of shape (n,).
        texts: The texts; None for rows of another kind.
    """

    kind: str
    inputs: Mapping[str, Tensor]
    labels: np.ndarray

    @property
    def texts(self) -> Sequence[str] | None: ...

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        """Return rows of the kind that was loaded, with other inputs and labels; without labels the inputs alone.

        Args:
            rows: Row numbers in what was loaded, int64, shape (k,), on the CPU.
            inputs: What stands there now.
            labels: Their labels, of the type of ``labels`` above, shape (k,).
        """

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column, row by row.

        Raises:
            UnlearningError: There is no such column.
        """

    def rest(self) -> bytes:
        """Return a hash of what the rows hold beside ``inputs`` and labels; nothing if that is all."""


class Held:
    """What the kinds of rows share."""

    kind = "rows"
    inputs: Mapping[str, Tensor] = {}
    labels: np.ndarray

    @property
    def texts(self) -> Sequence[str] | None:
        """The texts; None if they are not what poisons change."""
        return None

    def column(self, name: str) -> Sequence[Any]:
        raise UnlearningError(f"the rows have no column {name!r}; name the source by a file with row numbers")

    def rest(self) -> bytes:
        return b""


class Columns(NamedTuple):
    """Names of columns and the kind of the rows, as those of `harness.Pipeline`."""

    label: str
    features: Sequence[str] | None
    text: str | None
    kind: str | None = None


def plain(labels: Any) -> np.ndarray:
    """Return labels as a numpy array of shape (n,)."""
    import numpy as np

    try:
        found = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    except ValueError:
        raise UnlearningError("labels must be one per row, not lists of several; load class names or numbers") from None
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise UnlearningError(f"labels must be one per row, not of shape {found.shape}; load class names or numbers")
    return found


def bytes_of(value: Any) -> bytes:
    """Return what a value is stored as, to be hashed."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def classes_in(labels: np.ndarray) -> list[Any]:
    """Return the classes that labels name, sorted.

    Raises:
        UnlearningError: They name none: one label per class is expected, not a number on a scale.
    """
    import numpy as np

    if labels.dtype.kind == "O" and any(each is None or each != each for each in labels.tolist()):
        raise UnlearningError(MISSING)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UnlearningError(MISSING)
        if (labels != labels.round()).any():
            raise UnlearningError("labels must be classes, not numbers on a scale; only classifiers can be audited")
    try:
        found = sorted(set(labels.tolist()))
    except TypeError:
        kinds = sorted({type(each).__name__ for each in labels.tolist()})
        raise UnlearningError(f"labels must be names or numbers, all of one kind, not {' and '.join(kinds)}") from None
    if len(found) < 2:
        raise UnlearningError(f"all rows have the label {found[0]!r}; there must be at least two classes")
    return found
