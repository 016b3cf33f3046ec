"""The server of isolated processes: imports torch and ourselves, never a method, and forks once for every job.

It is told of jobs by lines of JSON on its standard input, and answers each by one. A job is a folder with what
`harness.isolated.wire` wrote. The fork reads it, locks itself in, and only then imports the method. Nothing that a
method does to its process reaches another job, and whatever it leaves running is ended with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from harness import registry
from harness.guards.patches import SEAL
from harness.isolated import wire
from harness.isolated.jobs import Answer, Job, error_of, resolved
from harness.isolated.walls import Openings, put_up

PR_SET_CHILD_SUBREAPER = 36
#: Seconds in which everything that a job started must have ended once it is killed.
ENDING = 10.0


def serve() -> None:
    """Answer until the other side closes our standard input."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    answers = os.dup(1)
    os.dup2(2, 1)  # what a module prints on import is no answer
    for kind in ("task", "unlearner"):  # read once, and not by every job
        registry.available(kind)
    for line in sys.stdin:
        request = json.loads(line)
        for name in request["imports"]:
            if name not in sys.modules:
                with contextlib.suppress(Exception):  # whoever needs it says so
                    importlib.import_module(name)
        SEAL.renew()  # what every job looks at around the method: once for all
        if "folder" in request:
            os.write(answers, json.dumps(_attended(request)).encode() + b"\n")


def _attended(request: dict[str, Any]) -> dict[str, Any]:
    """Return how a job ended: ``status``, its exit code or the negative of a signal; ``late``; ``left``, whether
    something that it started could not be ended; ``cpu_seconds`` of all its processes from the method's import on.
    """
    folder = Path(request["folder"])
    before = _seconds(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        leave = os._exit
        try:
            _work(folder)
        finally:
            leave(1)
    ended = select.poll()
    of = os.pidfd_open(child)
    ended.register(of, select.POLLIN)
    ended.register(0, 0)  # hung up if whom we serve is gone
    events = dict(ended.poll(1000 * request["seconds"]))
    os.close(of)
    late = not events
    if of not in events:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = not _end_all()
    if 0 in events:
        os._exit(0)
    spent = _seconds(resource.RUSAGE_CHILDREN) - before
    with contextlib.suppress(OSError, ValueError):  # the job ended before
        spent -= float((folder / "ready").read_text())
    return {"status": status, "late": late, "left": left, "cpu_seconds": spent}


def _end_all() -> bool:
    """Kill and bury whatever descends from us; return whether nothing is left."""
    deadline = time.monotonic() + ENDING
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            for each in _descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            time.sleep(0.002)
    return False


def _descendants() -> list[int]:
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parents[int(name)] = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
    found: list[int] = []
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - set(found):
        found += more
        ours = more
    return found


def _seconds(whose: int) -> float:
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def _work(folder: Path) -> None:
    """Do a job in this process, which is not used again; leave the answer in the job's working directory."""
    leave, work = os._exit, folder / "work"
    _keep_nothing_open(folder / "output")
    os.environ.update(dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME"), str(work)))
    tempfile.tempdir = str(work)  # it was found once, for what the server imports, and is asked for no more
    os.chdir(work)
    answer: Answer
    try:
        job, openings, memory, largest = _prepared(folder)
        (folder / "ready").write_text(str(_seconds(resource.RUSAGE_SELF)))
        put_up(work, openings, memory, largest)
        answer = job.function(job)
    except BaseException as error:
        traceback.print_exc()
        answer = {"error": error_of(error)}, {}
    wire.write(work, *answer)
    leave(0)


def _prepared(folder: Path) -> tuple[Job, Openings, int, int]:
    """Return a job, read and with its task resolved: what is done before the walls are up."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # threads that exist already would not be held by the walls
    plain, tensors = wire.read(folder)
    sys.path[:] = plain["path"]
    module, _, name = plain["function"].partition(":")
    task = resolved("task", plain["task"], plain["cwd"]) if plain["task"] is not None else None
    if callable(load := getattr(getattr(task, "value", None), "load_base", None)):
        load()
    job = Job(
        getattr(importlib.import_module(module), name),
        plain["method"],
        plain["cwd"],
        task,
        plain["arguments"],
        tensors,
    )
    openings = Openings(tuple(map(Path, plain["files"])), tuple(map(Path, plain["folders"])), plain["gpus"])
    return job, openings, plain["memory"], plain["largest"]


def _keep_nothing_open(output: Path) -> None:
    """Close every file but an empty input, and an output that only we read."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    printed = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for place, number in ((nothing, 0), (printed, 1), (printed, 2)):
        os.dup2(place, number)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
