"""The kinds of data that a pipeline may load, as tensors, and the way back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.columns import pictures_in
from harness.pipelines.columns import Frame, Records
from harness.pipelines.items import Items, PictureItems
from harness.pipelines.rows import Columns, Held, Rows, plain
from harness.pipelines.texts import Texts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

KINDS = (
    "a pair of arrays or tensors (inputs, labels), a pair of lists (texts, labels), a pandas DataFrame, a torch data "
    "set or its DataLoader, a datasets.Dataset, or the path of a folder of pictures in class folders"
)


def rows_of(loaded: Any, named: Columns) -> Rows:
    """Return what was loaded, as rows.

    Args:
        loaded: One of `KINDS`.
        named: The columns that have labels, and those that poisons may change, if there are columns; and the kind of
            the rows, if the user says it.

    Raises:
        UnlearningError: It is of no kind that is known, or cannot be used.
    """
    from torch.utils.data import DataLoader

    if isinstance(loaded, DataLoader):  # batches are made anew of the rows that a model is trained on
        loaded = loaded.dataset
    if isinstance(loaded, str | Path):
        return Pictures(Path(loaded))
    if hasattr(loaded, "iloc") and hasattr(loaded, "columns"):
        return Frame(loaded, named)
    pair = isinstance(loaded, tuple | list) and len(loaded) == 2
    if pair and _are_texts(loaded[0]):
        return Texts(*loaded)
    if pair and all(hasattr(each, "shape") for each in loaded):
        if hasattr(loaded[0], "columns"):
            raise UnlearningError("a pair has a DataFrame; return one DataFrame that has the column of labels, too")
        return Arrays(*loaded)
    if hasattr(loaded, "column_names") and hasattr(loaded, "select"):
        return Records(loaded, named)
    if hasattr(loaded, "__getitem__") and hasattr(loaded, "__len__") and not isinstance(loaded, dict | list | tuple):
        return PictureItems(loaded) if named.kind == "image" else Items(loaded)
    raise UnlearningError(f"a set of rows is of type {type(loaded).__name__}; it must be {KINDS}")


def _are_texts(inputs: Any) -> bool:
    """Return whether the inputs of a pair are texts, or a list that is meant to hold some."""
    flat = isinstance(inputs, list) or (len(getattr(inputs, "shape", ())) == 1 and hasattr(inputs, "tolist"))
    return flat and any(isinstance(each, str) for each in inputs)


class Arrays(Held):
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
        self.labels = plain(labels)
        if len(self.labels) != len(tensor):
            raise UnlearningError(f"there are {len(tensor)} inputs and {len(self.labels)} labels; give one for each")

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


class Pictures(Held):
    """A folder of pictures in class folders, all of one size; as floats in [0, 1] of shape (n, channels, h, w)."""

    kind = "image"

    def __init__(self, folder: Path) -> None:
        import numpy as np
        import torch
        from PIL import Image

        if not folder.is_dir():
            raise UnlearningError(f"there is no folder {folder}; load() returned its path")
        self._pictures = pictures_in(folder)
        if not self._pictures:
            raise UnlearningError(f"{folder} has no pictures in class folders, such as {folder}/cat/001.png")
        pixels = []
        for _, _, file in self._pictures:
            with Image.open(file) as picture:
                pixels.append(np.asarray(picture.convert("L" if picture.mode in ("1", "L", "I;16") else "RGB")))
            if pixels[-1].shape != pixels[0].shape:
                one, other = ("x".join(map(str, each.shape)) for each in (pixels[0], pixels[-1]))
                raise UnlearningError(
                    f"{file} is {other}, but {self._pictures[0].file} is {one}; pictures must have one size and one "
                    "number of channels. Resize them, or return a torch data set that does"
                )
        stack = torch.from_numpy(np.stack(pixels)).float() / 255
        self.inputs = {"image": (stack if stack.dim() == 4 else stack.unsqueeze(-1)).permute(0, 3, 1, 2).contiguous()}
        self.labels = np.array([each.of for each in self._pictures])

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        return inputs["image"] if labels is None else (inputs["image"], labels)

    def rest(self) -> bytes:
        return hashlib.sha256("\n".join(each.path for each in self._pictures).encode()).digest()

    def column(self, name: str) -> Sequence[Any]:
        if name not in ("class", "path"):
            raise UnlearningError(f"pictures have no column {name!r}; use class, or path as in path=*/batch3_*")
        return [each.path if name == "path" else each.of for each in self._pictures]
