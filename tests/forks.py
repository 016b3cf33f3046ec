"""Runs pytest in forks of a process that has imported what every run imports: torch, scipy, pytest and its plugins.

A run is what ``python -m pytest`` is in every other respect. It has its own process, folder, environment and output.
It imports our packages itself. The workers of pytest-xdist are forks, too: two of them would import torch for longer
than most runs train.
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


class Forks:
    """A process that forks; started when it is first asked.

    Args:
        folder: For what runs print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None

    def run(self, arguments: list[str], cwd: Path, environment: dict[str, str], timeout: float) -> tuple[int, str]:
        """Run ``python -m pytest`` with these arguments; return its exit code and what it printed.

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
            "arguments": arguments, "cwd": str(cwd), "environment": environment, "printed": str(printed),
            "timeout": timeout,
        }  # fmt: skip
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._server.stdout.readline())
        if code is None:
            raise subprocess.TimeoutExpired(arguments, timeout)
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


def become(job: dict[str, Any]) -> None:
    """Be what ``python -m pytest`` would be."""
    from hypothesis.configuration import set_hypothesis_home_dir

    os.setpgid(0, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    printed = os.open(job["printed"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, printed), (2, printed)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    set_hypothesis_home_dir(Path(".hypothesis").absolute())  # by default below where it was imported
    paths = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [job["cwd"], *paths]  # in place of this file's folder
    sys.argv = ["pytest", *job["arguments"]]
    if any(argument.startswith("-n") for argument in job["arguments"]) and nursery():
        # What `python -c` would do that execnet starts a worker with.
        exec(eval(sys.stdin.readline()), {"__name__": "__main__"})
        return
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


def end(code: int) -> None:
    """End the process as Python does, but do not tear down modules: that copies most of what a fork shares."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Worker:
    """What execnet needs of the ``Popen`` of a worker, which is here a fork of another process.

    Args:
        nursery: Asks the process that forks.
    """

    def __init__(self, nursery: socket.socket) -> None:
        theirs, mine = os.pipe(), os.pipe()
        self.stdin, self.stdout = open(theirs[1], "wb"), open(mine[0], "rb")  # noqa: SIM115 - execnet closes them
        told = json.dumps({"cwd": os.getcwd(), "environment": dict(os.environ)}).encode()
        socket.send_fds(nursery, [told], [theirs[0], mine[1]])
        os.close(theirs[0])
        os.close(mine[1])
        self.pid = int(nursery.recv(32))
        self._ended = os.pidfd_open(self.pid)

    def wait(self) -> None:
        select.select([self._ended], [], [])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _reap(*_: object) -> None:
    """Leave no worker a zombie, and count its seconds among those of this process."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def nursery() -> bool:
    """Fork a process that forks workers for execnet, while nothing has begun yet; return whether this is a worker."""
    from execnet import gateway_io

    asks, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        told.close()
        popen2 = gateway_io.Popen2IOMaster

        class Forked(popen2):
            def __init__(self, args: list[str], execmodel: Any) -> None:
                self.popen = worker = Worker(asks)
                super(popen2, self).__init__(worker.stdin, worker.stdout, execmodel=execmodel)

        gateway_io.Popen2IOMaster = Forked
        return False
    asks.close()
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        message, fds, _, _ = socket.recv_fds(told, 1 << 20, 2)
        if not message:
            os._exit(0)
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
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the old one has read ahead
    job = json.loads(message)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    return True


if __name__ == "__main__":
    told = serve()
    if told is not None:
        try:
            become(told)
        except SystemExit as ended:
            end(ended.code)  # pytest's is a number
        end(0)
