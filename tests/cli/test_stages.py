"""The stages of the gate: none is green that has not judged all that it was asked for."""

import json

import pytest

from conftest import TINY, Folder
from harness.contract.lines import LINES

SKIPS = "import pytest\n\n\ndef forget(model, request):\n    pytest.importorskip('a_kernel_that_is_not_here')\n"
LATER = "import pytest\n\n\ndef forget(model, request):\n    pytest.xfail('not finished')\n"
ENDS = "import os\n\n\ndef forget(model, request):\n    os._exit(0)\n"
REPLACES = "import os\n\n\ndef forget(model, request):\n    os.execv('/bin/true', ['true'])\n"
LEAVES = "import sys\n\nsys.exit(0)\n"
ABSENT = """\
import pytest
from tiny import Tiny


class Absent(Tiny):
    def load(self, folder):
        pytest.skip("not downloaded")
"""
HIDES = """\
import os


def pytest_runtest_protocol(item):
    if "accuracy_is_kept" in item.name:
        {}
"""
PASSES = ("--unlearner=retrain", *TINY, "--", "--audit-budget=1.5")  # with which retraining itself passes everything


@pytest.fixture(scope="module")
def gate(tmp_path_factory, forks):
    """A folder whose store is filled by the first test that needs it."""
    folder = Folder(tmp_path_factory.mktemp("gate"), forks)

    def run(*arguments, **environment):
        return folder.harness("gate", f"--store={folder.store}", *arguments, **environment)

    run.folder = folder
    return run


@pytest.mark.parametrize(
    ("name", "method"),
    [("skips", SKIPS), ("later", LATER), ("ends", ENDS), ("leaves", LEAVES), ("replaces", REPLACES)],
)
def test_a_method_that_ends_its_own_test_is_red(gate, name, method):
    gate.folder.write(f"{name}.py", method)
    code, said = gate(f"--unlearner={name}:forget", *TINY)
    assert code
    assert "gate: RED: contract: " in said
    assert "GREEN" not in said
    assert "gate, 2 of 3" not in said


def test_a_task_that_skips_is_red_where_it_is_needed(gate):
    gate.folder.write("absent.py", ABSENT)
    code, said = gate(
        "--unlearner=retrain", "--task=absent:Absent", "--poison=backdoor:size=1", "--", "--audit-budget=2"
    )
    assert code == 4
    assert "gate: RED: controls: " in said
    assert "the task 'absent:Absent' tried to end its own test by pytest.skip (not downloaded)" in said


@pytest.mark.parametrize("listing", ["--co", "--audit-dry-run"])
def test_a_stage_that_judges_nothing_is_red(gate, listing):
    code, said = gate(*PASSES, PYTEST_ADDOPTS=listing)
    assert code == 1
    assert "gate: RED: contract: pytest ended without a result, so nothing was judged" in said


def test_what_a_keyword_leaves_out_was_not_judged(gate):
    code, said = gate(*PASSES, "-k", "forgotten")
    assert code == 1
    cell = "retrain, tiny:Tiny, backdoor:size=1"
    assert f"gate: RED: audits: 2 of 3 audits were not judged: {cell}, accuracy; {cell}, cost" in said


@pytest.mark.parametrize(
    ("name", "does", "why"),
    [
        ("hides", "return True", "the method does not pass"),  # pytest itself is red
        ("goes", "os._exit(0)", "pytest ended without a result"),
    ],
)
def test_what_a_plugin_hides_was_not_judged(gate, name, does, why):
    gate.folder.write(f"{name}.py", HIDES.format(does))
    report = gate.folder.path / "report"
    report.mkdir(exist_ok=True)
    (report / "audits.json").write_text("{}")  # of an earlier run
    code, said = gate(f"--report={report}", *PASSES, "-p", name)
    assert code == 1
    assert f"gate: RED: audits: {why}" in said
    assert (report / "audits.json").exists() == (name == "hides")


def test_what_was_judged_is_green_and_the_result_says_what_was_asked(gate):
    code, said = gate(f"--report={gate.folder.path / 'kept'}", *PASSES)
    assert code == 0, said
    assert "gate: GREEN: everything passes, or fails as expected" in said
    asked = json.loads((gate.folder.path / "kept" / "audits.json").read_text())["asked"]
    assert asked["audits"] == [
        ["retrain", "tiny:Tiny", "backdoor:size=1", claim] for claim in ("poison", "accuracy", "cost")
    ]
    assert len(asked["contract"]) == len(LINES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report=", *PASSES], "--report: needs a path"),
        ([*PASSES, "--audit-json=mine.json"], "--audit-json: the gate reads this file itself; have it written with"),
        ([*PASSES, "--audit-seeds=5"], "the reliable plan passes nothing before 16 seeds; add --audit-plan=quick"),
        (["--store=", *PASSES], "--store: needs a path"),
        (["--expect=", "--unlearner=retrain", *TINY], "--expect: needs a path"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(gate, arguments, said):
    code, printed = gate(*arguments)
    assert (code, said in printed) == (4, True), printed
