"""The HTML report, without a browser: well formed, whole, safe, for every kind of run. ci/check_report.mjs has one."""

from __future__ import annotations

import copy
import json
import math
import re
import time
from html.parser import HTMLParser

import pytest
from documents import document

from harness.report import svg
from harness.report.page import render
from harness.report.pictures import Picture

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.sources = [], [], [], [], []
        self.words, self.headings, self.style = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.tags.append((tag, of))
        self.ids += [of["id"]] if "id" in of else []
        self.links += [of["href"]] if "href" in of else []
        self.sources += [of["src"]] if "src" in of else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.words.append(data)


def page_of(result, pictures=None):
    page = Page(render(json.loads(json.dumps(result, allow_nan=False)), pictures))
    assert len(page.ids) == len(set(page.ids)), "ids are unique"
    for link in page.links:
        assert link.startswith("#"), "nothing leads or fetches from outside"
        assert link[1:] in page.ids
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "link", "object", "embed"}
    assert page.headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False)), "no level is skipped"
    for tag, of in page.tags:
        if tag == "th":
            assert "scope" in of
        if tag == "svg" and of.get("aria-hidden") != "true":
            assert of["role"] == "img"
            assert all(each in page.ids for each in of["aria-labelledby"].split())
    return page


def test_a_page_says_every_verdict_and_how_sure_it_is():
    result = document(methods=("good", "bad", "dear"), poisons=("noise", "door"))
    page = page_of(result)
    for audit in result["audits"]:
        assert audit["finding"] in page.text
        assert audit["command"] in page.text
    assert page.text.count("FAIL") >= sum(a["verdict"] == "FAIL" for a in result["audits"])
    assert "did not reach the required verdict: 4 FAIL, 14 PASS." in page.text
    assert "1 of 3 methods pass everything: good (error rate 5 % over all" in page.text
    assert "Leaves noise and door in the model" in page.text
    assert "harness.load_models('bad', seed=2)" in page.text
    assert "Verdicts rest on 3 to" in page.text
    matrix = [of for tag, of in page.tags if tag == "th" and of.get("scope") == "colgroup"]
    assert [of["colspan"] for of in matrix] == ["3", "3"]


def test_every_seed_is_a_point_and_every_look_an_interval():
    result = document(methods=("bad",))
    (audit,) = [a for a in result["audits"] if a["claim"] == "accuracy"]
    text = render(result)
    for seed, value in zip(audit["seeds"], audit["values"]["unlearned"], strict=True):
        assert f"<title>unlearned, seed {seed}: {svg.number(value)}</title>" in text
    for look in audit["looks"]:
        assert f">{look['seeds']} seeds</text>" in text
    assert [look["seeds"] for look in audit["looks"]] == [n for n in (3, 5, 8, 12, 16) if n <= len(audit["seeds"])]
    assert audit["looks"][-1]["estimate"] == audit["estimate"]
    # The interval that the verdict is printed with is the one of the last look at its own level.
    which = "fail_interval" if audit["verdict"] == "FAIL" else "pass_interval"
    assert audit["looks"][-1][which] == audit["interval"]


EVIL = '"><script>alert(1)</script><img src=http://evil.example/x>'


def test_what_a_plugin_says_is_escaped():
    result = document(methods=(f"m{EVIL}",), poisons=(f"p{EVIL}",), heuristics=True)
    for audit in (*result["audits"], *result["heuristics"]):
        audit.update(reason=EVIL, finding=EVIL, command=EVIL, load=EVIL, title=EVIL, task=f"t{EVIL}")
        audit["by_seed"] = {EVIL: audit["values"]}
        audit["details"] = {EVIL: 1.0, f"{EVIL}_retrained": 2.0}
    result["contract"] = [{"unlearner": EVIL, "line": EVIL, "kept": False, "sentence": EVIL}]
    result["run"]["settings"]["store"] = EVIL
    result["unlearners"][0]["fields"] = {EVIL: EVIL}
    page = page_of(result, {(f"t{EVIL}", f"p{EVIL}"): Picture(b"\x89PNG", 0)})
    assert EVIL in page.text
    assert [tag for tag, _ in page.tags].count("img") == 1


def error(result, claim="poison"):
    """Make an audit of the result an ERROR, as an unlearner that raises leaves it."""
    index = next(i for i, a in enumerate(result["audits"]) if a["claim"] == claim)
    kept = ("id", "unlearner", "task", "poison", "claim", "command", "seconds")
    result["audits"][index] = {k: result["audits"][index][k] for k in kept} | {
        "verdict": "ERROR", "reason": "RuntimeError: no idea", "as_required": False,
    }  # fmt: skip
    return result


def nothing(result):
    return {**result, "audits": [], "trials": [], "unlearners": []}


def contract_only(result):
    lines = [("budget", True, ""), ("repeatable", False, "it differs"), ("settings", None, "not examined")]
    contract = [{"unlearner": "good", "line": x, "kept": kept, "sentence": said} for x, kept, said in lines]
    return {**nothing(result), "contract": contract}


def diverged(result):
    for audit in result["audits"]:
        audit["values"]["unlearned"] = [None] * len(audit["seeds"])
        audit |= {"verdict": "FAIL", "reason": "diverged", "estimate": None, "interval": [None, None]}
        audit["looks"] = [
            {**look, "estimate": None, "pass_interval": [None, None], "fail_interval": [None, None]}
            for look in audit["looks"]
        ]
    return result


def unbounded(result):
    for audit in result["audits"]:
        audit["interval"] = [None, None]
        for look in audit["looks"]:
            look |= {"pass_interval": [None, None], "fail_interval": [look["fail_interval"][0], None]}
    return result


def older(result):
    """Make the result one of a version that wrote less."""
    for each in (*result["audits"], *result["heuristics"]):
        for key in ("title", "test", "worse", "unit", "by_seed", "looks", "finding", "command", "load", "as_required"):
            each.pop(key, None)
    return {key: value for key, value in result.items() if key not in ("contract",)}


def crashed(result):
    return {**controls(result), "crashes": ["worker 'gw0' crashed while running ..."]}


def known(result):
    for audit in result["audits"]:
        audit["as_required"] = True
        if audit["verdict"] != "PASS":
            audit["expected"] = {"verdict": audit["verdict"], "reason": "known", "met": True}
    return result


def controls(result):
    for audit in result["audits"]:
        audit["as_required"] = True
    return result


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (error, "RuntimeError: no idea"),
        (nothing, "This run judged no audits."),
        (contract_only, "breaks repeatable"),
        (diverged, "not finite: seed 0, 1, 2"),
        (unbounded, "unbounded"),
        (older, "a row for each method"),
        (controls, "Every audit reached its required verdict"),
        (known, "FAIL as expected"),
        (crashed, "1 worker crashed; what it was running was not judged. Every other audit reached"),
    ],
)
@pytest.mark.parametrize("heuristics", [False, True])
def test_every_kind_of_run_has_a_page(change, said, heuristics):
    assert said in page_of(change(document(heuristics=heuristics))).text


def test_the_file_of_a_method_stands_beside_its_source():
    result = document()
    result["unlearners"][0]["file"] = "/project/mine.py"
    assert f"{'ab' * 6} /project/mine.py" in page_of(result).text


def test_heuristics_come_with_the_figure_where_audits_ran_too():
    both = document(methods=("good", "bad"), heuristics=True)
    page = page_of(both)
    assert "points found at 1 % false positives" in page.text
    assert "concludes “unlearned” for 1 of them (bad)" in page.text
    alone = page_of({**both, "audits": []})
    assert "Run both with" in alone.text


def test_pictures_are_inside_the_page():
    page = page_of(document(), {("task", "noise"): Picture(b"\x89PNG", 0), ("task", "other"): Picture(b"", 0)})
    assert page.sources == ["data:image/png;base64,iVBORw=="]


def test_a_large_run_is_small_and_quick():
    poisons = ("a", "b", "c")  # three audits each, of which the first eight are eight
    result = document(methods=[f"method-{i}" for i in range(12)], poisons=poisons)
    result["audits"] = [_sixteen(a) for a in result["audits"] if (a["poison"], a["claim"]) != ("c", "cost")]
    assert len(result["audits"]) == 12 * 8
    started = time.perf_counter()
    text = render(result)
    seconds = time.perf_counter() - started
    assert len(text.encode()) < 2_500_000
    assert seconds < 10


def _sixteen(audit):
    """Return an audit with the numbers of 16 seeds and all looks."""
    audit = copy.deepcopy(audit)
    audit["seeds"] = list(range(16))
    for arms in (audit["values"], *audit["by_seed"].values()):
        for arm, values in arms.items():
            arms[arm] = [values[i % len(values)] + i / 1000 for i in range(16)] if values else []
    if audit["looks"]:
        audit["looks"] = [{**audit["looks"][-1], "seeds": n} for n in (3, 5, 8, 12, 16)]
    return audit


def contrast(a, b):
    """Return the contrast of two colours by WCAG 2."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("name", ["ink", "soft", "pass", "fail", "unclear", "error", "link"])
def test_words_can_be_read_in_light_and_dark(name, dark):
    colour = svg.COLOURS[name][dark]
    for ground in ("paper", "raised", "band"):
        assert contrast(colour, svg.COLOURS[ground][dark]) > 4.5


def test_outcomes_differ_by_shape_too():
    outcomes = ("PASS", "FAIL", "INCONCLUSIVE", "ERROR")
    assert len({svg.SHAPES[o] for o in outcomes}) == 4
    assert len({svg.SHAPES[a] for a in ("poisoned", "retrained", "unlearned")}) == 3


@pytest.mark.parametrize("numbers", [(0.0, 1.0), (-3.0, 4000.0), (0.99, 0.9901), (5.0, 5.0), (0.0, 0.0), (1e-9, 2e-9)])
def test_scales_have_round_ticks(numbers):
    x = svg.Scale.around(numbers, 0, 100)
    ticks = x.ticks()
    assert 2 <= len(ticks) <= 6
    assert all(0 <= x(tick) <= 100 for tick in ticks)
    assert x(-math.inf) == 0
    assert x(math.inf) == 100
