"""``--audit-tune`` on the command line: what is printed and written, by one process and by two."""

import json

import pytest

COMMON = ("--task=tiny:Tiny", "--poison=backdoor:size=1")
BROKEN = """\
from typing import Annotated

from harness import Search


def forget(model, request, lr: Annotated[float, Search(0.1, 1.0)] = 0.1):
    raise RuntimeError("b is not finished")
"""


def test_what_is_chosen_is_written_to_a_file_that_can_be_audited(folder):
    folder.write("methods/broken.py", BROKEN)
    methods = ("--unlearner=broken:forget", "--unlearner=gd", "--unlearner=ga", "--unlearner=identity")
    run = folder.pytest(*methods, "--audit-tune=2", "--audit-tune-file=chosen.txt", *COMMON)
    assert run.code == 0, run.text
    chosen = (folder.path / "chosen.txt").read_text().splitlines()
    specs = [line for line in chosen if not line.startswith("#")]
    assert [spec.partition(":")[0] for spec in specs] == ["gd", "ga"]
    assert "1/2  given up: RuntimeError: b is not finished" in run.text
    assert "no setting of 'broken:forget' could be completed" in run.text
    assert "no field of 'identity' has a range to search" in run.text
    assert "2 settings of each method on seeds 1000 to 1004, the finalists on 1005 to 1014" in chosen[0]
    assert "audit it" in chosen[2]
    assert "unlearnings" in chosen[3]
    assert "--unlearner=@chosen.txt" in run.text
    assert run.counts() | {"tried": 6, "measured again": 4} == run.counts()
    assert not run.json  # nothing was audited
    audited = folder.pytest("--unlearner=@chosen.txt", "--audit-seeds=3", *COMMON, "-k", "budget", "-n2")
    assert {a["unlearner"] for a in audited.json["audits"]} == set(specs)

    found = json.loads((folder.path / "chosen.txt.json").read_text())
    assert [each["chosen"] for each in found["methods"]] == specs
    assert found["seeds"] == {"search": list(range(1000, 1005)), "final": list(range(1005, 1015))}
    assert {"torch", "optuna", "python"} <= set(found["versions"])
    gd, _ = found["methods"]
    assert [each["number"] for each in gd["tried"]] == [0, 1]
    assert set(gd["fronts"]) == {"mean of all poisons", "backdoor:size=1"}
    point = gd["fronts"]["mean of all poisons"][0]
    assert point["floor"] == -0.005
    assert point["left"] == gd["tried"][point["number"]]["left"]
    (again,) = [each for each in gd["finals"] if each["number"] == point["number"]]
    assert point["again"]["left"] == again["left"]
    assert f"mean of all poisons, seeds 1000 to 1004 {point['left']:.2f}" in " ".join(run.text.split())

    again = folder.pytest(*methods, "--audit-tune=2", "--audit-tune-file=again.txt", *COMMON)
    assert again.code == 0
    assert "tried" not in again.counts()
    assert json.loads((folder.path / "again.txt.json").read_text()) == found


def test_two_workers_share_a_search(folder):
    run = folder.pytest("--unlearner=gd", "--audit-tune=6", "-n2", *COMMON)
    assert run.code == 0, run.text
    assert run.counts()["tried"] == 6
    assert sorted(line.split("/")[0].strip() for line in run.text.splitlines() if "/6  " in line) == list("123456")
    assert len(json.loads((folder.path / "tuned.txt.json").read_text())["methods"][0]["tried"]) == 6


def test_files_beside_the_chosen_settings_are_left_alone(folder):
    (folder.path / "report.json").write_text("mine")
    run = folder.pytest("--unlearner=gd", "--audit-tune=1", "--audit-tune-file=report.txt", *COMMON)
    assert run.code == 0, run.text
    assert (folder.path / "report.json").read_text() == "mine"
    assert "all that was tried to report.txt.json" in run.text
    assert json.loads((folder.path / "report.txt.json").read_text())["methods"]


def test_a_search_that_found_nothing_is_no_success(folder):
    (folder.path / "old.txt").write_text("gd\n")
    run = folder.pytest("--unlearner=identity", "--audit-tune=1", "--audit-tune-file=old.txt", *COMMON)
    assert run.code == 4
    assert "nothing was tuned" in run.text
    assert "written to" not in run.text
    assert (folder.path / "old.txt").read_text() == "gd\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audit-tune=0", "--unlearner=gd"], "at least 1"),
        (["--audit-tune=x", "--unlearner=gd"], "takes a number of settings"),
        (["--audit-tune=2"], "--unlearner=NAME"),
        (["--audit-tune=2", "--unlearner=gd", "--task=digits-cnn", "--task=tiny:Tiny"], "one --task at a time"),
        (["--audit-tune=2", "--unlearner=gd", "--audit-tune-file=nowhere/f"], "is missing"),
        (["--audit-tune=2", "--unlearner=gd", "--audit-dry-run"], "drop --audit-dry-run"),
        (["--unlearner=@nowhere.txt"], "cannot be read"),
    ],
)
def test_what_cannot_work_is_a_usage_error(folder, arguments, message):
    run = folder.pytest(*arguments)
    assert run.code == 4
    assert message in run.text


FULL = """\
from typing import Annotated

from harness import Search


def forget(model, request, lr: Annotated[float, Search(0.1, 1.0)] = 0.1):
    raise OSError(28, "No space left on device")
"""


def test_a_search_that_the_disk_stopped_is_not_finished(folder):
    folder.write("methods/full.py", FULL)
    run = folder.pytest("--unlearner=full:forget", "--audit-tune=2", *COMMON)
    assert run.code == 1, run.text
    assert "the search stopped at full:forget: OSError: [Errno 28] No space left on device" in run.text
    assert "not finished: full:forget; the same command goes on" in run.text
    assert "given up" not in run.text


KILLED = """\
import os, signal
from pathlib import Path
from typing import Annotated

from harness import Search


def forget(model, request, lr: Annotated[float, Search(0.1, 1.0)] = 0.1):
    if not Path("died").exists():
        Path("died").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return model
"""


def test_a_setting_whose_worker_is_killed_is_taken_up_by_another(folder):
    folder.write("methods/killed.py", KILLED)
    run = folder.pytest("--unlearner=killed:forget", "--audit-tune=3", "-n2", *COMMON)
    assert (folder.path / "died").exists()
    assert run.code == 0, run.text
    counts = run.counts()
    assert (counts["crashed"], counts["tried"]) == (1, 3)
