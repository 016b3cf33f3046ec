"""What a run leaves behind: report, JUnit, step summary, the line that loads models; and what is made later."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from documents import document
from test_page import page_of

from conftest import TINY
from harness.cli.main import main

METHOD = """
def forget(model, request):
    return model


def raises(model, request):
    raise RuntimeError('no <idea>')
"""


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
    assert "What the usual metrics would have said" in text

    failed = run.audits["mine:forget", "backdoor:size=1", "poison"]
    assert failed["as_required"] is False
    assert [look["seeds"] for look in failed["looks"]] == [3]
    cases = {case.get("name"): case for case in ElementTree.parse(folder.path / "junit.xml").iter("testcase")}
    case = cases["test_poison_is_forgotten[mine:forget-tiny:Tiny-backdoor:size=1]"]
    said = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert said["verdict"] == "FAIL"
    assert said["reason"] == "outside-margin"
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


@pytest.mark.parametrize(
    ("content", "command", "target", "said"),
    [
        (None, "report", "r.html", "cannot be read"),
        ("{", "report", "r.html", "is no JSON"),
        ('{"schema": 2}', "report", "r.html", "is no result of schema 1"),
        ("[]", "report", "r.html", "is no result of schema 1"),
        ('{"schema": 1}', "report", "nowhere/r.html", "there is no directory for"),
        ('{"schema": 1}', "report", ".", "there is no directory for"),
        ('{"schema": 1}', "figure", "r.svg", "the figure needs heuristics and audits"),
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
