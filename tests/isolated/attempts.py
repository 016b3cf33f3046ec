"""What a method may try behind the walls. Each attempt returns what it found, or the name of the error it met."""

import ctypes
import errno
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path


def attempts(job):
    """A job: every attempt by name."""
    found = {}
    for name, attempt in ATTEMPTS.items():
        try:
            found[name] = attempt(job.arguments)
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno, str(error))
    return {"found": found}, {}


def read(path):
    return Path(path).read_bytes()[:20].decode(errors="replace")


def written(path):
    Path(path).write_text("left")
    return "written"


def called(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return f"{name} returned"


def proc(name):
    return lambda of: read(f"/proc/{of['parent']}/{name.format(**of)}")


def peek(of):
    """Read the memory of the judge, if it lets itself be read."""

    class Part(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    here = ctypes.create_string_buffer(8)
    local = Part(ctypes.addressof(here), 8)
    remote = Part(of["address"], 8)
    return called("process_vm_readv", of["parent"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)


def open_files(of):
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) <= 2)


def inherited(of):
    return [fd for fd in range(3, 200) if is_open(fd)]


def is_open(fd):
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def thread(of):
    said = []
    one = threading.Thread(target=lambda: said.append("ran"))
    one.start()
    one.join()
    return said


def ignore_children(of):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return "ignored"


ATTEMPTS = {
    "store": lambda of: read(of["blob"]),
    "store, listed": lambda of: os.listdir(of["store"]),
    "store, linked": lambda of: os.link(of["blob"], "mine"),
    "store, through a link": lambda of: (os.symlink(of["blob"], "link"), read("link")),
    "store, written": lambda of: written(Path(of["store"], "more")),
    "store, truncated": lambda of: os.truncate(of["blob"], 0),
    "memory": proc("mem"),
    "environment": proc("environ"),
    "maps": proc("maps"),
    "folder of the judge": lambda of: os.readlink(f"/proc/{of['parent']}/cwd"),
    "files of the judge": lambda of: os.readlink(f"/proc/{of['parent']}/fd/{of['file']}"),
    "files of the judge, opened": proc("fd/{file}"),
    "process_vm_readv": peek,
    "ptrace": lambda of: called("ptrace", 16, of["parent"], None, None),
    "signal": lambda of: os.kill(of["parent"], 0),
    **{
        f"socket {family.name}": lambda of, family=family: str(socket.socket(family))
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)
    },
    "/tmp": lambda of: written("/tmp/left-by-a-method"),
    "/dev/shm": lambda of: written("/dev/shm/left-by-a-method"),
    "source": lambda of: read(of["source"]),
    "own source": lambda of: written(of["source"]),
    "mode of own source": lambda of: os.chmod(of["source"], 0o600),
    "times of own source": lambda of: os.utime(of["source"], (1, 1)),
    "attributes of own source": lambda of: os.setxattr(of["source"], "user.left", b"state"),
    "shared memory": lambda of: called("shmget", 4711, 4096, 0o1600),
    "user namespace": lambda of: called("unshare", 0x10000000),
    "ended children, ignored": ignore_children,
    "own folder": lambda of: written("mine.txt"),
    "own folder, before": lambda of: os.listdir("."),
    "home": lambda of: os.path.expanduser("~") == os.getcwd(),
    "program": lambda of: subprocess.run(["/bin/echo", "hello"], capture_output=True, check=True).stdout.decode(),
    "program on the store": lambda of: subprocess.run(["/bin/cat", of["blob"]], capture_output=True).returncode,
    "thread": thread,
    "random": lambda of: len(os.urandom(4)),
    "inherited files": inherited,
    "standard files": open_files,
    "variables": lambda of: sorted(os.environ),
}
