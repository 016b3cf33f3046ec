"""How long something took: by the clock on the wall, and in work of this machine."""

from __future__ import annotations

import time

import torch

try:
    import resource
except ImportError:  # Windows, which does not say what the children of a process took
    resource = None  # type: ignore[assignment]


def now() -> float:
    """Return the time in seconds, once the device has done what was launched."""
    if torch.cuda.is_initialized():  # what was launched is part of what it took
        torch.cuda.synchronize()
    return time.perf_counter()


def worked() -> float:
    """Return the CPU seconds of this process so far: of all its threads, and of the children that it waited for.

    On a GPU it is the time of `now`, since the device's work takes none of the CPU's time.
    """
    if torch.cuda.is_initialized():
        return now()
    own = time.process_time()
    if resource is None:
        return own
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime
