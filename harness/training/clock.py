"""How long something took: by the clock on the wall, and in work of this machine."""

from __future__ import annotations

import sys
import time

import torch


def now() -> float:
    """Return the time in seconds, once the device has done what was launched."""
    if torch.cuda.is_initialized():  # what was launched is part of what it took
        torch.cuda.synchronize()
    return time.perf_counter()


def worked(on_gpu: bool) -> float:
    """Return the CPU seconds of this process so far: of all its threads, and of the children that it waited for.

    Args:
        on_gpu: Whether models are on a GPU. Then it is the time of `now`: the device's work takes none of the CPU's.
    """
    if on_gpu:
        return now()
    if sys.platform == "win32":  # which does not say what the children of a process took
        return time.process_time()
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
