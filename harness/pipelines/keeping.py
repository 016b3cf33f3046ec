"""Models that are no `torch.nn.Module`, or whose network nobody can build anew: kept as bytes."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.api import UnlearningError

#: Writes a model to a path.
Save = Callable[[Any, Path], object]
#: Reads one from there.
Load = Callable[[Path], Any]


def unpickled(source: io.BytesIO | Path) -> Any:
    """Return what `torch.save` wrote; this runs what its writer put there."""
    return torch.load(source, weights_only=False)


#: The first of the bytes of what ``save_model`` wrote.
FILE, FOLDER = b"\0", b"\1"


def packed(path: Path) -> bytes:
    """Return a file or a folder as bytes; files of a folder are told by their relative paths and contents alone.

    Raises:
        UnlearningError: Nothing is there.
    """
    if path.is_file():
        return FILE + path.read_bytes()
    if not path.is_dir():
        raise UnlearningError(
            "save_model() wrote nothing to the path that it was given; write a file or a folder there"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as folder:
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            # Without a time: the same model must have the same bytes.
            folder.writestr(zipfile.ZipInfo(file.relative_to(path).as_posix()), file.read_bytes())
    return FOLDER + buffer.getvalue()


def unpack(content: bytes, path: Path) -> None:
    """Write what was `packed` to a path at which nothing is."""
    if content[:1] == FILE:
        path.write_bytes(content[1:])
    else:
        with zipfile.ZipFile(io.BytesIO(content[1:])) as folder:
            path.mkdir()
            folder.extractall(path)


class Kept(nn.Module):
    """Holds a model of any kind; its state dict is the bytes that ``save`` writes.

    Args:
        save, load: How a model is written to a file or a folder and read again; None for `torch.save`, which pickles
            it. Reading a pickle runs what its writer put there, so a store with such models must be trusted.
        model: The model, or None for one that was never trained.
    """

    def __init__(self, save: Save | None, load: Load | None, model: Any = None) -> None:
        super().__init__()
        self._save, self._load = save, load
        self._held: tuple[Any] = (model,)  # in a tuple: a module would become a part of this one, and have parameters
        # Whoever looks for the device of a model, or for a weight that can be trained, finds one.
        self.unused = nn.Parameter(torch.zeros(1))

    @property
    def model(self) -> Any:
        """The model itself, in the mode of this module if it has modes; None if it was never trained."""
        (model,) = self._held
        if isinstance(model, nn.Module):
            model.train(self.training)
        return model

    def get_extra_state(self) -> Tensor:
        """Return the model as bytes, uint8, shape (n,); none for one that was never trained."""
        (model,) = self._held
        if model is None:
            return torch.empty(0, dtype=torch.uint8)
        if self._save is None:
            buffer = io.BytesIO()
            torch.save(model, buffer)
            written = buffer.getvalue()
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model"
                self._save(model, path)
                written = packed(path)
        return torch.frombuffer(bytearray(written), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Read a model from its bytes."""
        read = state.cpu().numpy().tobytes()
        if not read:
            self._held = (None,)
        elif self._load is None:
            self._held = (unpickled(io.BytesIO(read)),)
        else:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model"
                unpack(read, path)
                self._held = (self._load(path),)
