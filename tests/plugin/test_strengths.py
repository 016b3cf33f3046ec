"""One poison at two strengths, listed by a task of somebody else: a row, an id, models and expectations for each."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from forks import Forks

from conftest import Folder, Run

TASK = """
from dataclasses import dataclass
from typing import ClassVar
from tiny import Tiny

@dataclass(frozen=True)
class Strong(Tiny):
    poisons: ClassVar = ("backdoor:fraction=0.05,size=1", "backdoor:size=1", "backdoor:size=1,fraction=0.050")
"""
SMALL, LARGE = "backdoor:fraction=0.05,size=1", "backdoor:size=1"
EXPECTED = """
[[expected]]
unlearner = "identity"
task = "strong:Strong"
poison = "{}"
verdict = "FAIL"
reason = "It hands the model back."
"""
COMMON = ("--task=strong:Strong", "--unlearner=identity", "--audit-seeds=3", "-n0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Folder:
    made = Folder(tmp_path_factory.mktemp("strengths"), forks)
    made.write("strong.py", TASK)
    return made


@pytest.fixture(scope="module")
def run(folder: Folder) -> Run:
    return folder.pytest(*COMMON, "--junitxml=junit.xml", "--audit-html=report.html")


def test_each_strength_is_a_row_and_equal_specs_are_one(run):
    assert {poison for _, poison, _ in run.audits} == {SMALL, LARGE}
    lines = run.text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("identity on strong:Strong") and "verdict" in line)
    rows = [line.split()[:2] for line in lines[head + 1 : head + 3]]
    assert sorted(rows) == sorted([[SMALL, "FAIL"], [LARGE, "FAIL"]])
    assert f"poisons: {SMALL}, {LARGE} " in run.text


def test_each_strength_has_an_id_by_which_it_runs_alone(folder, run):
    cases = {case.get("name") for case in ElementTree.parse(folder.path / "junit.xml").iter("testcase")}
    for poison in (SMALL, LARGE):
        name = f"test_poison_is_forgotten[identity-strong:Strong-{poison}]"
        assert name in cases
        assert name in run.audits["identity", poison, "poison"]["command"]
    one = folder.pytest(*COMMON, "-k", "0.05 and forgotten")
    assert [key[1:] for key in one.audits] == [(SMALL, "poison")]
    other = folder.pytest(*COMMON, "-k", "forgotten and not fraction")
    assert [key[1:] for key in other.audits] == [(LARGE, "poison")]
    assert one.built == other.built == []


def test_only_poisons_of_one_size_share_retrained_models(folder, run):
    records = [json.loads(path.read_text())["record"] for path in Path(folder.store).glob("records/*/*.json")]
    retrained = [r for r in records if r["kind"] == "model" and "retained" in r["of"] and "method" not in r["of"]]
    assert len(retrained) == 2 * len({r["of"]["seed"] for r in retrained})


def test_the_result_and_the_page_tell_the_strengths_apart(folder, run):
    assert {a["poison"]: a["poison_fields"]["fraction"] for a in run.json["audits"]} == {SMALL: 0.05, LARGE: 0.1}
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "Leaves backdoor at every strength in the model" in page


def test_what_is_expected_of_one_strength_is_not_expected_of_another(folder):
    folder.write("expected.toml", EXPECTED.format(SMALL))
    found = folder.pytest(*COMMON, "--audit-expect=expected.toml")
    assert found.audits["identity", SMALL, "poison"]["as_required"]
    assert not found.audits["identity", LARGE, "poison"]["as_required"]
    folder.write("expected.toml", EXPECTED.format(SMALL) + EXPECTED.format(LARGE))
    both = folder.pytest(*COMMON, "--audit-expect=expected.toml", "-k", "forgotten")
    assert both.code == 0, both.text


def test_a_task_that_lists_an_unknown_poison_ends_the_run_in_a_sentence(folder):
    folder.write("wrong.py", TASK.replace("Strong", "Wrong").replace("backdoor:size=1", "backdor:size=1"))
    found = folder.pytest("--task=wrong:Wrong", "--unlearner=identity", "-n0")
    assert found.code == 4
    assert "the task 'wrong:Wrong' lists a poison that cannot be used: unknown poison 'backdor'; did" in found.text
