"""The tables of the page of results: made of bundles, in the order that the page states, and of no bundle unsigned."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from types import SimpleNamespace

import pytest
from documents import document

from conftest import ROOT
from harness.api import UnlearningError
from harness.bundles.bundle import write
from harness.bundles.made import Made

SITE = ROOT / "ci" / "site"
RESULTS = ROOT / "ci" / "results"


@pytest.fixture(scope="module")
def leaderboard():
    return SimpleNamespace(**runpy.run_path(str(SITE / "leaderboard.py")))


class Board:
    """A folder of bundles, with a key that may sign."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "task").mkdir()
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        (folder / "signers").write_text(f"ada@example.org {self.key.with_suffix('.pub').read_text()}")

    def add(self, found, date, judging="1", key=True):
        """Add the bundle of a result with one method."""
        found["run"]["versions"] |= {"torch": "2.0"}
        found["run"]["started"] = f"{date}T00:00:00Z"
        result = self.folder / "result.json"
        result.write_text(json.dumps(found))
        made = Made({"harness.judging": judging}, "cpu", "a computer")
        file = self.folder / "task" / f"{found['unlearners'][0]['name']}-{date}.zip"
        write(file, result, None, made, self.key if key else None)
        return file


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def of_method(name, leaves=False, **more):
    """A result of one method, which leaves the poison or not."""
    found = document(("unused", name) if leaves else (name,), **more)
    kept = [audit for audit in found["audits"] if audit["unlearner"] == name]
    return {**found, "audits": kept, "unlearners": [{**found["unlearners"][0], "name": name}]}


def methods_of(text):
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_methods_that_pass_more_come_first_and_then_those_that_leave_less(board, leaderboard):
    for name, leaves, by in (("a_leaves", True, 0), ("b_half", True, -0.3), ("c_gone", False, 0)):
        found = of_method(name, leaves)
        for audit in found["audits"]:
            if by and audit["claim"] == "poison":
                audit["estimate"] += by
        board.add(found, "2026-01-01")
    (board.folder / "task" / "left_out.json").write_text('{"d_refused": "It is not for this task."}')

    text = leaderboard.tables(board.folder, lambda file: file.name)

    assert text.startswith("### task, quick plan\n")
    assert methods_of(text) == ["c_gone", "b_half", "a_leaves"]
    assert "| `c_gone` | 1 of 1 | **PASS**<br>" in text
    assert re.search(
        r"`c_gone` .* pp \| \*\*PASS\*\*<br>0.0\d \[.*\]<br>n = \d+ \| .* \[2026-01-01\]\(c_gone-2026-01-01.zip\)", text
    )
    assert (
        "- 3 bundles: a computer (1 process on cpu); pytest-unlearning 0.1.0, torch 2.0, python 3.11; signed by" in text
    )
    assert "- Left out: `d_refused`: It is not for this task." in text
    assert leaderboard.history(board.folder, str) == "There is one bundle of each method so far.\n"


def test_a_later_bundle_takes_the_place_and_the_history_says_what_changed(board, leaderboard):
    board.add(of_method("mine"), "2026-01-01")
    later = of_method("mine", leaves=True)
    later["run"]["versions"]["numpy"] = "9.9"
    board.add(later, "2026-02-01", judging="2")

    text = leaderboard.tables(board.folder, lambda file: file.name)
    assert methods_of(text) == ["mine"]
    assert "2026-02-01" in text
    assert "2026-01-01" not in text

    text = leaderboard.history(board.folder, lambda file: file.name)
    assert text.startswith("### mine on task\n")
    assert "| noise | poison left | **PASS** 0.0" in text
    assert "- Different versions: numpy none → 9.9." in text
    assert "- Different source of the harness: harness.judging." in text
    assert re.search(r"- mine on task, noise, poison left: PASS .* → FAIL .*; moved by \+0\.8", text)


def test_another_plan_is_another_table(board, leaderboard):
    board.add(of_method("one"), "2026-01-01")
    found = of_method("two")
    file = board.add(found, "2026-01-01")
    found["run"]["settings"]["plan"] = "reliable"
    (board.folder / "result.json").write_text(json.dumps(found))
    write(file, board.folder / "result.json", None, Made({}, "cpu", "a computer"), board.key)

    text = leaderboard.tables(board.folder, str)

    assert re.findall("^### (.*)$", text, re.MULTILINE) == ["task, quick plan", "task, reliable plan"]


def test_a_bundle_that_nobody_signed_is_in_no_table(board, leaderboard):
    board.add(of_method("mine"), "2026-01-01", key=False)

    with pytest.raises(UnlearningError, match="the bundle is not signed"):
        leaderboard.tables(board.folder, str)


def test_what_a_bundle_says_is_text(board, leaderboard):
    found = of_method("mine")
    for audit in found["audits"]:
        audit["poison"] = "<script>|[x](y)`"
    board.add(found, "2026-01-01")

    head = leaderboard.tables(board.folder, str).splitlines()[2]

    assert head == r"| method | passed | accuracy | \<script\>\|\[x\](y)\` | cost | bundle |"


def test_the_bundles_here_are_signed_small_and_in_the_table(leaderboard):
    linked = []
    text = leaderboard.tables(RESULTS, lambda file: linked.append(file) or file.name)
    leaderboard.history(RESULTS, lambda file: linked.append(file) or file.name)

    files = sorted(RESULTS.glob("*/*.zip"))
    assert files
    assert sorted(set(linked)) == files
    assert len(methods_of(text)) == text.count(".zip)")
    assert sum(file.stat().st_size for file in RESULTS.rglob("*.*")) < 3e6
