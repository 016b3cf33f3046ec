"""How the traces of a poison are shown: which one decides, and what the others come to."""

import math
import xml.etree.ElementTree as ElementTree

import pytest
from documents import document, entry

from harness.api import Measure, Outcome
from harness.judging.verdict import Look, Trace, Verdict
from harness.plugin.limits import badness, limit_of
from harness.report.collected import plain
from harness.report.contrast import panels
from harness.report.document import methods
from harness.report.figures import figures
from harness.report.github import markdown
from harness.report.page import render
from harness.report.tables import table
from harness.report.words import explain, finding, properties

MEAN = Measure("score", "trace of the noise", worse="higher", test="retention", short="mean")
SQUARES = Measure("squares", "sum of squared scores", worse="lower", test="exact-null", short="second moment")
VALUES = {"poisoned": (-2.0,) * 5, "retrained": (0.1,) * 5, "unlearned": (-1.9, -2.4, -1.7, -2.2, -2.3)}


def found(outcome=Outcome.FAIL, reason="null-rejected", p=2.5e-6, cell=("mine", "task", "noise")):
    left = Trace(
        measure=MEAN, outcome=Outcome.PASS, reason="equivalent", estimate=0.05, interval=(-0.1, 0.19), margin=0.2,
        p_pass=0.001, p_fail=0.99, p_bite=1e-6, level=0.0125, seeds=(0, 1, 2, 3, 4),
    )  # fmt: skip
    known = Trace(
        measure=SQUARES, outcome=outcome, reason=reason, estimate=-2.1, interval=(-3.4, -0.8), margin=math.nan,
        p_pass=None, p_fail=p, p_bite=1e-5, level=0.0033, seeds=(0, 1, 2, 3, 4, 5, 6, 7),
    )  # fmt: skip
    decides = left if outcome is Outcome.PASS else known
    return Verdict(
        **vars(decides) | {"seeds": left.seeds}, **dict(zip(("unlearner", "task", "poison"), cell, strict=True)),
        values=VALUES, traces={"score": left, "squares": known},
        looks=(Look(5, -2.1, (-3.4, -0.8), (-3.6, -0.6), math.nan, p),),
    )  # fmt: skip


def shown(verdict):
    result = document(("mine",))
    result["audits"][0] = entry(verdict, "poison")
    return result


KNOWS = "the model still knows what was planted: a retrained model has a sum of squared scores this far off with"


@pytest.mark.parametrize(
    ("outcome", "reason", "p", "sentence"),
    [
        (Outcome.FAIL, "null-rejected", 2.5e-6, f"T{KNOWS[1:]} probability 2.5e-06 (n = 5)."),
        (Outcome.INCONCLUSIVE, "underpowered", 0.02, f"It is undecided whether {KNOWS} probability 0.02 (n = 5)."),
        (
            Outcome.INCONCLUSIVE, "no-bite", 0.4,
            "Sum of squared scores. Nothing can be judged: the poison shows no effect in 5 seeds.",
        ),
    ],
)  # fmt: skip
def test_the_finding_is_that_of_the_trace_that_decides(outcome, reason, p, sentence):
    assert finding(found(outcome, reason, p)) == sentence


def test_the_failure_shows_every_trace():
    text = explain(found(), "pytest here")
    assert "  p = 2.5e-06 if the model were retrained (FAIL needs p ≤ 0.0033 at this look)   n = 5 seeds" in text
    assert "  traces: mean PASS 0.05 (equivalent, n = 5) · second moment FAIL −2.1 sd (null-rejected, n = 8)" in text


def test_the_table_names_the_trace_that_failed():
    lines = table(methods(shown(found())))
    assert "−2.1 sd FAIL (second moment)" in lines[1]
    lines = table(methods(shown(found(Outcome.PASS, "nothing-found"))))
    assert "0.05 [−0.10, 0.19]" in lines[1]
    assert "second moment" not in lines[1]
    assert "PASS  n=" in lines[1]


def test_everything_else_shows_it_too():
    result = shown(found())
    audit = result["audits"][0]
    assert audit["trace"] == "second moment"
    assert audit["margin"] is audit["p_pass"] is None
    assert {name: trace["verdict"] for name, trace in audit["traces"].items()} == {"score": "PASS", "squares": "FAIL"}
    assert "🟥 **FAIL** (second moment)" in markdown(result)
    page = render(result)
    assert "second moment FAIL −2.1 sd (null-rejected, n = 8)" in page
    for _, drawn in figures(audit, "a"):
        ElementTree.fromstring(drawn)
    named = dict(properties(audit))
    assert (named["trace"], named["score_verdict"], named["squares_reason"]) == (
        "second moment",
        "PASS",
        "null-rejected",
    )
    assert "squares_p_pass" not in named
    assert plain(found(Outcome.PASS, "nothing-found"))["measure"] == "score"


def test_the_limit_of_an_expected_failure_holds_on_either_side():
    audit = plain(found())
    assert badness(audit) == 2.1
    assert limit_of(audit) == pytest.approx(3.8)  # 1.1 times 3.4, rounded up


def test_fractions_are_those_of_the_main_trace():
    result = document(("mine",), heuristics=True)
    result["audits"][0] = entry(found(), "poison")
    (panel,) = [each for each in panels(result) if "fraction" in each.title]
    point = panel.rows["mine"]["poison"]
    assert (point.value, point.n, panel.tolerated) == (0.05, 5, 0.2)
