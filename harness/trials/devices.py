"""Which device models are made on, and with which torch: known without importing torch wherever that is possible."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError

if TYPE_CHECKING:
    import torch

#: Files by which a driver shows that there may be a GPU: of NVIDIA (also on Jetson and under WSL) and of AMD.
DRIVERS = ("nvidiactl", "nvidia0", "nvhost-ctrl", "dxg", "kfd")


def visible_gpus() -> list[str]:
    """Return the GPUs that the caller may use, as opaque tokens for ``CUDA_VISIBLE_DEVICES``; makes no CUDA context.

    Tokens are what the caller wrote there (indices, ``GPU-...`` or ``MIG-...`` names), or the names that the driver's
    tool lists. As in CUDA, an index of -1 and what follows it is not visible.
    """
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    present = [token for token in listing if token.startswith("GPU-")]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None or not present:
        return present
    tokens = (token.strip() for token in given.split(","))
    return list(itertools.takewhile(lambda token: token and token != "-1", tokens))


def kind_of_device(name: str) -> str:
    """Return the kind of device, ``"cpu"`` or ``"cuda"``, that ``auto``, ``cpu`` or ``cuda`` names here.

    torch is asked, and imported for it, only if it was built for GPUs and something here looks like one.

    Raises:
        UnlearningError: ``cuda`` without a GPU, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UnlearningError(f"the device must be auto, cpu or cuda, not {name!r}")
    found = name != "cpu" and _may_have_gpu() and _has_gpu()
    if name == "cuda" and not found:
        raise UnlearningError("no GPU can be used here; run with --audit-device=cpu or auto")
    return "cuda" if found else "cpu"


def device_of(kind: str, share: float = 1.0) -> torch.device:
    """Return the torch device of a kind, ``"cpu"`` or ``"cuda"``.

    Args:
        kind: The kind.
        share: Part of the GPU's memory that this process may fill, in (0, 1], if others were handed the same GPU.
    """
    import torch

    if kind == "cpu":
        return torch.device("cpu")
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    return torch.device("cuda:0")


def answers(device: torch.device) -> bool:
    """Return whether a GPU still answers this process."""
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def torch_version() -> str:
    """Return torch's version, as in ``torch.__version__``, without importing torch."""
    return str(_said_by_torch()["__version__"])


def _may_have_gpu() -> bool:
    said = _said_by_torch()
    built_for_gpus = bool(said.get("cuda", True) or said.get("hip", True))
    return built_for_gpus and bool(shutil.which("nvidia-smi") or any(Path("/dev", name).exists() for name in DRIVERS))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@functools.cache
def _said_by_torch() -> dict[str, Any]:
    """Return what torch's file ``version.py`` says, or what torch itself says if there is no such file."""
    spec = importlib.util.find_spec("torch")
    try:
        said = runpy.run_path(str(Path(str(spec.origin if spec else "")).with_name("version.py")))
        if isinstance(said["__version__"], str):
            return said
    except Exception:  # it is torch's own file, and may become anything
        pass
    import torch

    return {"__version__": str(torch.__version__)}
