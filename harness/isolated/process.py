"""The judge's side: starts the server of isolated processes, asks it, and says in words how a job ended."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import ContractError, UnlearningError
from harness.calling import PluginError
from harness.guards.clock import TimedOut
from harness.isolated import wire
from harness.isolated.jobs import KNOWN
from harness.isolated.walls import available_memory, require

if TYPE_CHECKING:
    from torch import Tensor

START = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); "
    "from harness.isolated.child import serve; serve()"
)
#: What an isolated process is told of our environment: how to find programs and libraries, how to compute.
TOLD = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "CUDA_HOME")
TOLD_FAMILIES = ("LC_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "HIP_", "ROCR_")
#: Seconds that the server has beyond those of a job, to end what it started.
GRACE = 60.0
#: Bytes of the largest file that a method may write, unless its own model and data are larger.
LARGEST = 1 << 30


class MethodError(PluginError):
    """What a method raised in its own process, by name and text; notes of it hold the traceback."""


@dataclass(frozen=True)
class Limits:
    """What a job may use.

    Attributes:
        seconds: Wall time.
        memory: Bytes that each of its processes may allocate; None for nearly all that are free.
        longer: What the error that it took longer says beside that: how to give it longer.
    """

    seconds: float = 60.0
    memory: int | None = None
    longer: str = ""


@dataclass(frozen=True)
class Answer:
    """What a job returned.

    Attributes:
        plain, tensors: The values. They come from the method's process: whoever reads them, checks them.
        cpu_seconds: CPU time of all its processes, measured outside of them.
    """

    plain: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    cpu_seconds: float


class Server:
    """One server, which ends with this process, and with it everything that it started.

    Raises:
        UnlearningError: The system cannot isolate processes.
    """

    def __init__(self) -> None:
        require()
        self.home = Path(tempfile.mkdtemp(prefix="pytest-unlearning-")).resolve()
        self.ended = False
        self._jobs = 0
        self._imported: set[str] = set()
        self._at_work = False
        told = {n: v for n, v in os.environ.items() if n in TOLD or n.startswith(TOLD_FAMILIES)}
        with open(self.home / "log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-W", "ignore", "-c", START], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, cwd="/", env=told, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._send(_path())

    def job(self) -> Path:
        """Return a new folder for a job, with an empty working directory in it."""
        self._jobs += 1
        folder = self.home / str(self._jobs)
        (folder / "work").mkdir(parents=True)
        return folder

    def warm(self, imports: Sequence[str]) -> None:
        """Have it import modules, once for all jobs; does not wait."""
        if new := [name for name in imports if name not in self._imported]:
            self._imported.update(new)
            self._send({"imports": new})

    def run(self, folder: Path, seconds: float) -> dict[str, Any]:
        """Have it run a job, and return how it says that the job ended, as `harness.isolated.child` describes.

        Raises:
            UnlearningError: The server itself has ended.
        """
        self._at_work = True
        try:
            self._send({"imports": [], "folder": str(folder), "seconds": seconds})
            # It may still be importing what it was told to.
            wait = 2 * GRACE + seconds
            if not select.select([self._answers], [], [], wait)[0]:
                self.close()
                raise UnlearningError(f"the server of isolated processes did not answer within {wait:.0f} seconds")
            ended: dict[str, Any] = json.loads(self._answers.readline())
        except ValueError:
            said = (self.home / "log").read_text(errors="replace").strip().rpartition("\n")[2]
            self.close()
            raise UnlearningError(
                "the server of isolated processes ended unexpectedly" + (f": {said}" if said else "")
            ) from None
        except BaseException:  # Ctrl-C: it is at work on what nobody waits for
            self.close()
            raise
        self._at_work = False
        if ended["left"]:
            self.close()
        return ended

    def close(self) -> None:
        """End it, and what it started."""
        if self.ended:
            return
        self.ended = True
        with contextlib.suppress(OSError):
            self._requests.close()  # it ends whatever is at work, and itself
        if not self._at_work:
            self._process.kill()
        try:
            self._process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it has ended, which shows where an answer is waited for
            self._requests.write(json.dumps(message).encode() + b"\n")
            self._requests.flush()


def _path() -> list[str]:
    """Return where this process looks for modules."""
    return [str(Path(entry).absolute()) for entry in sys.path]


_SERVERS: list[Server] = []


def server() -> Server:
    """Return the server of this process, started if there is none.

    Raises:
        UnlearningError: The system cannot isolate processes.
    """
    if not _SERVERS or _SERVERS[-1].ended:
        _SERVERS.append(Server())
        atexit.register(_SERVERS[-1].close)
    return _SERVERS[-1]


def ask(
    function: str,
    spec: str,
    *,
    task: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    files: Sequence[Path] = (),
    folders: Sequence[Path] = (),
    gpus: bool = False,
    imports: Sequence[str] = (),
    limits: Limits = Limits(),
) -> Answer:
    """Have a job done in a process of its own.

    Args:
        function: Dotted path of one that takes a `harness.isolated.jobs.Job`.
        spec: Of the method.
        task: Spec of the task, if the job has one.
        arguments: Plain values.
        tensors: Tensors by name.
        files: What the job can read besides the system, Python and our packages.
        folders: What it can list.
        gpus: Whether it can use GPUs.
        imports: Modules that the server imports first, once for all jobs.
        limits: What the job may use.

    Raises:
        TimedOut: It did not end in time.
        UnlearningError: It broke another limit, or ended its process; or the system cannot isolate it.
        MethodError, ContractError, SpecError, PluginExit: What was raised in the job.
    """
    memory = limits.memory or available_memory()
    largest = max(LARGEST, 4 * sum(t.numel() * t.element_size() for t in (tensors or {}).values()))
    running = server()
    running.warm(imports)
    folder = running.job()
    try:
        plain = {
            "function": function, "method": spec, "task": task, "arguments": dict(arguments or {}),
            "files": list(map(str, files)), "folders": list(map(str, folders)),
            "gpus": gpus, "memory": memory, "largest": largest, "path": _path(), "cwd": os.getcwd(),
        }  # fmt: skip
        wire.write(folder, plain, tensors or {})
        ended = running.run(folder, limits.seconds)
        return _read(f"the unlearner {spec!r}", folder, ended, limits, memory, largest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(who: str, folder: Path, ended: Mapping[str, Any], limits: Limits, memory: int, largest: int) -> Answer:
    """Return what a job left, or raise in words how it ended."""
    if ended["late"]:
        raise TimedOut(f"{who} did not end within {limits.seconds:.0f} seconds{limits.longer}")
    if ended["left"]:
        raise UnlearningError(f"{who} left processes behind that could not be ended")
    status = ended["status"]
    if status == -signal.SIGKILL:
        raise UnlearningError(f"{who} was killed, as a rule because the machine ran out of memory")
    if status < 0:
        known = -status in list(signal.Signals)  # there are others, without names
        name = signal.Signals(-status).name if known else f"signal {-status}"
        raise UnlearningError(f"{who} crashed its process ({name}){_printed(folder)}")
    try:
        plain, tensors = wire.read_untrusted(folder / "work", largest)
        error = plain.get("error")
    except FileNotFoundError:
        raise UnlearningError(f"{who} ended its own process and returned nothing{_printed(folder)}") from None
    except (OSError, ValueError, AttributeError) as odd:
        raise UnlearningError(f"{who} left an answer that cannot be read: {odd}") from None
    if error:
        if not isinstance(error, Mapping):
            raise UnlearningError(f"{who} left an answer that cannot be read: its error is not one of ours")
        raise _raised(who, error, memory)
    return Answer(plain, tensors, float(ended["cpu_seconds"]))


def _raised(who: str, error: Mapping[str, Any], memory: int) -> Exception:
    name, text = str(error.get("name")), str(error.get("text"))
    if name == "MemoryError":
        found: Exception = UnlearningError(
            f"{who} ran out of memory; isolated, each of its processes may use {memory / 2**30:.1f} GiB"
        )
    elif name == ContractError.__name__:
        found = ContractError(text, str(error.get("line")))
    elif name in KNOWN:
        found = KNOWN[name](text)
    else:
        hint = ""
        if name in ("PermissionError", "ModuleNotFoundError"):
            hint = "; isolated, it can read only Python, installed packages, what it imports and its depends_on"
        found = MethodError(f"{name}: {text}{hint}")
    found.add_note("in its own process:\n" + str(error.get("trace")))
    return found


def _printed(folder: Path) -> str:
    """Return the last line that a job printed, for a message."""
    with contextlib.suppress(OSError):
        text = (folder / "output").read_bytes()[-2000:].decode(errors="replace").strip()
        return f": {text.rpartition(chr(10))[2]}" if text else ""
    return ""
