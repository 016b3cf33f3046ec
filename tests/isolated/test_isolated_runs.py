"""``--audit-isolated`` and ``gate --isolated``, as a user sees them."""

import re
import sys
from pathlib import Path

import pytest
from labs import BEHIND_WALLS, lab_in
from labs import TINY as TASK

from conftest import TINY
from harness.cells import Cell, Trial
from harness.isolated import method as isolation
from harness.judging.plan import Plan
from harness.registry import resolve
from harness.studies.study import Study

pytestmark = BEHIND_WALLS

METHOD = """
def forget(model, request):
    import torch

    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    return model
"""
#: At its import it makes every verdict a PASS, in the process that imports it.
PATCHING = """
import harness.judging.judge as judge
from harness.api import Outcome

judge.judge = lambda *a, **k: Outcome.PASS
"""
WATCHING = """
import sys


def pytest_sessionfinish():
    print("IMPORTED" if "mine" in sys.modules else "NOT IMPORTED")
"""


def test_the_judge_never_imports_the_method(trained):
    trained.write("mine.py", METHOD)
    trained.write("watching.py", WATCHING)
    run = trained.pytest(
        *TINY, "--unlearner=mine:forget", "--audit-isolated", "--audit-seeds=3", "-p", "watching", "-s"
    )
    assert "NOT IMPORTED" in run.text
    assert run.audits["mine:forget", "backdoor:size=1", "poison"]["verdict"] == "FAIL"
    assert run.json["run"]["settings"]["isolated"] is True
    assert "--audit-isolated" in run.audits["mine:forget", "backdoor:size=1", "poison"]["command"].split()
    assert "isolated=True" in run.text
    again = trained.pytest(*TINY, "--unlearner=mine:forget", "--audit-isolated", "--audit-seeds=3")
    assert again.built == []
    assert again.judged == run.judged


def test_a_method_that_patches_at_its_import_is_refused(folder):
    folder.write("mine.py", PATCHING + METHOD)
    folder.write("watching.py", WATCHING)
    run = folder.pytest(*TINY, "--unlearner=mine:forget", "--audit-isolated", "-p", "watching", "-s")
    assert run.code == 4
    assert "replaced harness.judging.judge.judge; it must leave them as they are" in run.text


def test_the_contract_is_examined_in_there(folder):
    folder.write("mine.py", "def forget(model, request):\n    request.forget.labels.zero_()\n    return model\n")
    run = folder.pytest(*TINY, "--unlearner=mine:forget", "--audit-isolated", "-k", "contract", contract=True)
    said = {line["line"]: line for line in run.json["contract"]}
    assert not said["changes-weights"]["kept"]
    assert "changed the forget set's labels in place" in said["data-untouched"]["sentence"]
    assert said["same-architecture"]["kept"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--audit-executor=ray"], "isolated methods run on this machine; drop --audit-executor"),
        (["--audit-tune=2"], "cannot be combined with --audit-tune; drop one of them"),
        ([f"--audit-store={Path(sys.prefix, 'store')}"], "the store, .*, is in .*, which isolated methods can read"),
        ([f"--audit-json={Path(sys.prefix, 'a.json')}"], "the file of --audit-json, .*, is in .*, which isolated"),
        (["--unlearner=scrub:gama=2"], "no field 'gama'; did you mean gamma"),
    ],
)
def test_what_rules_isolation_out_is_said(folder, arguments, says):
    run = folder.pytest(*TINY, "--unlearner=gd", "--audit-isolated", *arguments)
    assert run.code == 4
    assert re.search(says, run.text)


def test_a_callable_of_a_test_file_is_refused(folder):
    audits = folder.write(
        "test_mine.py",
        "import harness\n\n\ndef forget(model, request):\n    return model\n\n\n"
        '@harness.parametrize_with_audits([forget], task="tiny:Tiny")\n'
        "def test_it(verdict):\n    verdict.require()\n",
    )
    run = folder.pytest("--audit-isolated", suites=str(audits))
    assert run.code == 2
    assert "forget is a callable of this process and cannot be isolated" in run.text


def test_methods_unlearn_before_anything_is_retrained(tmp_path):
    seen = []
    lab = lab_in(tmp_path / "store", show=lambda trial, arm, done, of: seen.append((trial, arm)))
    poisons = [resolve("poison", spec) for spec in ("backdoor:size=1", "gaussian:sd=0.5")]
    cells = [Cell(isolation.resolve("gd"), TASK, poison) for poison in poisons]
    study = Study(cells, lab, Plan(3), 0.2)
    for cell in cells:
        study.verdict(cell, "poison")
    for seed in range(3):
        of = list(dict.fromkeys((trial.cell, arm) for trial, arm in seen if trial.seed == seed))
        retrained = min(at for at, (_, arm) in enumerate(of) if arm == "R")
        assert {cell for cell, arm in of[:retrained] if arm == "U" and cell.unlearner.isolated} == set(cells)
        assert not [cell for cell, arm in of[:retrained] if arm == "U" and not cell.unlearner.isolated]


def test_a_method_that_raises_stops_no_other(tmp_path):
    lab = lab_in(tmp_path / "store")
    cells = [
        Cell(isolation.resolve(name), TASK, resolve("poison", "backdoor:size=1")) for name in ("gd", "hostile:raises")
    ]
    study = Study(cells, lab, Plan(3), 0.2)
    with pytest.raises(isolation.process.MethodError, match="no such thing"):
        study.verdict(cells[1], "poison")
    assert study.verdict(cells[0], "poison").outcome == "FAIL"
    assert study.error(Trial(cells[1], 0)) is not None


def test_the_gate_does_the_controls_last(folder):
    _, text = folder.harness(
        "gate", "--isolated", "--unlearner=gd", "--task=tiny:Tiny", "--poison=backdoor:size=1",
        f"--store={folder.store}", "--", "--audit-plan=quick", "--audit-seeds=3",
    )  # fmt: skip
    stages = [line for line in text.splitlines() if line.startswith("gate, ")]
    assert stages == ["gate, 1 of 3: contract", "gate, 2 of 3: audits"], text  # which it does not pass
    assert "gate: RED: audits" in text


def test_python_can_ask_for_it(tmp_path):
    import harness

    def forget(model, request):
        return model

    with pytest.raises(harness.UnlearningError, match="cannot be isolated; name"):
        harness.audit(forget, task="tiny:Tiny", isolated=True)
    with pytest.raises(harness.UnlearningError, match="which isolated methods can read"):
        harness.audit("gd", task="tiny:Tiny", isolated=True, store=Path(sys.prefix, "no-store"))
