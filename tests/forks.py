"""Runs modules in forks of a process that has imported what every run imports: torch, scipy, pytest and its plugins.

A run is what ``python -m pytest`` is in every other respect. It has its own process, folder, environment and output.
It imports our packages itself. The workers of pytest-xdist are forks, too: two of them would import torch for longer
than most runs train. So are the runs of pytest that a command of ours, ``python -m harness``, starts, and the servers
of isolated processes in these runs; tests/isolated starts both as they are.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: Plugins of pytest that every run loads. Not xdist, which keeps ``sys.path`` as it is when xdist is imported.
PLUGINS = ("_hypothesis_ftz_detector", "_hypothesis_globals", "_hypothesis_pytestplugin", "anyio", "hypothesis")
#: What a run imports: the plugins first, while pytest's hook is there to rewrite them.
IMPORTED = (
    *PLUGINS, "anyio.pytest_plugin", "execnet", "filelock", "hypothesis.entry_points", "pdb", "platformdirs",
    "safetensors.torch", "scipy.special", "scipy.stats", "sklearn.datasets", "tomllib", "torch.utils.flop_counter",
    "torch._dynamo",  # every optimiser imports it at its first step
    "xml.etree.ElementTree",
)  # fmt: skip

#: What modules are looked for in, but for this file's folder.
PATHS = sys.path[1:]


#: Where the process that forks first can be asked, in all its forks.
_door = ""


class Forks:
    """A process that forks; started when it is first asked.

    Args:
        folder: For what runs print, and for the socket by which it is asked.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None

    def run(self, words: list[str], cwd: Path, environment: dict[str, str], timeout: float) -> tuple[int, str]:
        """Run what `Forked` takes for its words; return its exit code and what it printed.

        Raises:
            TimeoutExpired: It took longer than ``timeout`` seconds, and was killed.
        """
        printed = self._folder / "printed.txt"
        printed.unlink(missing_ok=True)
        with open(printed, "ab") as output:
            started = self.start(words, cwd, environment, output.fileno())
        code = started.wait(timeout)
        return code, printed.read_text(encoding="utf-8", errors="replace")

    def start(self, words: list[str], cwd: Path, environment: dict[str, str], output: int) -> Forked:
        """Start what `run` runs, with a file for what it prints; it has a process group of its own."""
        if self._door is None:
            self._door = connected(self.door())
        with open(os.devnull, "rb") as nothing:
            return Forked(self._door, words, (nothing.fileno(), output, output), str(cwd), environment)

    def door(self) -> str:
        """Return the path of the socket at which anybody can ask; see `main`."""
        path = str(self._folder / "door")
        if self._server is None:
            command = [sys.executable, __file__, path]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._server.stdout is not None
            self._server.stdout.readline()  # that it listens
        return path

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate()
        if self._door is not None:
            self._door.close()


def connected(door: str) -> socket.socket:
    """Return a connection with who listens at a path, which may be longer than the name of a socket can be."""
    asks = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(os.path.dirname(door), os.O_RDONLY)
    asks.connect(f"/proc/self/fd/{folder}/{os.path.basename(door)}")
    os.close(folder)
    return asks


def serve(door: str) -> dict[str, Any] | None:
    """Fork for everybody who asks at a path; return the job in the fork, and None once the standard input is closed."""
    _import_all()
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page of it
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    folder = os.open(os.path.dirname(door), os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(door)}")
    os.close(folder)
    listener.listen()
    global _door
    _door = door
    print("listening", flush=True)
    return attend([], listener)


def _import_all() -> None:
    from _pytest.assertion import install_importhook
    from _pytest.config import get_config

    rewriting = install_importhook(get_config())
    rewriting.mark_rewrite(*PLUGINS)
    for name in IMPORTED:
        importlib.import_module(name)
    sys.meta_path.remove(rewriting)


def become(job: dict[str, Any]) -> None:
    """Be what ``python -m`` would be with the words of a job."""
    from hypothesis.configuration import set_hypothesis_home_dir

    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    set_hypothesis_home_dir(Path(".hypothesis").absolute())  # by default below where it was imported
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [job["cwd"], *paths, *PATHS]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))  # read once, where Python starts
    module, *arguments = job["words"]
    if module.startswith("-"):
        _program(job["words"])
        return
    if any("isolated" in argument for argument in arguments):
        _fork_isolated()
    if module == "harness":
        if (asked := nursery(_fork_runs)) is not None:
            become(asked)
            return
    elif any(argument.startswith("-n") for argument in arguments) and nursery(_fork_workers):
        # What `python -c` would do that execnet starts a worker with.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the old one has read ahead
        exec(eval(sys.stdin.readline()), {"__name__": "__main__"})
        return
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _program(words: list[str]) -> None:
    """Run the program that a command of Python has in its words."""
    at = words.index("-c")
    if "-P" in words[:at]:
        del sys.path[0]
    if "ignore" in words[:at]:
        warnings.simplefilter("ignore")
    sys.argv = words[at : at + 1] + words[at + 2 :]
    sys.modules["__main__"] = program = types.ModuleType("__main__")
    exec(words[at + 1], vars(program))


def end(code: int) -> None:
    """End the process as Python does, but do not tear down modules: that copies most of what a fork shares."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Forked:
    """What is asked of a ``Popen``, of a fork of another process.

    Args:
        nursery: Asks the process that forks.
        words: What it shall be: of ``python -m``, or of ``python`` if they begin with an option. execnet tells its
            workers later.
        fds: What it shall read from, write to, and complain to; by default what this process does.
        cwd: Its working directory, by default that of this process.
        environment: Its environment, by default that of this process.
    """

    def __init__(
        self,
        nursery: socket.socket,
        words: Sequence[str] = (),
        fds: Sequence[int] = (0, 1),
        cwd: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        job = {"cwd": cwd or os.getcwd(), "environment": environment or dict(os.environ), "words": words}
        socket.send_fds(nursery, [json.dumps(job).encode()], fds)
        self._nursery = nursery
        self.pid = int(nursery.recv(32))
        self.returncode: int | None = None
        try:
            self._ended = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._ended = os.open(os.devnull, os.O_RDONLY)  # it has ended already; like that, this can be read

    def poll(self) -> int | None:
        """Return its exit code, or None if it has not ended."""
        if self.returncode is None and not select.select([self._ended], [], [], 0)[0]:
            return None
        return self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit code.

        Raises:
            TimeoutExpired: It took longer than ``timeout`` seconds, and was killed with its process group.
        """
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("a fork", timeout or 0)
            os.close(self._ended)
            self._nursery.send(str(self.pid).encode())
            self.returncode = int(self._nursery.recv(32))
        return self.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Worker(Forked):
    """A worker, to which execnet talks through pipes."""

    def __init__(self, nursery: socket.socket) -> None:
        theirs, mine = os.pipe(), os.pipe()
        self.stdin, self.stdout = open(theirs[1], "wb"), open(mine[0], "rb")  # noqa: SIM115 - execnet closes them
        super().__init__(nursery, fds=(theirs[0], mine[1]))
        os.close(theirs[0])
        os.close(mine[1])

    def wait(self, timeout: float | None = None) -> None:  # type: ignore[override]
        """Wait for its end; execnet asks from several threads, and for no exit code."""
        select.select([self._ended], [], [])


class Isolated(Forked):
    """The server of isolated processes, which a run talks to through pipes."""

    def __init__(self, command: Sequence[str], stderr: Any, cwd: str, env: dict[str, str], **_: object) -> None:
        theirs, mine = os.pipe(), os.pipe()
        self.stdin, self.stdout = open(theirs[1], "wb"), open(mine[0], "rb")  # noqa: SIM115 - who asked closes them
        super().__init__(connected(_door), command[1:], (theirs[0], mine[1], stderr.fileno()), cwd, env)
        os.close(theirs[0])
        os.close(mine[1])


def _fork_isolated() -> None:
    """Have runs start their servers of isolated processes as forks, of a process in which nothing has begun yet."""

    def fork(command: Any, options: dict[str, Any]) -> Isolated | None:
        return Isolated(command, **options) if list(command[:2]) == [sys.executable, "-I"] else None

    _instead(fork)


def _fork_workers(asks: socket.socket) -> None:
    """Have execnet start its workers as forks."""
    from execnet import gateway_io

    popen2 = gateway_io.Popen2IOMaster

    class Forking(popen2):
        def __init__(self, args: list[str], execmodel: Any) -> None:
            self.popen = worker = Worker(asks)
            super(popen2, self).__init__(worker.stdin, worker.stdout, execmodel=execmodel)

    gateway_io.Popen2IOMaster = Forking


def _fork_runs(asks: socket.socket) -> None:
    """Have commands start their runs of pytest as forks."""

    def fork(command: Any, options: dict[str, Any]) -> Forked | None:
        plain = not options and list(command[:3]) == [sys.executable, "-m", "pytest"]
        return Forked(asks, command[2:]) if plain else None

    _instead(fork)


def _instead(fork: Callable[[Any, dict[str, Any]], Forked | None]) -> None:
    """Put forks in the place of commands where a function makes one: of the command and its options of ``Popen``."""
    popen: Any = subprocess.Popen

    class Forking(popen):
        def __new__(cls, command: Any, *args: Any, **options: Any) -> Any:
            if not args and (forked := fork(command, options)) is not None:
                return forked
            plain = popen.__new__ is object.__new__
            return popen.__new__(cls) if plain else popen.__new__(cls, command, *args, **options)

    subprocess.Popen = Forking  # type: ignore[misc]


#: Exit codes of forks that have ended, by process.
_codes: dict[int, int] = {}


def _reap(*_: object) -> None:
    """Leave no fork a zombie, and count its seconds among those of this process."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            _codes[found[0]] = os.waitstatus_to_exitcode(found[1])


def nursery(use: Callable[[socket.socket], None]) -> dict[str, Any] | None:
    """Fork a process that forks when it is asked, while nothing has begun yet.

    Args:
        use: Has this process ask it.

    Returns:
        In a process that was asked for, what it shall be; in this one, None.
    """
    asks, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        told.close()
        use(asks)
        return None
    asks.close()
    return attend([told])


def attend(connections: list[socket.socket], listener: socket.socket | None = None) -> dict[str, Any] | None:
    """Fork whenever a connection asks for it; return what the fork shall be there.

    In this process, end it once the last connection is closed; if there is a listener, return None once the standard
    input is closed.
    """
    signal.signal(signal.SIGCHLD, _reap)
    while connections or listener:
        doors: list[Any] = [listener, sys.stdin] if listener else []
        for ready in select.select([*connections, *doors], [], [])[0]:
            if ready is sys.stdin:
                return None
            if ready is listener:
                connections.append(listener.accept()[0])
                continue
            message, fds = _received(ready)
            if not message:
                connections.remove(ready)
                ready.close()
            elif not fds:  # the number of a process that has ended
                while int(message) not in _codes:
                    time.sleep(0.001)
                _answered(ready, _codes.pop(int(message)))
            elif child := os.fork():
                _answered(ready, child)
                for fd in fds:
                    os.close(fd)
            else:
                return _begun(json.loads(message), fds, [*connections, *filter(None, [listener])], bool(listener))
    os._exit(0)


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Return a message and its files; nothing from somebody who was killed."""
    try:
        message, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    except ConnectionResetError:
        return b"", []
    return message, list(fds)


def _answered(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(str(number).encode())


def _begun(job: dict[str, Any], fds: list[int], sockets: list[socket.socket], apart: bool) -> dict[str, Any]:
    """Begin to be what a job says: read and write where it says, in a process group of one's own if ``apart``."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _codes.clear()
    for each in sockets:
        each.close()
    if apart:
        os.setpgid(0, 0)
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    return job


def main(door: str, words: list[str]) -> None:
    """Be a process forked by who listens at a path: ``python tests/forks.py DOOR MODULE ARGUMENT ...``."""
    sys.exit(Forked(connected(door), words, (0, 1, 2)).wait())


if __name__ == "__main__":
    if sys.argv[2:]:
        main(sys.argv[1], sys.argv[2:])
    told = serve(sys.argv[1])
    if told is not None:
        try:
            become(told)
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            end(1 if isinstance(ended.code, str) else ended.code or 0)
        end(0)
