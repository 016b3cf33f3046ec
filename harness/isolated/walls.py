"""What a process locks itself into before it imports a method. No privileges are needed, and there is no way back."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.api import UnlearningError
from harness.isolated import landlock, seccomp
from harness.locating import SITES
from harness.sources import IN_TREE, ROOT

#: Folders of the system that can be read, where they exist.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/nix/store", "/proc", "/sys")
#: Devices that can be used. What is in /dev/shm outlives a process, and is not among them.
DEVICES = ("null", "zero", "full", "random", "urandom")
#: And by jobs on a GPU; others would compute there unseen.
GPUS = ("nvidia*", "nvidia-caps/*", "kfd", "dri/*")

#: What methods must not read, by what a message calls it.
HIDDEN: dict[str, Path] = {}

PR_SET_NO_NEW_PRIVS = 38
CAPABILITIES = 0x20080522  # version 3 of the interface
PROCESSES = 1 << 15


@dataclass(frozen=True)
class Openings:
    """What can be read besides the system, Python and our packages.

    Attributes:
        files: Single files.
        folders: Folders whose names can be listed, with all below; what is in the files stays hidden.
        gpus: Whether GPUs can be used.
    """

    files: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    gpus: bool = False


def missing() -> str:
    """Return what this system lacks for the walls, in words; ``""`` if nothing."""
    lacking = [
        name
        for name, there in (
            ("Landlock (Linux 5.13 or later, where it is enabled)", sys.platform == "linux" and landlock.version() > 0),
            ("seccomp filters (Linux on x86-64 or 64-bit ARM)", sys.platform == "linux" and seccomp.available()),
        )
        if not there
    ]
    return " and ".join(lacking)


def require() -> None:
    """Refuse to call a method isolated where it would not be.

    Raises:
        UnlearningError: This system lacks something.
    """
    if lacking := missing():
        raise UnlearningError(
            f"methods cannot be isolated here: this system lacks {lacking}; run without isolation, or on another system"
        )


def readable() -> list[Path]:
    """Return the folders whose files every isolated method can read."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sysconfig.get_paths().values()]
    installed = [path for path in sys.path if Path(path).name in SITES]
    ours = [ROOT / name for name in IN_TREE]
    found = [Path(each).resolve() for each in [*SYSTEM, *python, *installed]] + ours
    return [folder for folder in dict.fromkeys(found) if folder.is_dir() and folder != Path("/")]


def require_hidden(places: Mapping[str, Path | None]) -> None:
    """Refuse to keep in a folder that methods can read what they must not.

    Args:
        places: By what a message calls it; None for what is no file.

    Raises:
        UnlearningError: One of them lies in such a folder.
    """
    HIDDEN.clear()  # that of an earlier audit of this process
    HIDDEN.update({what: place.resolve() for what, place in places.items() if place is not None})
    for what, place in places.items():
        inside = [] if place is None else [f for f in readable() if place.resolve().is_relative_to(f)]
        if inside:
            raise UnlearningError(
                f"{what}, {place}, is in {inside[0]}, which isolated methods can read; put it in another directory"
            )


def require_apart(files: Iterable[Path]) -> None:
    """Refuse to open files of what was hidden, which a method may have declared to depend on.

    Raises:
        UnlearningError: One of them is in there.
    """
    for what, place in HIDDEN.items():
        for file in files:
            if file.resolve().is_relative_to(place):
                raise UnlearningError(f"{file}, on which the method depends, is in {what}, which it must not read")


def put_up(work: Path, openings: Openings, memory: int, largest: int) -> None:
    """Lock this process in, and every process that it starts.

    Args:
        work: The only folder in which it can write.
        openings: What it can read besides the system, Python and our packages.
        memory: Bytes that each process may still allocate.
        largest: Bytes of the largest file it may write.

    Raises:
        UnlearningError: This process already has other threads, which the walls would not hold.
        OSError: The kernel refuses.
    """
    import resource  # here, because not every system has it

    if len(os.listdir("/proc/self/task")) > 1:
        raise UnlearningError("the task starts threads before the method is there; it cannot be run isolated")
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, largest)
    _limit(resource.RLIMIT_DATA, _allocated() + memory)
    _limit(resource.RLIMIT_NPROC, PROCESSES)
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = struct.pack("6I", *[0] * 6)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(struct.pack("Ii", CAPABILITIES, 0), nothing):
        raise OSError(ctypes.get_errno(), "privileges could not be given up")
    landlock.restrict(_rules(work, openings))
    seccomp.restrict()


def _rules(work: Path, openings: Openings) -> Iterable[tuple[Path, int]]:
    patterns = (*DEVICES, *GPUS) if openings.gpus else DEVICES
    devices = [path for pattern in patterns for path in Path("/dev").glob(pattern)]
    parts: Sequence[tuple[Iterable[Path], int]] = (
        (readable(), landlock.READ),
        ((*openings.files, ROOT / "_pytest_unlearning.py"), landlock.READ),
        (openings.folders, landlock.READ_DIR),
        (devices, landlock.USE),
        ([work], landlock.EVERYTHING),
    )
    return [(path, granted) for paths, granted in parts for path in paths]


def _limit(what: int, most: int) -> None:
    import resource

    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _allocated() -> int:
    """Return the bytes of this process's data, as the limit on them counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def available_memory() -> int:
    """Return the bytes of memory that processes can still be given here, at least 1 GiB."""
    found = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    found += left_in_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1 << 30, int(0.9 * min(found, default=1 << 33)))


def left_in_groups(groups: Path, mounted: Path) -> Iterator[int]:
    """Yield the bytes that each control group with a limit has left: those of a process, and those that they are in.

    Files that were read and are no longer used count as free: the kernel drops them where memory is short.

    Args:
        groups: The file in which the kernel names the groups of the process.
        mounted: Where control groups are mounted. In a container this is its own group, which ``groups`` may call
            otherwise.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # a kernel without control groups
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, used, unused = mounted, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit, used = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            unused = "total_inactive_file"
        else:
            continue
        own = top / path.lstrip("/")
        for group in (own, *(each for each in own.parents if each.is_relative_to(top))):
            try:
                left = int((group / limit).read_text()) - int((group / used).read_text())
                stat = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                yield max(0, left + int(stat.get(unused, 0)))
            except (OSError, ValueError):  # not of this container, or "max"
                continue
