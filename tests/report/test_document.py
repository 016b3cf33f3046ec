"""What a run leaves behind: report, JUnit, step summary, the line that loads models; and what is made later."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from documents import POISON, document, judged
from test_page import page_of

from conftest import TINY
from harness.cli.main import main
from harness.judging.reasons import Reason
from harness.report.collected import Heard, plain
from harness.report.document import methods, not_judged, places

METHOD = """
def forget(model, request):
    return model


def raises(model, request):
    raise RuntimeError('no <idea>')
"""


def test_results_are_in_the_order_of_collection_whichever_worker_ends_first():
    results = Heard()
    for place, poison in ((4, "b"), (2, "a"), (3, "c")):
        nodeid = f"test_forgetting.py::test_poison_is_forgotten[{poison}]"
        report = pytest.TestReport(nodeid, (nodeid, 0, nodeid), {}, "passed", None, "call")
        audit = {"unlearner": "mine", "task": "tiny", "poison": poison, "claim": "poison"}
        report.unlearning = {"nodeid": nodeid, "place": place, "audit": audit}
        results.hear(report)

    (mine,) = results.methods()
    assert [cell.poison for cell in mine.cells] == ["a", "c", "b"]


def test_a_run_leaves_a_report_junit_a_summary_and_a_line_that_loads_its_models(folder, monkeypatch):
    folder.write("methods/mine.py", METHOD)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder.path / "summary.md"))
    run = folder.pytest(
        *TINY, "--unlearner=mine:forget", "--unlearner=mine:raises", "--audit-seeds=3", "-m", "heuristic or audit",
        "--audit-html=report.html", "--junitxml=junit.xml", "-n2",
    )  # fmt: skip
    assert run.code == 1, run.text
    text = (folder.path / "report.html").read_text(encoding="utf-8")
    for audit in run.json["audits"]:
        assert audit["verdict"] in ("FAIL", "INCONCLUSIVE", "PASS", "ERROR")
        assert audit["command"].startswith("pytest ")
    assert "RuntimeError: no &lt;idea&gt;" in text
    assert "data:image/png;base64," in text, "what was planted is pictured"
    assert "What the usual metrics conclude" in text

    failed = run.audits["mine:forget", "backdoor:size=1", "poison"]
    assert failed["as_required"] is False
    assert [look["seeds"] for look in failed["looks"]] == [3]
    cases = {case.get("name"): case for case in ElementTree.parse(folder.path / "junit.xml").iter("testcase")}
    case = cases["test_poison_is_forgotten[mine:forget-tiny:Tiny-backdoor:size=1]"]
    said = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert said["verdict"] == "FAIL"
    assert said["reason"] == "poison-left"
    assert said["n_seeds"] == "3"
    for name, value in (("estimate", failed["estimate"]), ("margin", 0.2), ("p_fail", failed["p_fail"])):
        assert float(said[name]) == value
    assert [float(said["interval_low"]), float(said["interval_high"])] == failed["interval"]

    summary = (folder.path / "summary.md").read_text(encoding="utf-8")
    assert summary.index("**ERROR**") < summary.index("**FAIL**") < summary.index("**PASS**")
    assert summary.count("## Unlearning audits") == 1, "the controller alone writes it"

    line = failed["load"]
    assert line in run.text
    raised = run.audits["mine:raises", "backdoor:size=1", "poison"]
    assert "--unlearner=mine:raises" in raised["command"]
    assert "load" not in raised
    assert f"store={str(folder.store)!r}" in line
    code = f"import harness\nm = {line}\nprint(m.seed, m.U.training, len(m.planted.forget))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder.path, env=folder.environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(int(failed["details"]["worst_seed"])), "False", "24"]


def test_a_report_can_be_made_later(tmp_path, capsys):
    result, report, figure = (tmp_path / name for name in ("r.json", "r.html", "r.svg"))
    result.write_text(json.dumps(document(heuristics=True)))
    assert main(["report", str(result), str(report)]) == 0
    assert main(["figure", str(result), str(figure)]) == 0
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "r.json", "r.svg"]
    page_of(document(heuristics=True))
    assert capsys.readouterr().err == ""


def test_a_result_is_grouped_once_by_method_poison_and_claim():
    result = document(methods=("good", "bad"), poisons=("noise", "door"), heuristics=True)
    shuffled = {**result, "audits": result["audits"][::-1]}
    found = methods(shuffled)
    assert [(m.name, [cell.poison for cell in m.cells]) for m in found] == [
        ("bad on task", ["door", "noise"]), ("good on task", ["door", "noise"]),
    ]  # fmt: skip
    bad, good = found
    assert [audit["claim"] for audit in bad.audits] == ["poison", "accuracy", "cost"] * 2
    assert [metric["claim"] for metric in bad.metrics] == ["membership"] * 2
    assert (bad.worst, good.worst) == ("FAIL", "PASS")
    noise = bad.cells[1]
    assert noise.by_claim["poison"] in result["audits"]
    assert noise.seeds == len(noise.by_claim["poison"]["seeds"]), "accuracy took more seeds and did not decide"
    assert noise.seeds < len(noise.by_claim["accuracy"]["seeds"])
    assert methods({}) == ()
    assert places(found) == [("task", "door"), ("task", "noise")]


def test_the_advice_of_a_reason_stands_in_the_result():
    audits = {a["claim"]: a for a in document(methods=("bad",))["audits"]}
    assert {a["advice"] for a in audits.values() if a["verdict"] == "PASS"} == {""}
    weak = plain(replace(judged(POISON, 0.2, 0.0, 0.0, random.Random(0)), reason="no-bite"))
    assert weak["advice"] == Reason.NO_BITE.advice


def test_reports_are_made_without_torch_and_without_the_plugin():
    code = (
        "import importlib, pkgutil, sys, harness.report as r\n"
        "for m in pkgutil.iter_modules(r.__path__): importlib.import_module(f'harness.report.{m.name}')\n"
        "print(sorted(m for m in sys.modules if m == 'torch' or m.startswith('harness.plugin')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("content", "command", "target", "said"),
    [
        (None, "report", "r.html", "cannot be read"),
        ("{", "report", "r.html", "is not JSON"),
        ('{"schema": 2}', "report", "r.html", "is not a result of schema 1"),
        ("[]", "report", "r.html", "is not a result of schema 1"),
        ('{"schema": 1}', "report", "nowhere/r.html", "is missing, or"),
        ('{"schema": 1}', "report", ".", "is missing, or"),
        ('{"schema": 1}', "figure", "r.svg", "the figure needs usual metrics and audits"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path, capsys, content, command, target, said):
    result = tmp_path / "result.json"
    if content is not None:
        result.write_text(content)
    assert main([command, str(result), str(tmp_path / target)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert {path.name for path in tmp_path.iterdir()} <= {"result.json"}


ASKED = {
    "audits": [["gd", "t", "p", "poison"], ["gd", "t", "p", "cost"], ["gd", "t", "p", "accuracy"]],
    "contract": [["gd", "budget"], ["gd", "settings"]],
}
AUDITS = [
    {"unlearner": "gd", "task": "t", "poison": "p", "claim": claim, "verdict": verdict}
    for claim, verdict in (("poison", "PASS"), ("cost", "FAIL"), ("accuracy", "INCONCLUSIVE"))
]
LINES = [
    {"unlearner": "gd", "line": "budget", "kept": True, "sentence": ""},
    {"unlearner": "gd", "line": "settings", "kept": None, "sentence": "it serves only text tasks"},
]


@pytest.mark.parametrize(
    ("part", "answers", "said"),
    [
        ("audits", AUDITS, ""),
        ("audits", AUDITS[1:], "1 of 3 audits were not judged: gd, t, p, poison"),
        ("audits", [{**AUDITS[0], "verdict": "ERROR"}], "3 of 3 audits were not judged: gd, t, p, poison; gd"),
        ("contract", LINES, ""),
        ("contract", [LINES[0], {**LINES[1], "sentence": ""}], "1 of 2 lines of the contract were not judged: gd, set"),
        ("contract", [{**LINES[0], "kept": False}, LINES[1]], "1 of 2 lines of the contract were not judged: gd, bud"),
    ],
)  # fmt: skip
def test_what_was_asked_for_and_not_judged_is_named(part, answers, said):
    found = not_judged({"asked": ASKED, "audits": [], "contract": [], part: answers}, part)
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize("asked", [{}, {"audits": []}])
def test_a_run_that_was_asked_for_nothing_judged_nothing(asked):
    assert not_judged({"asked": asked, "audits": AUDITS}, "audits") == (
        "the run was asked for no audit, so nothing was judged"
    )
    assert not_judged({"audits": AUDITS}, "audits")
