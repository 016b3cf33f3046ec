"""The script that says whether two results are equal, number by number."""

import copy
import json

from documents import document
from scripts import ROOT, script

#: For pytest to find them here.
FIXTURES = (script,)
COMPARE = ROOT / "ci" / "benchmarks" / "compare.py"


def test_two_results_are_equal_but_for_times(script, tmp_path):
    before = document(heuristics=True)
    after = copy.deepcopy(before)
    for audit in after["audits"]:
        audit["seconds"] += 1
    for name, of in (("before", before), ("after", after)):
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    same = script(COMPARE, "before.json", "after.json")
    assert (same.code, same.out) == (0, f"{len(before['audits'])} audits are equal, number by number\n")


def test_what_differs_is_named_in_audits_metrics_and_the_contract(script, tmp_path):
    before = document(heuristics=True)
    before["contract"] = [{"unlearner": "good", "line": "budget", "kept": True, "sentence": "", "request": ""}]
    after = copy.deepcopy(before)
    after["audits"][0]["estimate"] += 0.001
    after["heuristics"][0]["verdict"] = "FAIL"
    after["contract"][0]["kept"] = False
    after["audits"].append(copy.deepcopy(after["audits"][1]))  # one cell may have two tests of one claim
    for name, of in (("before", before), ("after", after)):
        (tmp_path / f"{name}.json").write_text(json.dumps(of))
    found = script(COMPARE, "before.json", "after.json")
    assert found.code == 1
    said = found.out.splitlines()
    for start, part in (
        ("poison of good on task, noise: ", "estimate"),
        ("membership of good on task, noise: ", "verdict"),
        ("line budget of good: ", "kept True → False"),
        ("accuracy of good on task, noise, test 2: ", "not in the result"),
    ):
        assert any(line.startswith(start) and part in line for line in said), found.out
