"""The figure of the usual metrics: its numbers, its words, its file."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from documents import RATE, document
from scipy import stats

from conftest import ROOT
from harness.report.contrast import contrast_file, draw_panel, panels, t_interval


def test_intervals_over_seeds_are_those_of_scipy():
    values = [0.02, 0.05, 0.01, 0.04, 0.03]
    found = t_interval(values)
    low, high = stats.t.interval(0.95, 4, loc=found.value, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert t_interval([0.1, None]) is None
    assert t_interval([]) is None
    assert (t_interval([0.1]).low, t_interval([0.1]).n) == (None, 1)


def test_panels_hold_what_the_result_says():
    result = document(methods=("good", "bad"), heuristics=True)
    rates, fractions = panels(result)
    assert list(rates.rows) == ["retrained", "good", "bad", "poisoned"]
    by = {(a["unlearner"], a["claim"]): a for a in (*result["audits"], *result["heuristics"])}
    for method in ("good", "bad"):
        for metric, claim in (("membership", "membership"), ("poison", "poison")):
            audit = by[method, claim]
            assert fractions.rows[method][metric].value == audit["estimate"]
            assert [fractions.rows[method][metric].low, fractions.rows[method][metric].high] == audit["interval"]
            unlearned = audit["by_seed"][RATE]["unlearned"]
            assert rates.rows[method][metric].value == pytest.approx(sum(unlearned) / len(unlearned))
    assert fractions.tolerated == 0.2
    assert "finds more points in poisoned models" in rates.sentences[0]
    assert "FAILs for 1 of 2 methods" in fractions.sentences[0]


def test_a_rate_that_sees_nothing_is_said_to():
    result = document(heuristics=True)
    for audit in result["audits"]:
        if RATE in audit["by_seed"]:
            audit["by_seed"][RATE]["poisoned"] = audit["by_seed"][RATE]["retrained"]
    assert "finds no more points in poisoned models" in panels(result)[0].sentences[0]


def test_a_poison_without_rates_has_the_fractions_alone():
    result = document(heuristics=True)
    for audit in result["audits"]:
        audit["by_seed"] = {}
    (only,) = panels(result)
    assert "fraction" in only.title
    assert panels({**result, "heuristics": []}) == []
    with pytest.raises(ValueError, match='-m "heuristic or audit"'):
        contrast_file({**result, "heuristics": []})


def test_the_file_is_svg_on_its_own():
    text = contrast_file(document(methods=("<good>", "a&b"), heuristics=True))
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title").text.startswith("Membership inference beside")
    assert len(root.findall(f"{space}svg")) == 2
    assert "<good>" in [t.text for t in root.iter(f"{space}text")]
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_diverged_is_left_out_of_the_drawing():
    result = document(heuristics=True)
    for audit in (*result["audits"], *result["heuristics"]):
        audit |= {"estimate": None, "interval": [None, None]}
        audit["by_seed"] = {name: {a: [None] * len(v) for a, v in of.items()} for name, of in audit["by_seed"].items()}
    for panel in panels(result):
        assert "not judged" in draw_panel(panel, "p")


def test_the_figure_of_the_documentation_is_that_of_its_benchmark():
    result = json.loads((ROOT / "ci" / "benchmarks" / "results" / "heuristics.json").read_text())
    assert (ROOT / "docs" / "contrast.svg").read_text(encoding="utf-8") == contrast_file(result)
