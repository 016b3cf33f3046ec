"""The device that a process computes on."""

from __future__ import annotations

import torch

from harness.api import UnlearningError


def pick_device(name: str, share: float = 1.0) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` names.

    Args:
        name: One of the three.
        share: Part of the GPU's memory that this process may fill, in (0, 1], where others were handed the same GPU.

    Raises:
        UnlearningError: ``cuda`` without a GPU, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UnlearningError(f"the device must be auto, cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UnlearningError("no GPU can be used here; run with --audit-device=cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    return torch.device("cuda:0")
