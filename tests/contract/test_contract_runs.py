"""The contract on the command line."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import broken
import pytest
from examining import HALVES

from conftest import SUITES
from harness.contract.lines import LINES


@pytest.fixture
def bench(folder):
    """Return the folder of somebody who has the broken methods at hand."""
    (folder.path / "methods").mkdir()
    shutil.copy(Path(broken.__file__), folder.path / "methods" / "broken.py")
    return folder


def contract(folder, *args):
    """Examine methods, with a cache of failed tests that is this folder's own."""
    return folder.pytest("-k", "contract", "-rs", "-o", f"cache_dir={folder.path / 'cache'}", *args, contract=True)


def kept(run):
    return {(line["unlearner"].partition(":")[2], line["line"]): line["kept"] for line in run.json["contract"]}


def test_a_run_says_one_sentence_and_the_line_and_trains_nothing(bench):
    junit = bench.path / "junit.xml"
    methods = ("--unlearner=broken:does_nothing", "--unlearner=broken:halves_the_forget_set")
    run = contract(bench, *methods, "-n2", f"--junitxml={junit}")
    assert run.code == 1, run.text
    assert run.counts() == {"failed": 2, "passed": 34, "skipped": 2}
    for line in (
        HALVES,
        "  contract, line 2 (one-point): a method must " + LINES["one-point"],
        "  request: 30 points to keep, 1 to forget, batches of 16, seed 1",
    ):
        assert run.text.splitlines().count(line) == 1
    assert "/harness/" not in run.text.partition("Traceback")[2]  # its own lines, and none of ours
    assert "on no ordinary request did it return changed, finite weights" in run.text

    nothing, halves = ({line: kept(run)[method, line] for line in LINES} for method in
                       ("does_nothing", "halves_the_forget_set"))  # fmt: skip
    assert nothing == dict.fromkeys(LINES, True) | {
        "changes-weights": False, "depends-on-split": None, "reads-forget": None
    }  # fmt: skip
    assert halves == dict.fromkeys(LINES, True) | {"one-point": False}
    sentences = {line["sentence"] for line in run.json["contract"] if line["kept"] is False}
    assert {s.partition(";")[0] for s in sentences} == {
        "the unlearner 'broken:does_nothing' returned the parameters of the model unchanged",
        HALVES,
    }
    assert run.json["audits"] == run.json["trials"] == []
    stored = [json.loads(path.read_text())["record"]["kind"] for path in bench.store.rglob("*.json")]
    assert stored == ["contract"] * len(stored)

    cases = {case.get("name"): case for case in ET.parse(junit).iter("testcase")}
    assert len(cases) == 2 * len(LINES)
    assert "of the model unchanged" in cases["test_contract[broken:does_nothing-changes-weights]"].find("failure").text
    assert cases["test_contract[broken:does_nothing-reads-forget]"].find("skipped") is not None

    again = contract(bench, *methods, "-n0", "--lf")
    assert again.code == 1
    assert kept(again) == {("does_nothing", "changes-weights"): False, ("halves_the_forget_set", "one-point"): False}


def test_a_sound_method_is_green_in_one_process(bench):
    run = contract(bench, "--unlearner=broken:forget", "-n0")
    assert run.code == 0, run.text
    assert run.counts()["passed"] == len(LINES)
    assert set(kept(run).values()) == {True}


def test_the_contract_is_listed_without_torch_and_only_for_methods_that_are_asked_for(folder):
    code = f"""
import sys, pytest
common = ["--co", "-q", "-p", "no:cacheprovider", "-k", "contract", "--audit-store=store", {SUITES!r}]
print("codes", pytest.main([*common, "--unlearner=scrub"]), pytest.main(common))
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.path, env=folder.environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    listed = [line for line in done.stdout.splitlines() if "test_contract[" in line]
    assert [line.partition("[")[2] for line in listed] == [f"scrub-{line}]" for line in LINES]
    assert "codes 0 5" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_plugin_that_cannot_be_imported_is_a_usage_error(folder):
    folder.write("methods/faulty.py", "import not_there\n")
    run = contract(folder, "--unlearner=faulty:forget")
    assert run.code == 4
    said = [line for line in run.text.splitlines() if "the unlearner 'faulty:forget' cannot be imported" in line]
    assert len(said) == 1
    assert "ModuleNotFoundError: No module named 'not_there'" in said[0]
    assert "/harness/" not in run.text.partition("Traceback")[2]  # its own lines, and none of ours
