"""The weights of a network in a file of safetensors, as a command is handed them and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import UnlearningError

if TYPE_CHECKING:
    from torch import Tensor, nn


def write_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict of a network.

    Raises:
        UnlearningError: One of its tensors is complex.
    """
    from safetensors.torch import save_file

    weights = {name: t.detach().cpu().clone().contiguous() for name, t in model.state_dict().items()}
    if odd := [name for name, tensor in weights.items() if tensor.is_complex()]:
        raise UnlearningError(
            f"{odd[0]!r} of the model is complex, which a file of safetensors cannot hold; define save_model and "
            "load_model"
        )
    save_file(weights, path)


def read_weights(model: nn.Module, path: Path) -> None:
    """Read the state dict of a network from a file.

    Raises:
        UnlearningError: The file has other tensors than the network, or tensors of other shapes.
    """
    from safetensors.torch import load_file

    found = load_file(path)
    if wrong := _difference(model.state_dict(), found):
        raise UnlearningError(wrong)
    model.load_state_dict(found)


def _difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return the first thing by which tensors are not those of a network; ``""`` if there is none."""
    if lacking := [name for name in wanted if name not in found]:
        return f"it lacks {lacking[0]!r} of the network that model() builds"
    if more := [name for name in found if name not in wanted]:
        return f"it has {more[0]!r}, which the network that model() builds does not have"
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            return f"its {name!r} is of shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    return ""
