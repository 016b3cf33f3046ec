"""Runs modules in forks of a process that has imported what every run imports: torch, scipy, pytest and its plugins.

A run is what ``python -m pytest`` is in every other respect. It has its own process, folder, environment and output.
It imports our packages itself. The workers of pytest-xdist are forks, too: two of them would import torch for longer
than most runs train. So are the runs of pytest that a command of ours, ``python -m harness``, starts.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

#: Plugins of pytest that every run loads. Not xdist, which keeps ``sys.path`` as it is when xdist is imported.
PLUGINS = ("_hypothesis_ftz_detector", "_hypothesis_globals", "_hypothesis_pytestplugin", "anyio", "hypothesis")
#: What a run imports: the plugins first, while pytest's hook is there to rewrite them.
IMPORTED = (
    *PLUGINS, "anyio.pytest_plugin", "execnet", "filelock", "hypothesis.entry_points", "pdb", "platformdirs",
    "safetensors.torch", "scipy.special", "scipy.stats", "tomllib", "torch.utils.flop_counter",
    "torch._dynamo",  # every optimiser imports it at its first step
    "xml.etree.ElementTree",
)  # fmt: skip

#: What modules are looked for in, but for this file's folder.
PATHS = sys.path[1:]


class Forks:
    """A process that forks; started when it is first asked.

    Args:
        folder: For what runs print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None

    def run(self, words: list[str], cwd: Path, environment: dict[str, str], timeout: float) -> tuple[int, str]:
        """Run ``python -m`` with a module and its arguments; return its exit code and what it printed.

        Raises:
            TimeoutExpired: It took longer than ``timeout`` seconds, and was killed.
        """
        if self._server is None:
            command = [sys.executable, __file__]
            self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        printed = self._folder / "printed.txt"
        job = {
            "words": words, "cwd": str(cwd), "environment": environment, "printed": str(printed), "timeout": timeout,
        }  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._server.stdout.readline())
        if code is None:
            raise subprocess.TimeoutExpired(words, timeout)
        return code, printed.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate()


def serve() -> dict[str, Any] | None:
    """Fork for every job that is read; return the job in the fork, and None at the end of all."""
    _import_all()
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page of it
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            return job
        signal.signal(signal.SIGALRM, lambda *_: None)
        print(json.dumps(_wait(child, job["timeout"])), flush=True)
    return None


def _import_all() -> None:
    from _pytest.assertion import install_importhook
    from _pytest.config import get_config

    rewriting = install_importhook(get_config())
    rewriting.mark_rewrite(*PLUGINS)
    for name in IMPORTED:
        importlib.import_module(name)
    sys.meta_path.remove(rewriting)


def _wait(child: int, timeout: float) -> int | None:
    def stop(*_: object) -> None:
        os.killpg(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(int(timeout))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if signal.alarm(0) == 0 else code


def stand_alone(printed: str) -> None:
    """Belong to no other process, and print to a file."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    file, nothing = (
        os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND),
        os.open(os.devnull, os.O_RDONLY),
    )
    for target, source in ((0, nothing), (1, file), (2, file)):
        os.dup2(source, target)


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
        words: What it shall be, for ``python -m``; execnet tells its workers later.
        fds: What it shall read from and write to; by default what this process does.
    """

    def __init__(self, nursery: socket.socket, words: Sequence[str] = (), fds: Sequence[int] = (0, 1)) -> None:
        job = {"cwd": os.getcwd(), "environment": dict(os.environ), "words": words}
        socket.send_fds(nursery, [json.dumps(job).encode()], fds)
        self._nursery = nursery
        self.pid = int(nursery.recv(32))
        self._ended = os.pidfd_open(self.pid)

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        select.select([self._ended], [], [])
        self._nursery.send(str(self.pid).encode())
        return int(self._nursery.recv(32))

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

    def wait(self) -> None:  # type: ignore[override]
        """Wait for its end; execnet asks from several threads, and for no exit code."""
        select.select([self._ended], [], [])


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
    popen: Any = subprocess.Popen

    class Forking(popen):
        def __new__(cls, command: Any, *args: Any, **options: Any) -> Any:
            if not args and not options and list(command[:3]) == [sys.executable, "-m", "pytest"]:
                return Forked(asks, command[2:])
            return super().__new__(cls)

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
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        message, fds, _, _ = socket.recv_fds(told, 1 << 20, 2)
        if not message:
            os._exit(0)
        if not fds:  # the number of a process that has ended
            while int(message) not in _codes:
                time.sleep(0.001)
            told.send(str(_codes[int(message)]).encode())
            continue
        child = os.fork()
        if child == 0:
            break
        told.send(str(child).encode())
        for fd in fds:
            os.close(fd)
    told.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd, target in zip(fds, (0, 1), strict=True):
        os.dup2(fd, target)
        os.close(fd)
    job: dict[str, Any] = json.loads(message)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    return job


if __name__ == "__main__":
    told = serve()
    if told is not None:
        try:
            stand_alone(told["printed"])
            become(told)
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            end(1 if isinstance(ended.code, str) else ended.code or 0)
        end(0)
