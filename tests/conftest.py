"""Runs of the real thing: a pytest in a process of its own, in a folder of its own, on a store of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUITES = str(ROOT / "test_suites")
TINY = ("--task=tiny:Tiny", "--poison=backdoor:size=1")


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
        """The audits without what legitimately differs from run to run: times, and lines that name the store."""
        left_out = ("seconds", "command", "load")
        return [{k: v for k, v in _without_times(a).items() if k not in left_out} for a in self.json["audits"]]

    def counts(self) -> dict[str, int]:
        """The counts of the closing line, e.g. ``{"passed": 3, "trained": 20}``."""
        return {word: int(n) for n, word in re.findall(r"(\d+) ([a-z ]+?)(?:,| in )", self.text.splitlines()[-1])}


def _without_times(audit: dict[str, Any]) -> dict[str, Any]:
    details = {k: v for k, v in audit.get("details", {}).items() if "seconds" not in k}
    return {**audit, "details": details}


class Folder:
    """A folder of a user, with the tiny task in it, from which pytest is run."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        return [sys.executable, "-m", "pytest", *cache, *own, *args]

    def environment(self) -> dict[str, str]:
        paths = (self.path, self.path / "methods")
        # What pytest rewrites of its plugins is cached wherever tests run, so that not every run does it again.
        cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**cached, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "120"}

    def pytest(self, *args: str, suites: str = SUITES, contract: bool = False) -> Run:
        result = self.path / "result.json"
        result.unlink(missing_ok=True)
        left_out = [] if contract else [f"--ignore={SUITES}/test_contract.py"]
        done = subprocess.run(
            self.command(suites, f"--audit-json={result}", *left_out, *args), cwd=self.path, env=self.environment(),
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        document = json.loads(result.read_text()) if result.exists() else {}
        return Run(done.returncode, done.stdout + done.stderr, document)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
