"""What Python reports while code of others runs: files that it has no business with, functions that it rewrites.

A hook of ``sys.addaudithook`` notes it, and keeps files that are out of bounds from being touched. Such a hook cannot
be removed; outside of calls it does nothing. What C code does past Python is not seen.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

HERE = str(Path(__file__).resolve().parent.parent)
#: Events that name files, and how many of their first arguments are paths.
FILES = {
    "open": 1, "os.listdir": 1, "os.scandir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
    "os.truncate": 1, "os.chmod": 1, "os.rmdir": 1, "os.mkdir": 1, "sqlite3.connect": 1,
}  # fmt: skip
READS = {"os.listdir", "os.scandir"}
PARTS = ("__code__", "__defaults__", "__kwdefaults__")


@dataclass
class Notes:
    """What was noted of a call.

    Attributes:
        closed: Folders of which it must neither read nor write anything.
        files: Files that it touched against that, and files of the harness that it wrote.
        functions: Functions that it rewrote, each with what they were made of before.
    """

    closed: tuple[str, ...] = ()
    files: list[str] = field(default_factory=list)
    functions: list[tuple[FunctionType, str, Any]] = field(default_factory=list)


_listening: list[Notes] = []
_installed = False
_thread = threading.local()


@contextmanager
def noting(closed: tuple[str, ...] = ()) -> Iterator[Notes]:
    """Note what happens in a block.

    Args:
        closed: Absolute folders of which nothing may be read or written.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_hear)
        _installed = True
    notes = Notes(tuple(os.path.join(os.path.realpath(folder), "") for folder in closed))
    _listening.append(notes)
    try:
        yield notes
    finally:
        _listening.remove(notes)


@contextmanager
def unheard() -> Iterator[None]:
    """Note nothing of what the harness itself does when a plugin calls it back."""
    listening, _listening[:] = _listening[:], []
    try:
        yield
    finally:
        _listening[:] = listening


@contextmanager
def ours() -> Iterator[None]:
    """Note nothing of what this thread does, which is the harness's own and runs beside the calls."""
    before = getattr(_thread, "ours", False)
    _thread.ours = True
    try:
        yield
    finally:
        _thread.ours = before


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    listening = _listening[-1:]  # another thread may end the call meanwhile
    if not listening or getattr(_thread, "ours", False):
        return
    (notes,) = listening
    if event == "object.__setattr__":
        function, name = arguments[0], arguments[1]
        if name in PARTS and isinstance(function, FunctionType):
            notes.functions.append((function, name, getattr(function, name)))
    elif event in FILES:
        for path in arguments[: FILES[event]]:
            if isinstance(path, str | bytes | os.PathLike):
                _touches(notes, event, os.path.realpath(os.fsdecode(path)), arguments)


def _touches(notes: Notes, event: str, path: str, arguments: tuple[Any, ...]) -> None:
    ours = path.startswith(os.path.join(HERE, "")) and "__pycache__" not in path
    if os.path.join(path, "").startswith(notes.closed) or (ours and _writes(event, arguments)):
        notes.files.append(path)
        raise PermissionError(f"{path} must not be opened or changed by a plugin")


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event != "open":
        return event not in READS
    mode, flags = arguments[1], arguments[2]
    wanted = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    return bool(set(mode or "") & set("wax+")) or (mode is None and bool((flags or 0) & wanted))
