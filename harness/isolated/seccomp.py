"""A filter of system calls: what Landlock does not cover, and no unlearner needs.

Denied calls fail with "operation not permitted". They reach other processes (sockets, ptrace), or they keep something
that a later process could find: System V memory, message queues, keys, and times, modes and attributes of files.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: Numbers of the denied calls on x86-64 and on 64-bit ARM; None where there is no such call.
DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes and machines
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # which opens sockets, too
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    # what outlives a process
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
SIGACTION = {"x86_64": 13, "aarch64": 134}
CHILD_ENDED = 17  # SIGCHLD
X32 = 0x40000000  # calls of x86-64's other numbering begin here

ALLOW, DENY = 0x7FFF0000, 0x00050001  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of the kernel's packet filter
NUMBER, ARCHITECTURE, FIRST, SECOND, SECOND_HIGH = 0, 4, 16, 24, 28  # places in what it is shown of a call
PR_SET_SECCOMP, PR_GET_SECCOMP, MODE_FILTER = 22, 21, 2


def available() -> bool:
    """Return whether there are such filters here, and the numbers of this machine's system calls are known."""
    return platform.machine() in ARCHITECTURES and ctypes.CDLL(None).prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0


def restrict() -> None:
    """Deny the calls to this thread, and to the threads and processes that it starts from now on; for good.

    The process must have given up new privileges before.

    Raises:
        OSError: The kernel refuses.
    """
    code = program(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))
    of = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(instructions))
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), of, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def program(machine: str) -> bytes:
    """Return the filter for a machine, ``"x86_64"`` or ``"aarch64"``."""
    column = list(ARCHITECTURES).index(machine)
    denied = [numbers[column] for numbers in DENIED.values() if numbers[column] is not None]
    tests = [(EQUAL, number) for number in denied] + ([(AT_LEAST, X32)] if machine == "x86_64" else [])
    # Whoever ignores the end of its children hides the time that they computed: handlers are read, not set.
    ends = [
        (EQUAL, 0, 6, SIGACTION[machine]),
        (LOAD, 0, 0, FIRST),
        (EQUAL, 0, 4, CHILD_ENDED),
        (LOAD, 0, 0, SECOND),
        (EQUAL, 0, 3, 0),
        (LOAD, 0, 0, SECOND_HIGH),
        (EQUAL, 0, 1, 0),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, DENY),
    ]
    # Offsets count from the next instruction; the last one of all denies.
    code = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, 1 + len(tests) + len(ends) - 1, ARCHITECTURES[machine]),
        (LOAD, 0, 0, NUMBER),
        *((test, len(tests) - at - 1 + len(ends) - 1, 0, value) for at, (test, value) in enumerate(tests)),
        *ends,
    ]
    return b"".join(struct.pack("HBBI", *each) for each in code)
