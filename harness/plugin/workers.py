"""Which worker computes on what: handed out by the controller before anything imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from harness.trials.devices import visible_gpus

#: What a worker is told of its share of a GPU, in (0, 1].
SHARE = "unlearning_gpu_share"
#: The run that it belongs to.
RUN = "unlearning_run"


def usable_gpus(device: str) -> list[str]:
    """Return the GPUs of a run whose ``--audit-device`` is this."""
    return [] if device == "cpu" else visible_gpus()


def assign(specs: Sequence[Any], gpus: Sequence[str]) -> None:
    """Write each worker's GPU, or its share of the cores, to the environment that it starts with.

    It stands in the worker's specification, which the one that replaces it after a crash inherits.
    """
    for index, spec in enumerate(specs):
        if gpus:
            spec.env.setdefault("CUDA_VISIBLE_DEVICES", gpus[index % len(gpus)])
        else:
            spec.env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(specs))))


def share_of(worker: Any, specs: Sequence[Any]) -> float:
    """Return the part of its GPU that a worker may fill: all of it, unless others were handed the same one."""
    own = worker.env.get("CUDA_VISIBLE_DEVICES")
    return 1.0 if own is None else 1 / max(1, sum(spec.env.get("CUDA_VISIBLE_DEVICES") == own for spec in specs))


def take(told: dict[str, Any], gpus: Sequence[str]) -> None:
    """Take a GPU, or a share of the cores, in a worker that its controller told nothing.

    The controller of xdist collects nothing. If no option speaks of audits it does not know of them, and each worker
    finds out by itself. It takes its part by its number; one that replaces a crashed worker may share a GPU unevenly.

    Args:
        told: What xdist tells a worker; the share is added.
        gpus: The GPUs of the run.
    """
    number, count = int(told["workerid"].removeprefix("gw")), told["workercount"]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        told[SHARE] = 1 / max(1, sum(other % len(gpus) == number % len(gpus) for other in range(count)))
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        told[SHARE] = 1.0


def in_words(workers: int, gpus: Sequence[str]) -> str:
    """Return what a run computes on, e.g. ``"2 workers on cpu, 1 thread each"``."""
    on = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else "cpu, 1 thread each"
    if workers < 2:
        on = on.removesuffix(" each")
    return f"{workers} worker{'s' * (workers > 1)} on {on}" if workers else f"1 process on {on}"
