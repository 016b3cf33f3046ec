"""Models that are no `torch.nn.Module`, or whose network nobody can build anew: kept as bytes."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Writes a model to a path.
Save = Callable[[Any, Path], object]
#: Reads one from there.
Load = Callable[[Path], Any]


def unpickled(source: io.BytesIO | Path) -> Any:
    """Return what `torch.save` wrote; this runs what its writer put there."""
    return torch.load(source, weights_only=False)


class Kept(nn.Module):
    """Holds a model of any kind; its state dict is the bytes that ``save`` writes.

    Args:
        save, load: How a model is written to a file and read again; None for `torch.save`, which pickles it. Reading a
            pickle runs what its writer put there, so a store with such models must be trusted.
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
                written = path.read_bytes()
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
                path.write_bytes(read)
                self._held = (self._load(path),)
