"""The kinds of data that a pipeline may load, as tensors, and the way back.

A poison changes tensors. The functions of a pipeline are handed rows of the kind that they loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.api import UnlearningError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Name of the input that has the place of a row in what was loaded.
ROW = "row"
#: Ends of the names of files that are taken for pictures.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
KINDS = (
    "a pair of arrays or tensors (inputs, labels), a pandas DataFrame, a torch data set, a datasets.Dataset, or the "
    "path of a folder of pictures in class folders"
)


class Rows(Protocol):
    """Rows as a pipeline loaded them.

    Attributes:
        kind: ``"table"``, ``"image"``, or ``"rows"`` for those that poisons cannot change: what they are made of stays
            in the data set and is taken by index.
        inputs: What poisons can change, by name, first dimension the rows; empty for ``"rows"``.
        labels: The labels as they came, a numpy array of shape (n,).
    """

    kind: str
    inputs: Mapping[str, Tensor]
    labels: np.ndarray

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


def rows_of(loaded: Any, label: str, features: Sequence[str] | None) -> Rows:
    """Return what was loaded, as rows.

    Args:
        loaded: One of `KINDS`.
        label: Name of the column that has the labels, where there are columns.
        features: Names of the columns that poisons may change; None for all that hold numbers.

    Raises:
        UnlearningError: It is of no kind that is known, or cannot be used.
    """
    if isinstance(loaded, str | Path):
        return Pictures(Path(loaded))
    if hasattr(loaded, "iloc") and hasattr(loaded, "columns"):
        return Frame(loaded, label, features)
    if isinstance(loaded, tuple | list) and len(loaded) == 2 and all(hasattr(each, "shape") for each in loaded):
        if hasattr(loaded[0], "columns"):
            raise UnlearningError("a pair has a DataFrame; return one DataFrame that has the column of labels, too")
        return Arrays(*loaded)
    if hasattr(loaded, "column_names") and hasattr(loaded, "select"):
        return Records(loaded, label)
    if hasattr(loaded, "__getitem__") and hasattr(loaded, "__len__") and not isinstance(loaded, dict | list | tuple):
        return Items(loaded)
    raise UnlearningError(f"a set of rows is of type {type(loaded).__name__}; it must be {KINDS}")


def _plain(labels: Any) -> np.ndarray:
    """Return labels as a numpy array of shape (n,)."""
    import numpy as np

    found = np.asarray(labels.cpu() if hasattr(labels, "cpu") else labels)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise UnlearningError(f"labels must be one per row, not of shape {found.shape}; load class names or numbers")
    return found


class _Held:
    """What the kinds of rows share."""

    kind = "rows"
    inputs: Mapping[str, Tensor] = {}
    labels: np.ndarray

    def column(self, name: str) -> Sequence[Any]:
        raise UnlearningError(f"the rows have no column {name!r}; name the source by a file with row numbers")

    def rest(self) -> bytes:
        return b""


class Arrays(_Held):
    """A pair of arrays or tensors: inputs of shape (n, ...), labels of shape (n,)."""

    def __init__(self, inputs: Any, labels: Any) -> None:
        import torch

        self._as_tensor = isinstance(inputs, torch.Tensor)
        self._labels_as_tensor = isinstance(labels, torch.Tensor)
        tensor = inputs.detach().cpu() if self._as_tensor else torch.from_numpy(_owned(inputs))
        if tensor.dim() < 2:
            raise UnlearningError(f"inputs must be of shape (n, ...), not {tuple(tensor.shape)}")
        self.kind = "table" if tensor.dim() == 2 else "image"
        self.inputs = {"features" if self.kind == "table" else "image": tensor}
        self.labels = _plain(labels)

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        import torch

        (tensor,) = (inputs[name] for name in self.inputs)
        found = tensor if self._as_tensor else tensor.detach().cpu().numpy()
        if labels is None:
            return found
        return found, torch.from_numpy(labels).to(tensor.device) if self._labels_as_tensor else labels


def _owned(array: Any) -> np.ndarray:
    import numpy as np

    found = np.asarray(array)
    if found.dtype == object or found.dtype.kind not in "biuf":
        raise UnlearningError(f"inputs must be numbers, not {found.dtype}; return a DataFrame for mixed columns")
    return np.ascontiguousarray(found) if found.flags.writeable else found.copy()


class Frame(_Held):
    """A DataFrame with a column of labels. Poisons can change its columns of numbers."""

    def __init__(self, frame: Any, label: str, features: Sequence[str] | None) -> None:
        import numpy as np
        import torch

        columns = list(frame.columns)
        if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
            raise UnlearningError("the columns of the table must have different names, each a text")
        if label not in columns:
            raise UnlearningError(
                f"the table has no column {label!r} (its columns: {', '.join(columns)}); set label to the name of the "
                "one that has the labels"
            )
        if frame[label].isna().any():
            raise UnlearningError("some labels are missing; leave these rows out, or label them")
        for name in features or ():
            if name not in columns:
                raise UnlearningError(f"features has the column {name!r}, which the table lacks")
            if frame[name].dtype.kind not in "iuf" or not np.isfinite(frame[name].to_numpy("float64")).all():
                raise UnlearningError(f"features has the column {name!r}, whose values must be finite numbers")
        self._frame, self._label = frame, label
        self._features = numbers_in(frame, label) if features is None else list(features)
        self.labels = _plain(frame[label].to_numpy())
        if self._features:
            self.kind = "table"
            values = self._frame[self._features].to_numpy("float64")
            self.inputs = {"features": torch.from_numpy(values.copy())}

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        found = self._frame.iloc[rows.numpy()].copy()
        if self._features:
            values = inputs["features"].detach().cpu().numpy()
            changed = (values != self.inputs["features"][rows].numpy()).any(axis=0)
            for place in changed.nonzero()[0]:  # the others stay as they are
                name = self._features[place]
                found[name] = _as(values[:, place], found[name].dtype)
        if labels is None:
            return found.drop(columns=self._label)
        found[self._label] = _as(labels, self._frame[self._label].dtype, found.index)
        return found

    def column(self, name: str) -> Sequence[Any]:
        if name not in self._frame.columns:
            raise UnlearningError(f"the table has no column {name!r}; its columns: {', '.join(self._frame.columns)}")
        values: list[Any] = self._frame[name].tolist()
        return values

    def rest(self) -> bytes:
        from pandas.util import hash_pandas_object

        others = self._frame.drop(columns=[*self._features, self._label])
        return hashlib.sha256(
            repr(list(self._frame.columns)).encode() + hash_pandas_object(others).values.tobytes()
        ).digest()


def numbers_in(frame: Any, label: str) -> list[str]:
    """Return the columns of a frame, but for the labels, that hold finite numbers alone."""
    import numpy as np

    numbers = [name for name in frame.columns if name != label and frame[name].dtype.kind in "iuf"]
    return [name for name in numbers if np.isfinite(frame[name].to_numpy("float64")).all()]


def _as(values: np.ndarray, dtype: Any, index: Any = None) -> Any:
    """Return values as a column of a type, if that loses nothing; else as they are."""
    import pandas as pd

    column = pd.Series(values, index=index)
    if getattr(dtype, "kind", "") in "iu" and (values != values.round()).any():
        return column if index is not None else values
    cast = column.astype(dtype)
    return cast if index is not None else cast.to_numpy()


class Records(_Held):
    """A ``datasets.Dataset`` with a column of labels, which stays where it is."""

    def __init__(self, records: Any, label: str) -> None:
        if label not in records.column_names:
            raise UnlearningError(
                f"the data set has no column {label!r} (its columns: {', '.join(records.column_names)}); set "
                'label = "NAME" to the one that has the labels'
            )
        self._records, self._label = records, label
        self.labels = _plain(records[label][:])

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        found = self._records.select(rows.tolist())
        if labels is None:
            return found.remove_columns(self._label)
        feature = found.features[self._label]
        return found.remove_columns(self._label).add_column(self._label, labels.tolist(), feature=feature)

    def column(self, name: str) -> Sequence[Any]:
        if name not in self._records.column_names:
            raise UnlearningError(
                f"the data set has no column {name!r}; its columns: {', '.join(self._records.column_names)}"
            )
        values: list[Any] = self._records.with_format(None)[name][:]
        names = getattr(self._records.features[name], "names", None)  # of classes, which people know by these
        return [names[each] if each is not None and each >= 0 else None for each in values] if names else values

    def rest(self) -> bytes:
        sha = hashlib.sha256()
        for row in self._records.with_format(None):
            sha.update(_bytes_of(row))
        return sha.digest()


class Items(_Held):
    """A torch data set of (inputs, label) pairs, which stays where it is."""

    def __init__(self, items: Any) -> None:
        self._items = items
        labels = getattr(items, "targets", None)
        labels = labels if labels is not None else getattr(items, "labels", None)
        if labels is None or len(labels) != len(items):
            labels = [_pair(items[i])[1] for i in range(len(items))]
        self.labels = _plain(labels)

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        from torch.utils.data import default_collate

        if labels is not None:
            return Relabelled(self._items, rows.tolist(), labels)
        return default_collate([_pair(self._items[i])[0] for i in rows.tolist()])

    def rest(self) -> bytes:
        sha = hashlib.sha256()
        for place in range(len(self._items)):
            sha.update(_bytes_of(_pair(self._items[place])[0]))
        return sha.digest()


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UnlearningError(f"the torch data set yields {type(item).__name__}; it must yield (inputs, label) pairs")
    return item[0], item[1]


def _bytes_of(value: Any) -> bytes:
    """Return what a value is stored as, to be hashed."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Relabelled:
    """Some rows of a torch data set, with labels of their own; itself a torch data set."""

    def __init__(self, items: Any, rows: Sequence[int], labels: np.ndarray) -> None:
        self._items, self._rows, self.targets = items, rows, labels

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        return _pair(self._items[self._rows[place]])[0], self.targets[place]


class Pictures(_Held):
    """A folder of pictures in class folders, all of one size; as floats in [0, 1] of shape (n, channels, h, w)."""

    kind = "image"

    def __init__(self, folder: Path) -> None:
        import numpy as np
        import torch
        from PIL import Image

        if not folder.is_dir():
            raise UnlearningError(f"there is no folder {folder}; load() returned its path")
        classes = sorted(each for each in folder.iterdir() if each.is_dir())
        files = [
            (each, file) for each in classes for file in sorted(each.rglob("*")) if file.suffix.lower() in PICTURES
        ]
        if not files:
            raise UnlearningError(f"{folder} has no pictures in class folders, such as {folder}/cat/001.png")
        pixels = []
        for _, file in files:
            with Image.open(file) as picture:
                pixels.append(np.asarray(picture.convert("L" if picture.mode in ("1", "L", "I;16") else "RGB")))
            if pixels[-1].shape != pixels[0].shape:
                one, other = ("x".join(map(str, each.shape)) for each in (pixels[0], pixels[-1]))
                raise UnlearningError(
                    f"{file} is {other}, but {files[0][1]} is {one}; pictures must have one size and one number of "
                    "channels. Resize them, or return a torch data set that does"
                )
        stack = torch.from_numpy(np.stack(pixels)).float() / 255
        self.inputs = {"image": (stack if stack.dim() == 4 else stack.unsqueeze(-1)).permute(0, 3, 1, 2).contiguous()}
        self.labels = np.array([each.name for each, _ in files])
        self._paths = [file.relative_to(folder).as_posix() for _, file in files]

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        return inputs["image"] if labels is None else (inputs["image"], labels)

    def rest(self) -> bytes:
        return hashlib.sha256("\n".join(self._paths).encode()).digest()

    def column(self, name: str) -> Sequence[Any]:
        if name != "path":
            raise UnlearningError(f"pictures have no column {name!r}; use path, such as path=cat/batch3_*")
        return self._paths


def classes_in(labels: np.ndarray) -> list[Any]:
    """Return the classes that labels name, sorted.

    Raises:
        UnlearningError: They name none: one label per class is expected, not a number on a scale.
    """
    import numpy as np

    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UnlearningError("some labels are missing; leave these rows out, or label them")
        if (labels != labels.round()).any():
            raise UnlearningError("labels must be classes, not numbers on a scale; only classifiers can be audited")
    found = sorted(set(labels.tolist()))
    if len(found) < 2:
        raise UnlearningError(f"all rows have the label {found[0]!r}; there must be at least two classes")
    return found
