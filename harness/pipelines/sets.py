"""What a pipeline loads: the sets of its rows, as tensors, and the way back from tensors to rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from harness.api import Batch, UnlearningError
from harness.pipelines.columns import TEXT, Frame, Records
from harness.pipelines.formats import rows_of
from harness.pipelines.rows import ROW, Columns, Rows, classes_in
from harness.training.data import Data, Split


class Sets:
    """The training, the test and, if there is one, the probe set of a pipeline.

    Args:
        loaded: What ``load`` returned.
        probe: What ``probe`` returned, or None.
        named: The names of columns.

    Attributes:
        loaded: The training set as it was returned.
        train, test: The rows as they were loaded.

    Raises:
        UnlearningError: They cannot be used.
    """

    def __init__(self, loaded: Any, probe: Any, named: Columns) -> None:
        if isinstance(loaded, Mapping):
            loaded = tuple(loaded[each] for each in ("train", "test") if each in loaded)
        if not isinstance(loaded, tuple | list) or len(loaded) != 2:
            raise UnlearningError("load() must return two sets of rows: return train, test")
        sets = [*loaded, *([] if probe is None else [probe])]
        found = [rows_of(each, named) for each in sets]
        if named.text == TEXT and len({each.kind == "text" for each in found}) > 1:  # one has a gap among its texts
            named = named._replace(text=None)
            found = [rows_of(each, named) for each in sets]
        if len({type(each) for each in found}) > 1:
            raise UnlearningError("load() and probe() must return sets of one kind")
        if named.features is None and all(isinstance(each, Frame | Records) and each.kind != "text" for each in found):
            one, *others = [each.numbers for each in found if isinstance(each, Frame | Records)]
            shared = [name for name in one if all(name in other for other in others)]
            if any(other != shared for other in (one, *others)):  # a gap in one set, or another order of columns
                found = [rows_of(each, named._replace(features=shared)) for each in sets]
        self._all: list[Rows] = found
        self.loaded = sets[0]
        self.train, self.test = found[:2]

    @cached_property
    def classes(self) -> list[Any]:
        """The classes, sorted.

        Raises:
            UnlearningError: The training set lacks one of another set.
        """
        found = classes_in(self.train.labels)
        for name, rows in zip(("test", "probe"), self._all[1:], strict=False):
            if more := sorted(set(rows.labels.tolist()) - set(found)):
                raise UnlearningError(f"the {name} set has the class {more[0]!r}, which the training set lacks")
        return found

    @property
    def _starts(self) -> list[int]:
        """The number of the first row of each set: rows of all sets are counted on."""
        return [sum(len(rows.labels) for rows in self._all[:place]) for place in range(len(self._all))]

    def split(self, version: str | None) -> Split:
        """Return the training and the test set as tensors.

        Args:
            version: What stands for that part of the rows that is not in tensors; None to look at it.
        """
        made = Split.of(self.data(0), self.data(1))
        probe = [] if len(self._all) < 3 else [Split.of(self.data(2), self.data(2)).fingerprint]
        rest = b"".join(rows.rest() for rows in self._all) if version is None else str(version).encode()
        seen = "".join([made.fingerprint, *probe, repr(self.classes)]).encode() + rest
        return replace(made, fingerprint=hashlib.sha256(seen).hexdigest())

    def probe_set(self) -> Data | None:
        """Return the probe set as tensors; None if there is none."""
        return self.data(2) if len(self._all) > 2 else None

    def data(self, place: int) -> Data:
        """Return the set at a place (training, test, probe) as tensors."""
        rows, first = self._all[place], self._starts[place]
        number = {label: place for place, label in enumerate(self.classes)}
        labels = torch.tensor([number[each] for each in rows.labels.tolist()])
        return Data({**rows.inputs, ROW: torch.arange(first, first + len(labels))}, labels)

    def rows(self, data: Data | Batch, labelled: bool) -> Any:
        """Return rows of the kind that was loaded.

        Args:
            data: Rows as tensors, all of one set.
            labelled: Whether with labels; without, the inputs alone.

        Raises:
            UnlearningError: They are of several sets.
        """
        numbers = data.inputs[ROW].cpu()
        of = torch.bucketize(numbers, torch.tensor(self._starts), right=True) - 1
        if len(of.unique()) > 1:
            raise UnlearningError("these rows come from several sets; use rows of one set")
        place = int(of[0]) if len(of) else 0
        source = self._all[place]
        labels: np.ndarray | None = None
        if labelled:
            labels = np.array(self.classes, dtype=source.labels.dtype)[data.labels.cpu().numpy()]
        return source.take(numbers - self._starts[place], data.inputs, labels)
