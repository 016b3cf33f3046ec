"""Runs of the real thing: a pytest in a process of its own, in a folder of its own, on a store of its own."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forks import Forked, Forks
from hypothesis import settings
from published import against_schema

from harness import registry

# The suite must not fail by a draw. HYPOTHESIS_PROFILE=search draws anew, and ten times as many: see .ci/search.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

ROOT = Path(__file__).resolve().parent.parent
SUITES = str(ROOT / "test_suites")
TINY = ("--task=tiny:Tiny", "--poison=backdoor:size=1")
#: Here and not in pyproject.toml, which would hold for runs of the suites too, with whatever plugins are installed.
STRICT = ("error", "default::harness.store.artefacts.DamagedArtefact")

#: Plugins that tests/runs/test_installation.py runs audits beside.
WITHOUT = ("-p", "no:benchmark", "-p", "no:randomly", "-p", "no:rerunfailures", "-p", "no:timeout")


#: Folders whose files take longest, the one with the longest file first: no worker shall be left with one in the end.
LONGEST = ("site", "runs", "cheats", "cli", "contract", "pipelines", "isolated", "tasks")


def pytest_configure(config: pytest.Config) -> None:
    """Keep files in the order of collection; pytest-xdist would begin with those that have the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a warning fail a test; what a test says of warnings itself goes before. Put the longest files first."""
    here = Path(__file__).parent
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(LONGEST)))
    for item in items:
        if here in item.path.parents:
            own = item.get_closest_marker("filterwarnings")
            item.add_marker(pytest.mark.filterwarnings(*STRICT, *(own.args if own else ())), append=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Compute on one thread.

    Two workers of two threads each, on two cores, wait for each other most of the time; and sums depend on the number
    of threads: an L1 penalty turns round where a weight crosses 0.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@dataclass
class Run:
    """A finished pytest: its exit code, what it printed, and its JSON result."""

    code: int
    text: str
    json: dict[str, Any]

    @property
    def audits(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        return {(a["unlearner"], a["poison"], a["claim"]): a for a in self.json["audits"]}

    @property
    def built(self) -> list[str]:
        """Every model that the run trained, as arms."""
        return [arm for trial in self.json["trials"] for arm in trial["cost"]["built"]]

    @property
    def judged(self) -> list[dict[str, Any]]:
        """The audits without what legitimately differs from run to run."""
        return [comparable(audit) for audit in self.json["audits"]]

    def counts(self) -> dict[str, int]:
        """The counts of the closing line, e.g. ``{"passed": 3, "trained": 20}``."""
        return {word: int(n) for n, word in re.findall(r"(\d+) ([a-z ]+?)(?:,| in )", self.text.splitlines()[-1])}


def comparable(audit: dict[str, Any]) -> dict[str, Any]:
    """An audit of a result without times, and without lines that name the store."""
    details = {k: v for k, v in audit.get("details", {}).items() if "seconds" not in k}
    return {k: v for k, v in audit.items() if k not in ("seconds", "command", "load")} | {"details": details}


class Folder:
    """A folder of a user, with the tiny task in it, from which pytest is run.

    Args:
        path: Where.
        forks: What runs it; None for a process that has imported nothing yet, which is slower.
    """

    def __init__(self, path: Path, forks: Forks | None) -> None:
        self.path = path
        self.forks = forks
        self.store = path / "store"
        shutil.copy(ROOT / "tests" / "tiny.py", path / "tiny.py")

    def write(self, name: str, text: str) -> Path:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def command(self, *args: str) -> list[str]:
        own = [] if any(a.startswith("--audit-store") for a in args) else [f"--audit-store={self.store}"]
        # A cache of its own: that of the checkout, whose suites are run, is everybody's.
        cache = [] if "no:cacheprovider" in args else ["-o", f"cache_dir={self.path / 'cache'}"]
        strict = [word for each in STRICT for word in ("-W", each)]
        return [sys.executable, "-m", "pytest", *strict, *WITHOUT, *cache, *own, *args]

    def environment(self) -> dict[str, str]:
        paths = (self.path, self.path / "methods")
        # What pytest rewrites of its plugins is cached wherever tests run, so that not every run does it again.
        cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**cached, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "120"}

    def pytest(self, *args: str, suites: str = SUITES, contract: bool = False) -> Run:
        result = self.path / "result.json"
        result.unlink(missing_ok=True)
        left_out = [] if contract else [f"--ignore={SUITES}/test_contract.py"]
        command = self.command(suites, f"--audit-json={result}", *left_out, *args)
        if self.forks is None:
            done = subprocess.run(
                command, cwd=self.path, env=self.environment(), capture_output=True, text=True, timeout=900, check=False
            )
            code, text = done.returncode, done.stdout + done.stderr
        else:
            code, text = self.forks.run(command[2:], self.path, self.environment(), timeout=900)
        document = json.loads(result.read_text()) if result.exists() else {}
        assert not document or against_schema(document) == []
        return Run(code, text, document)

    def start(self, *args: str, **environment: str) -> Forked:
        """Start a pytest and do not wait for it; what it prints is appended to ``printed.txt``."""
        assert self.forks is not None
        with open(self.path / "printed.txt", "ab") as output:
            told = {**self.environment(), **environment}
            return self.forks.start(self.command(*args)[2:], self.path, told, output.fileno())

    def harness(self, *words: object, **environment: str) -> tuple[int, str]:
        """Run ``python -m harness``; return its exit code and what it printed."""
        assert self.forks is not None
        told = {**self.environment(), **environment}
        return self.forks.run(["harness", *map(str, words)], self.path, told, timeout=900)

    @contextlib.contextmanager
    def terminal(self, *args: str) -> Iterator[Callable[[str], str]]:
        """Run pytest on the suites in a terminal of 30 lines; yield what waits for a text and returns all until then.

        At the end the run is waited for.
        """
        controller, terminal = pty.openpty()
        assert self.forks is not None
        command = self.command(SUITES, f"--ignore={SUITES}/test_contract.py", *args)
        run = self.forks.start(command[2:], self.path, {**self.environment(), "LINES": "30"}, terminal)
        os.close(terminal)
        shown = b""

        def until(text: str) -> str:
            nonlocal shown
            with contextlib.suppress(OSError):  # the other end is closed: the run is over
                while text.encode() not in shown and (chunk := os.read(controller, 65536)):
                    shown += chunk
            return shown.decode()

        try:
            yield until
            until("\0")  # which nobody writes
        finally:
            os.close(controller)  # a run that is still at work is hung up on
            run.wait(timeout=60)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process whose forks are the runs, so that not every one of them imports torch anew."""
    server = Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path, forks: Forks) -> Folder:
    return Folder(tmp_path, forks)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    """A store with what every audit of the tiny task needs: the models of a run of the controls alone."""
    made = Folder(tmp_path_factory.mktemp("tiny"), forks)
    run = made.pytest(*TINY)
    assert run.code == 0, run.text
    return made.store


@pytest.fixture
def trained(tmp_path: Path, forks: Forks, tiny_store: Path) -> Folder:
    """A folder whose store holds the models of the tiny task, for tests that are not about how these are made."""
    folder = Folder(tmp_path, forks)
    shutil.copytree(tiny_store, folder.store)
    return folder


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    """A lab on the CPU, over a store of its own."""
    from labs import lab_in  # here, because most tests need no torch

    return lab_in(tmp_path / "store")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable folder whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        if str(tmp_path) in str(getattr(module, "__file__", "") or getattr(module, "__path__", "")):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for distributions, whose entry points are found, and forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    registry._entries.cache_clear()
    yield tmp_path
    registry._entries.cache_clear()
