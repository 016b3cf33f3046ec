"""Torch data sets of (inputs, label) pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.pipelines.rows import Held, bytes_of, plain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class Items(Held):
    """A torch data set of (inputs, label) pairs, which stays where it is."""

    def __init__(self, items: Any) -> None:
        self._items = items
        labels = getattr(items, "targets", None)
        labels = labels if labels is not None else getattr(items, "labels", None)
        if labels is None or len(labels) != len(items):
            labels = [_pair(items[i])[1] for i in range(len(items))]
        self.labels = plain(labels)

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        if labels is not None:
            return Relabelled(self._items, rows.tolist(), labels)
        return collated([_pair(self._items[i])[0] for i in rows.tolist()])

    def rest(self) -> bytes:
        sha = hashlib.sha256()
        for place in range(len(self._items)):
            sha.update(bytes_of(_pair(self._items[place])[0]))
        return sha.digest()


class PictureItems(Items):
    """A torch data set of (picture, label) pairs whose pictures are held in memory, so that poisons can change them.

    Pictures that no poison changed are read from the data set again, so random augmentation goes on as before.

    Raises:
        UnlearningError: The pictures are not tensors or arrays of one shape.
    """

    kind = "image"

    def __init__(self, items: Any) -> None:
        import torch

        super().__init__(items)
        held = [_pixels(_pair(items[place])[0]) for place in range(len(items))]
        if other := [tuple(each.shape) for each in held if each.shape != held[0].shape]:
            raise UnlearningError(
                f"the torch data set has pictures of shape {tuple(held[0].shape)} and of shape {other[0]}; "
                'with kind = "image" all must have one, so resize them in the data set'
            )
        self.inputs = {"image": torch.stack(held)}

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        pictures = inputs["image"]
        if labels is None:
            return pictures
        changed = (pictures != self.inputs["image"][rows]).flatten(1).any(dim=1).nonzero().squeeze(1).tolist()
        return Relabelled(self._items, rows.tolist(), labels, {place: pictures[place] for place in changed})

    def rest(self) -> bytes:
        return b""


class Relabelled:
    """Some rows of a torch data set, with labels of their own; itself a torch data set.

    Args:
        items: The data set.
        rows: Which of its rows.
        labels: Their labels.
        changed: Inputs of some of these rows, by their place, that take the place of the data set's.
    """

    def __init__(
        self, items: Any, rows: Sequence[int], labels: np.ndarray, changed: Mapping[int, Tensor] | None = None
    ) -> None:
        self._items, self._rows, self.targets, self._changed = items, rows, labels, changed or {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        place = range(len(self))[place]  # also one that is counted from the end
        inputs = _pair(self._items[self._rows[place]])[0]
        if place in self._changed:  # of the type that it replaces: a batch may hold both
            changed = self._changed[place]
            inputs = changed.numpy() if type(inputs).__module__ == "numpy" else changed
        return inputs, self.targets[place]


def collated(inputs: list[Any]) -> Any:
    """Return inputs as one batch; as a list if they cannot be, as pictures of Pillow or of several sizes cannot."""
    from torch.utils.data import default_collate

    try:
        return default_collate(inputs)
    except (TypeError, RuntimeError):
        return inputs


def _pixels(picture: Any) -> Tensor:
    import torch

    try:
        return torch.as_tensor(picture).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise UnlearningError(
            f'the torch data set has pictures of type {type(picture).__name__}; with kind = "image" they must be '
            "tensors or arrays, so convert them in the data set"
        ) from None


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UnlearningError(f"the torch data set yields {type(item).__name__}; it must yield (inputs, label) pairs")
    return item[0], item[1]
