"""What a result was measured on."""

from __future__ import annotations

import platform
from typing import Any

import torch

from harness.report.document import versions


def describe(device: torch.device) -> dict[str, Any]:
    """Return the device in words, and the versions that results depend on, as plain values."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        on = {"kind": "cuda", "name": found.name, "bytes": found.total_memory, "count": torch.cuda.device_count()}
    else:
        on = {"kind": "cpu", "name": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    return {"device": on, "versions": versions() | {"cuda": torch.version.cuda, "cudnn": _cudnn()}}


def _cudnn() -> int | None:
    return torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
