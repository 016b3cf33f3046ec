"""Landlock, by which a process gives up its access to files for good; Linux 5.13 or later, no privileges needed.

The numbers are those of ``linux/landlock.h``. A right that the kernel at hand does not know yet is not asked for.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on every architecture
PATH_BENEATH = 1  # kind of rule
ASK_VERSION = 1  # flag

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # what can be granted on what is no folder
#: How many rights on files each version knows.
KNOWN = {1: 13, 2: 14, 3: 15, 4: 15}
LATEST = 16
TCP = 0b11  # bind and connect; since version 4
SCOPES = 0b11  # abstract sockets and signals, of processes outside; since version 6

READ = EXECUTE | READ_FILE | READ_DIR
USE = READ_FILE | WRITE_FILE | IOCTL_DEV
EVERYTHING = (1 << LATEST) - 1 & ~(MAKE_CHAR | MAKE_SOCK | MAKE_BLOCK)


def version() -> int:
    """Return the version of Landlock's interface; 0 where there is none."""
    found: int = _libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(ASK_VERSION))
    return max(0, found)


def restrict(rules: Iterable[tuple[Path, int]]) -> None:
    """Give up every access to files that no rule grants, TCP, and signals to processes outside; for good.

    It holds for this thread, and for the threads and processes that it starts from now on. The process must have
    given up new privileges before.

    Args:
        rules: Files or folders, and what is granted on them and below. What does not exist is left out.

    Raises:
        OSError: The kernel refuses.
    """
    known = version()
    handled = (1 << KNOWN.get(known, LATEST)) - 1
    fields = [handled, *([TCP] if known >= 4 else []), *([SCOPES] if known >= 6 else [])]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = _called(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path, granted in rules:
            _grant(ruleset, path, granted & handled)
        _called(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: Path, granted: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            granted &= OF_FILES
        if granted:
            rule = struct.pack("=Qi", granted, place)
            _called(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)


def _called(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
