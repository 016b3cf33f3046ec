"""Threads and processes that somebody started and left."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

#: Seconds in which what is ending may end.
GRACE = 0.5
#: Libraries whose helpers stay on purpose and compute nothing of a method's: torch.compile's workers, tqdm's monitor.
HELPERS = ("torch", "tqdm")
#: The same among threads, by name: fsspec's loop, which every file system of a process shares.
NAMES = ("fsspecIO",)
#: The same among processes, in their command lines.
COMMANDS = (
    b"torch/_inductor", b"multiprocessing.resource_tracker", b"loky.backend.resource_tracker",
    b"multiprocessing.forkserver",
)  # fmt: skip


def running() -> tuple[set[threading.Thread], set[int]]:
    """Return the Python threads and the child processes that are there now."""
    return set(threading.enumerate()), _children()


def left(before: tuple[set[threading.Thread], set[int]]) -> list[str]:
    """Return in words what runs that did not run before. Processes are killed, threads are asked to end.

    Torch's own threads are no Python threads, and idle threads of a pool do nothing.
    """
    threads, children = _new(before)
    if not threads and not children:
        return []
    gc.collect()  # loaders of data end their workers when they are collected
    until = time.monotonic() + GRACE
    while (threads or children) and time.monotonic() < until:
        time.sleep(0.02)
        threads, children = _new(before)
    for thread in threads:
        raise_in(thread.ident, SystemExit)
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    words = [f"the thread {thread.name!r}" for thread in threads]
    return words + [f"the process {child}" for child in sorted(children)]


def raise_in(thread: int | None, error: type[BaseException]) -> None:
    """Have a thread of Python raise an error when it next runs Python."""
    if thread is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def spare(thread: int) -> None:
    """Do not raise in a thread what `raise_in` would, if it has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)


def _new(before: tuple[set[threading.Thread], set[int]]) -> tuple[set[threading.Thread], set[int]]:
    threads, children = running()
    new = {each for each in threads - before[0] if each.is_alive() and not _helps(each)}
    return new, {child for child in children - before[1] if not _serves(child)}


def _helps(thread: threading.Thread) -> bool:
    if isinstance(thread, threading._DummyThread) or thread.name in NAMES:  # a dummy is torch's: a hook ran in it
        return True
    target = getattr(thread, "_target", None)
    owners = {str(getattr(each, "__module__", "")).partition(".")[0] for each in (type(thread), target)}
    if owners & set(HELPERS):
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    code = frame.f_code if frame is not None else None
    return code is not None and code.co_name == "_worker" and code.co_filename.endswith("futures/thread.py")


def _children() -> set[int]:
    """Return this process's children: on Linux all of them, elsewhere those of Python's multiprocessing."""
    found: set[int] = set()
    tasks = Path("/proc/self/task")
    try:
        for task in os.listdir(tasks):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(tasks / task / "children") as file:
                found.update(map(int, file.read().split()))
    except OSError:
        return {each.pid for each in multiprocessing.active_children() if each.pid is not None}
    return found


def _serves(child: int) -> bool:
    try:
        said = Path(f"/proc/{child}/cmdline").read_bytes()
        ended = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # it has ended meanwhile, or there is no such folder
        return not Path("/proc/self").exists()
    return ended or any(command in said for command in COMMANDS)
