"""Results as data: the list that is a table, and what changed between results."""

import copy
import csv
import io
import json

import documents
import pytest

import harness
from harness.report.changes import changes, made_with, unchanged
from harness.report.history import render
from harness.report.results import COLUMNS, Results, read_results


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(documents.document(("good", "bad"), ("noise", "other"))))
    return path


def test_a_row_is_an_audit_with_its_numbers(file):
    found = read_results(file)
    assert len(found) == len(found.rows()) == 12
    assert found[1:3].rows() == found.rows()[1:3]
    assert found[-1]["claim"] == found.rows()[-1]["claim"]
    first = found.rows()[0]
    assert tuple(first) == COLUMNS
    assert (first["unlearner"], first["poison"], first["claim"], first["verdict"]) == (
        "good",
        "noise",
        "poison",
        "PASS",
    )
    assert first["low"] < first["estimate"] < first["high"] < first["margin"] == 0.2
    assert (first["seeds"], first["file"], first["started"]) == (5, str(file), "2026-01-01T00:00:00Z")
    assert {row["unit"] for row in found.rows()} == {
        "fraction of the poison's effect", "difference from retraining", "fraction of retraining",
    }  # fmt: skip


def test_several_files_make_one_list(file):
    other = file.with_name("other.json")
    other.write_text(json.dumps(documents.document(("bad", "good"), ("noise", "other"))))
    found = read_results(file, other)
    assert len(found) == 24
    lines = found.to_markdown().splitlines()
    assert lines[0].startswith("| file | method | task |")
    by_file = [(line.split(" | ")[0][2:], line.split(" | ")[1]) for line in lines[2:]]
    assert by_file[:3] == [(str(file), "good"), (str(file), "good"), (str(file), "bad")]
    assert by_file[4] == (str(other), "bad")
    assert "0.90 [0.86, 0.95] FAIL" in repr(found).split(str(other))[0], "each file has a table of its own"
    assert len(read_results()) == 0
    assert repr(read_results()) == "no audits"


def test_every_form_has_every_audit(file):
    found = read_results(file)
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [row["estimate"] for row in rows] == [str(row["estimate"]) for row in found.rows()]
    frame = found.to_frame()
    assert list(frame.columns) == list(COLUMNS)
    assert (frame.groupby("unlearner")["estimate"].max() > 0).all()
    for text in (found.to_markdown(), found.to_latex(), found._repr_html_(), repr(found)):
        assert text.count("noise") == 2
        assert text.count("0.90 [0.86, 0.95] FAIL") == 1


def test_names_cannot_break_a_table():
    document = documents.document(("a_b|<i>&\\",), ("50%",))
    found = Results(document["audits"], document["audits"])
    assert r"| a_b\|<i>&\ | task |" in found.to_markdown()
    assert r"a\_b|<i>\&\textbackslash{} & task & 50\% &" in found.to_latex()
    assert "<td>a_b|&lt;i&gt;&amp;\\</td>" in found._repr_html_()


def test_an_audit_that_raised_an_error_is_a_row(file):
    document = json.loads(file.read_text())
    blank = {"verdict": "ERROR", "estimate": None, "interval": [None, None], "seeds": [], "reason": "it raised"}
    document["audits"][0] |= blank
    found = Results(document["audits"], document["audits"])
    assert (found.rows()[0]["verdict"], found.rows()[0]["low"], found.rows()[0]["seeds"]) == ("ERROR", None, 0)
    assert "ERROR" in found.to_markdown()


def test_a_file_that_is_no_result_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(harness.UnlearningError, match="cannot be read"):
        read_results(tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(harness.UnlearningError, match="name a file that --audit-json wrote"):
        read_results(tmp_path / "other.json")


# ---- what changed


def both(**changed):
    """Return a result, and a copy of it in which an audit has other values."""
    before = documents.document(("good",), ("noise",))
    after = copy.deepcopy(before)
    after["audits"][0] |= changed
    return before, after


def test_equal_results_have_no_changes():
    before, after = both()
    assert changes(before, after) == made_with(before, after) == []
    assert unchanged(after, []).startswith("3 of 3 audits: the same verdict")


def test_a_verdict_further_from_pass_is_worse():
    before, after = both(verdict="FAIL", estimate=0.9, interval=[0.8, 1.0], seeds=[0, 1, 2])
    (change,) = changes(before, after)
    assert change.worse
    assert change.sentence == (
        "good on task, noise, poison left: PASS 0.03 [0.00, 0.05], n = 5 → FAIL 0.90 [0.80, 1.00], n = 3; "
        "moved by +0.87."
    )
    (change,) = changes(after, before)
    assert not change.worse
    assert unchanged(after, [change]).startswith("2 of 3")


def test_an_estimate_that_moves_beyond_chance_is_a_change_and_no_worse():
    (change,) = changes(*both(estimate=0.15, interval=[0.1, 0.19]))
    assert (change.worse, "moved by +0.12" in change.sentence) == (False, True)
    assert changes(*both(estimate=0.06, interval=[0.03, 0.09])) == []
    assert changes(*both(estimate=0.15, interval=[None, 0.19])) == [], "an unbounded interval overlaps with any"


def test_another_trace_that_decides_is_a_change():
    """Its estimate is in another unit, so no interval of the two can agree."""
    before, after = both(trace="second moment", test="exact-null")
    before["audits"][0]["trace"] = "mean"
    (change,) = changes(before, after)
    assert not change.worse
    assert "moved by" not in change.sentence


def test_two_tests_of_one_claim_are_two_audits():
    before = documents.document(("good",), ("noise",))
    before["audits"].append(copy.deepcopy(before["audits"][0]))
    after = copy.deepcopy(before)
    after["audits"][0] |= {"verdict": "FAIL", "estimate": 0.9, "interval": [0.8, 1.0]}
    (change,) = changes(before, after)
    assert change.worse
    assert unchanged(after, [change]).startswith("3 of 4 audits")


def test_an_audit_that_is_missing_is_worse():
    before, after = both()
    gone = after["audits"].pop()
    (change,) = changes(before, after)
    assert change.worse
    assert change.sentence == f"good on task, noise, {gone['claim']}: missing from the later result."
    (change,) = changes(after, before)
    assert not change.worse


def test_compute_counts_from_a_tenth_of_the_budget():
    before, after = both()
    after["audits"][2] |= {"estimate": 0.085, "interval": [0.085, 0.085]}
    assert changes(before, after) == []
    after["audits"][2] |= {"estimate": 0.095, "interval": [0.095, 0.095]}
    assert "cost: PASS 8 %, n = 5 → PASS 10 %, n = 5" in changes(before, after)[0].sentence


def test_what_differs_between_the_runs_is_said():
    before, after = both()
    after["run"]["versions"]["torch"] = "3.0"
    after["run"]["device"] = "1 process on cuda"
    after["run"]["settings"]["tolerance"] = 0.3
    after["unlearners"][0]["source_sha256"] = None
    assert made_with(before, after) == [
        "Different versions: torch none → 3.0.",
        "Different devices: device 1 process on cpu → 1 process on cuda.",
        "Different settings: tolerance 0.2 → 0.3. So a verdict does not mean the same in both.",
        "Different source of methods: good abababab → unknown.",
    ]


def test_the_history_shows_every_run_and_escapes_names():
    first, last = both(verdict="FAIL", estimate=0.9, interval=[None, 1.0])
    for document in (first, last):
        document["audits"][0]["poison"] = "<b>"
    page = render([("a<b>.json", first), ("b.json", documents.document(("other",), ("noise",))), ("c.json", last)])
    assert "<b>" not in page
    assert "a&lt;b&gt;.json" in page
    assert "run 1: PASS, 0.03 left; run 3: FAIL, 0.90 left" in page
    assert " 150.0V35.1" in page, "an interval without an end is drawn to the end of the scale"
    assert "History of 3 runs" in page
    assert "the last run is worse in 3 audits." in page, "those of `other` are missing"
