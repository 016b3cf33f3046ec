"""Rows that have columns: a pandas DataFrame, and a ``datasets.Dataset``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.pipelines.rows import MISSING, Columns, Held, bytes_of, plain
from harness.pipelines.texts import check_texts, no_phrases, phrased, phrased_places

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Name of the column that is taken for texts if it holds nothing else.
TEXT = "text"
#: Values of a column of a ``datasets.Dataset`` that are read at once.
CHUNK = 1000


class Frame(Held):
    """A DataFrame with a column of labels. Poisons can change its column of texts, else its columns of numbers.

    Attributes:
        numbers: Names of the columns of numbers that poisons can change.
    """

    def __init__(self, frame: Any, named: Columns) -> None:
        import numpy as np
        import torch

        label, features = named.label, named.features
        columns = list(frame.columns)
        if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
            raise UnlearningError("the columns of the table must have different names, each a text")
        if label not in columns:
            raise UnlearningError(
                f"the table has no column {label!r} (its columns: {', '.join(columns)}); set label to the name of the "
                "one that has the labels"
            )
        if frame[label].isna().any():
            raise UnlearningError(MISSING)
        for name in features or ():
            if name not in columns:
                raise UnlearningError(f"features has the column {name!r}, which the table lacks")
            if frame[name].dtype.kind not in "iuf" or not np.isfinite(frame[name].to_numpy("float64")).all():
                raise UnlearningError(f"features has the column {name!r}, whose values must be finite numbers")
        self._frame, self._label = frame, label
        self.labels = plain(frame[label].to_numpy())
        self._text = text_in(columns, named, lambda name: frame[name].tolist())
        if self._text:
            self.kind, self.inputs = "text", no_phrases(len(frame))
            features = []
        self.numbers = _numbers_in(frame, label) if features is None else list(features)
        if self.numbers:
            self.kind = "table"
            values = self._frame[self.numbers].to_numpy("float64")
            self.inputs = {"features": torch.from_numpy(values.copy())}

    @property
    def texts(self) -> Sequence[str] | None:
        return self.column(self._text) if self._text else None

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        found = self._frame.iloc[rows.numpy()].copy()
        if self._text and (places := phrased_places(inputs)):
            column = found.columns.get_loc(self._text)
            if found[self._text].dtype.name == "category":  # it would refuse other texts
                found[self._text] = found[self._text].astype(object)
            found.iloc[places, column] = phrased(found.iloc[places, column].tolist(), inputs, places)
        if self.numbers:
            values = inputs["features"].detach().cpu().numpy()
            changed = (values != self.inputs["features"][rows].numpy()).any(axis=0)
            for place in changed.nonzero()[0]:  # the others stay as they are
                name = self.numbers[place]
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

        others = self._frame.drop(columns=[*self.numbers, self._label])
        return hashlib.sha256(
            repr(list(self._frame.columns)).encode() + hash_pandas_object(others).values.tobytes()
        ).digest()


def text_in(columns: Sequence[str], named: Columns, column: Callable[[str], Iterable[Any]]) -> str | None:
    """Return the name of the column of texts; None if there is none, or poisons are to change other columns.

    A column of the default name is taken only if it holds texts alone.

    Raises:
        UnlearningError: The column that the user named is missing, or does not hold texts alone.
    """
    text = named.text
    if text is None or named.features is not None:
        return None
    if text not in columns:
        if text != TEXT:
            raise UnlearningError(f"there is no column {text!r} of texts; the columns are {', '.join(columns)}")
        return None
    if text == TEXT:
        return text if all(isinstance(each, str) for each in column(text)) else None
    check_texts(column(text), f"the column {text!r}", "; or set text = None, if poisons are not to change texts")
    return text


def _numbers_in(frame: Any, label: str) -> list[str]:
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


def _is_number(feature: Any) -> bool:
    """Whether a column of a ``datasets.Dataset`` has a number in each row; numbers of classes are names."""
    return type(feature).__name__ == "Value" and feature.dtype.startswith(("int", "uint", "float"))


def _with_numbers(records: Any, name: str, values: np.ndarray) -> Any:
    """Return a ``datasets.Dataset`` with other numbers in a column, of its type if that loses nothing."""
    feature = records.features[name]
    if not feature.dtype.startswith("float"):
        if (values != values.round()).any():
            feature = type(feature)("float64")
        else:
            values = values.astype("int64")
    return _with_column(records, name, values.tolist(), feature)


def _with_column(records: Any, name: str, values: list[Any], feature: Any) -> Any:
    """Return a ``datasets.Dataset`` with other values in a column, which stays in its place."""
    order = records.column_names
    return records.remove_columns(name).add_column(name, values, feature=feature).select_columns(order)


class Records(Held):
    """A ``datasets.Dataset`` with a column of labels, which stays where it is.

    Poisons can change its column of texts, else its columns of numbers, which are held in memory.

    Attributes:
        numbers: Names of the columns of numbers that poisons can change.
    """

    def __init__(self, records: Any, named: Columns) -> None:
        import numpy as np
        import torch

        label = named.label
        if label not in records.column_names:
            raise UnlearningError(
                f"the data set has no column {label!r} (its columns: {', '.join(records.column_names)}); set "
                'label = "NAME" to the one that has the labels'
            )
        self._records, self._label = records, label
        self.labels = plain(records[label][:])
        self._text = text_in(records.column_names, named, self._values)
        if self._text:
            self.kind, self.inputs = "text", no_phrases(len(records))
        self.numbers = [] if self._text else self._numbers(named.features)
        if self.numbers:
            self.kind = "table"
            columns = [self._numbers_of(name) for name in self.numbers]
            self.inputs = {"features": torch.from_numpy(np.stack(columns, axis=1))}

    def _numbers(self, named: Sequence[str] | None) -> list[str]:
        """Return the columns that poisons may change: those that are named, else all that hold finite numbers alone."""
        import numpy as np

        features = self._records.features
        numbers = [name for name, of in features.items() if name != self._label and _is_number(of)]
        if named is None:
            return [name for name in numbers if np.isfinite(self._numbers_of(name)).all()]
        for name in named:
            if name not in features:
                raise UnlearningError(f"features has the column {name!r}, which the data set lacks")
            if name not in numbers or not np.isfinite(self._numbers_of(name)).all():
                raise UnlearningError(f"features has the column {name!r}, whose values must be finite numbers")
        return list(named)

    def _numbers_of(self, name: str) -> np.ndarray:
        import numpy as np

        return np.array(self._records.with_format(None)[name][:], dtype="float64")  # None becomes nan

    @property
    def texts(self) -> Sequence[str] | None:
        return self.column(self._text) if self._text else None

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        found = self._records.select(rows.tolist())
        if self._text and (places := phrased_places(inputs)):
            found = self._phrased(found, inputs, places)
        if self.numbers:
            values = inputs["features"].detach().cpu().numpy()
            changed = (values != self.inputs["features"][rows].numpy()).any(axis=0)
            for place in changed.nonzero()[0]:  # the others stay where they are
                found = _with_numbers(found, self.numbers[place], values[:, place])
        if labels is None:
            return found.remove_columns(self._label)
        return _with_column(found, self._label, labels.tolist(), found.features[self._label])

    def _phrased(self, found: Any, inputs: Mapping[str, Tensor], places: Sequence[int]) -> Any:
        """Return rows of which some have a phrase; the others stay where they are."""
        import numpy as np
        from datasets import concatenate_datasets

        assert self._text
        few = found.select(places)
        texts = phrased(few.with_format(None)[self._text][:], inputs, places)
        feature = few.features[self._text]
        few = _with_column(few, self._text, texts, feature)
        order = np.arange(len(found))
        order[places] = len(found) + np.arange(len(places))
        return concatenate_datasets([found, few]).select(order)

    def _values(self, name: str) -> Iterator[Any]:
        """Yield the values of a column; no more than `CHUNK` of them are held."""
        records = self._records.with_format(None).select_columns(name)
        for chunk in records.iter(CHUNK):
            yield from chunk[name]

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
            sha.update(bytes_of(row))
        return sha.digest()
