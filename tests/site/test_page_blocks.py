"""The blocks of the pages that begin at the beginning, run as their reader runs them.

All pages share one folder and one store, in this order, so that models are trained once. CONTRIBUTING.md says what a
block means.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import forks as forking
import pytest
from documented import Block, blocks

from conftest import ROOT, WITHOUT

PAGES = ("tutorial", "own_method", "concepts", "faq")
#: What pytest adds to a time of a minute or more.
MINUTES = re.compile(r" \(\d+:\d\d:\d\d\)")
NUMBER = re.compile(r"[−+-]?\d+(?:[.,:]\d+)*(?:e-?\d+)?")


class Reader:
    """Somebody in an empty folder, with the commands of an environment in which the project is installed.

    The commands are forks of a process that has imported torch already: a dozen imports would take a minute.
    """

    def __init__(self, folder, forks):
        self.folder = folder / "work"
        self.folder.mkdir()
        commands = folder / "bin"
        commands.mkdir()
        for name, module in (("pytest", "pytest"), ("pytest-unlearning", "harness"), ("python", "")):
            words = [sys.executable, "-I", "-S", forking.__file__, forks.door(), *([module] if module else [])]
            (commands / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            (commands / name).chmod(0o755)
        left_out = re.compile(r"(PYTEST|PYTHON|GITHUB_).*|CI|BUILD_NUMBER")  # pytest shows longer lines where CI is set
        clean = {name: value for name, value in os.environ.items() if not left_out.fullmatch(name)}
        self.environment = clean | {
            "PATH": os.pathsep.join([str(commands), os.environ["PATH"]]), "PYTHONPATH": str(ROOT), "COLUMNS": "100",
            "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": shlex.join(WITHOUT),
        }  # fmt: skip

    def runs(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=900, check=False,
        )  # fmt: skip

    def follows(self, block: Block) -> subprocess.CompletedProcess[str] | None:
        """Do what a block says; None for one that only writes a file."""
        if block.language == "sh":
            return self.runs("bash", "-euo", "pipefail", "-c", block.text)
        if named := re.match(r"# (\S+\.(?:py|toml))\n", block.text):
            (self.folder / named[1]).write_text(block.text)
            return None
        assert block.language == "python", block.text
        return self.runs("python", "-c", block.text)


def plain(line: str) -> str:
    """Return a line without what differs between machines: numbers, and how columns are aligned."""
    line = MINUTES.sub("", line)
    return " ".join(NUMBER.sub("#", line).strip("= ").split())


def missing(shown: str, printed: str) -> list[str]:
    """Return the lines of a block that are not among the lines printed after those that were found before."""
    rest, lost = [plain(line) for line in printed.splitlines()], []
    for line in shown.splitlines():
        if line.strip() in ("...", ""):
            continue
        if plain(line) in rest:
            rest = rest[rest.index(plain(line)) + 1 :]
        else:
            lost.append(line)
    return lost


@pytest.fixture(scope="module")
def reader(tmp_path_factory, forks):
    return Reader(tmp_path_factory.mktemp("reader"), forks)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_what_happens(page, reader):
    done = None
    for block in blocks(ROOT / "docs" / f"{page}.md"):
        if block.language == "text":
            assert done, f"nothing was run before {block.text}"
            assert missing(block.text, done.stdout) == [], done.stdout
        else:
            run = reader.follows(block)
            if run is not None:
                assert run.returncode == (1 if block.note == "red" else 0), run.stdout
                done = run


def test_a_line_that_was_not_printed_is_missing():
    printed = "== 1 failed in 72.0s (0:01:12) ==\nmine  FAIL  n=3  1.00 [0.99, 1.01]\n"

    assert missing("mine FAIL n=5 0.98 [0.9, 1.1]\n", printed) == []
    assert missing("== 1 passed in 2s ==\n...\nmine FAIL n=3 1.00 [0.99, 1.01]", printed) == ["== 1 passed in 2s =="]
    assert missing("mine  FAIL  n=3  1.00 [0.99, 1.01]\n1 failed in 3s", printed) == ["1 failed in 3s"]
