"""How much main memory a computation took."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

PROCESS = Path("/proc/self")


class Memory:
    """Watches the memory of this process while it is entered; not that of processes that it starts.

    Attributes:
        peak: The most that the process held, in bytes, all that it held before included. It is the most since the
            process began if the system has no ``/proc``, or a container forbids writing to ``/proc/self/clear_refs``;
            0 on Windows.
    """

    peak = 0

    def __enter__(self) -> Memory:
        with contextlib.suppress(OSError):
            (PROCESS / "clear_refs").write_text("5")  # the peak is counted anew
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = _peak()


def _peak() -> int:
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
