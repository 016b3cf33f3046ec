"""What a search prints and writes of its fronts, and the picture of several."""

import json
import math
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from types import SimpleNamespace

import pytest

from conftest import ROOT
from harness import registry
from harness.report.fronts import found_of, front_lines, head_of, setting_line, spec_lines
from harness.studies.fronts import MEAN, Score, Tried, choose
from harness.studies.tuning import Tuned

POISONS = [SimpleNamespace(id=name) for name in ("backdoor", "gaussian")]
SEEDS = (range(1000, 1005), range(1005, 1015))
MARGIN, BUDGET = 0.01, 0.1


def tried(number, backdoor, gaussian, accuracy, *, final=False, given_up="", z=0.5):
    used = {"examples": 0.1}
    scores = {
        "backdoor": Score({"success": backdoor}, {}, accuracy, 0.001, used),
        "gaussian": Score(
            {"mean": gaussian, "second moment": 0.0}, {"second moment": z}, accuracy + 0.001, 0.001, used
        ),
    }
    setting = registry.resolve("unlearner", f"gd:lr={0.1 + number / 100:g}")
    return Tried(number, final, setting, [scores], 1 if given_up else 5, given_up, {"U": 10, "P": 1}, 30.0)


def tuned(spec="gd"):
    every = [
        tried(0, 0.9, 0.8, -0.001),
        tried(1, 0.1, 0.3, -0.008),
        tried(2, 0.0, 0.1, -0.018),
        tried(3, 0.0, 0.0, -0.3, given_up="far from the front after 1 seed"),
        Tried(4, False, registry.resolve("unlearner", "gd:lr=9"), [], 0, "RuntimeError: no", {}, 1.0),
        tried(5, math.inf, 0.0, -math.inf),
    ]
    finals = [tried(1, 0.2, 0.35, -0.007, final=True, z=-1.2), tried(2, 0.02, 0.2, -0.02, final=True)]
    chosen, rule = choose(finals, MARGIN, BUDGET)
    method = registry.resolve("unlearner", spec)
    task = SimpleNamespace(id="digits-cnn")
    return Tuned(method, task, POISONS, every, finals, chosen, rule, {"lr": "upper"}, MARGIN, BUDGET)


def document(*found):
    head = head_of("digits-cnn", [poison.id for poison in POISONS], 6, SEEDS, BUDGET, MARGIN)
    return {**head, "methods": [found_of(each) for each in found]}


def test_the_fronts_hold_what_was_found():
    written = json.loads(json.dumps(document(tuned()), allow_nan=False))
    (method,) = written["methods"]
    joint = {point["floor"]: point.get("number") for point in method["fronts"][MEAN]}
    assert joint == {-0.005: 0, -0.01: 1, -0.015: 1, -0.02: 2, -0.03: 2}
    assert [p["left"] for p in method["fronts"]["backdoor"]] == [0.9, 0.1, 0.1, 0.0, 0.0]
    assert [p["left"] for p in method["fronts"]["gaussian"]] == [0.8, 0.3, 0.3, 0.1, 0.1]
    assert "again" not in method["fronts"][MEAN][0]  # it was no finalist
    again = {"left": 0.275, "accuracy": -0.007, "error": 0.001, "cost": 0.1, "shares": {"examples": 0.1}}
    assert method["fronts"][MEAN][1]["again"] == again
    assert method["chosen"] == "gd:lr=0.11"
    assert method["tried"][5]["left"] is None
    assert [each["number"] for each in method["tried"]] == list(range(6))


def test_the_table_is_read_without_the_documentation():
    found = document(tuned())
    lines = front_lines(found["methods"][0], found)
    assert lines[:6] == [
        "least poison left if accuracy is at least  −0.5 pp  −1.0 pp  −1.5 pp  −2.0 pp  −3.0 pp",
        "  mean of all poisons, seeds 1000 to 1004     0.85     0.20     0.20     0.05     0.05",
        "    the same settings, seeds 1005 to 1014        –     0.28     0.28     0.11     0.11",
        "    their accuracy there                         –  −0.7 pp  −0.7 pp  −2.0 pp  −2.0 pp",
        "  backdoor, seeds 1000 to 1004                0.90     0.10     0.10     0.00     0.00",
        "  gaussian, seeds 1000 to 1004                0.80     0.30     0.30     0.10     0.10",
    ]
    assert "too good: each is the least of up to 6 settings on 5 seeds" in lines[6]
    rest = "\n".join(lines[7:])
    assert "chosen: gd:lr=0.11, the least poison left" in rest
    assert "mean 0.35, second moment at least 0.00 (score −1.2 sd); accuracy −0.6 pp" in rest
    assert "cost 10 %, the best of 2 finalists on these seeds, so a little too good; audit it" in rest
    assert "warning: lr lies at the upper end of its range" in rest
    assert "6 settings, 2 of them given up (1 seed in all); 70 unlearnings and 7 trainings" in rest
    assert "4 min of all processes together" in rest


def test_a_poison_of_which_nothing_is_known_is_warned_of():
    known, final = tuned(), tried(1, 0.2, 0.35, -0.007, final=True)
    scores = {**final.scores, "gaussian": replace(final.scores["gaussian"], traces={})}
    final = replace(final, history=[scores])
    found = document(replace(known, finals=[final], chosen=final))
    text = "\n".join(front_lines(found["methods"][0], found))
    assert "warning: gaussian does not stand out in the poisoned models" in text
    assert "poison left 0.20" in text
    assert "warning: gaussian" not in "\n".join(front_lines(document(known)["methods"][0], document(known)))


def test_a_floor_that_nothing_reaches_is_empty():
    found = document(replace(tuned(), tried=[tried(0, 0.1, 0.1, -0.022)]))
    assert "–        –        –        –     0.10" in front_lines(found["methods"][0], found)[1]


def test_the_chosen_settings_are_read_back(tmp_path):
    file = tmp_path / "tuned.txt"
    file.write_text(spec_lines(document(tuned(), tuned("short"))))
    assert [each.id for each in registry.resolve_all("unlearner", [f"@{file}"])] == ["gd:lr=0.11"]
    assert "6 settings of each method on seeds 1000 to 1004, the finalists on 1005 to 1014" in file.read_text()
    assert "the best of 2 finalists on these seeds" in file.read_text()


def test_a_setting_has_a_line():
    (method,) = document(tuned())["methods"]
    lines = [" ".join(setting_line(each).split()) for each in method["tried"]]
    assert lines[0] == "poison left 0.85, accuracy −0.1 pp, cost 10 % gd:lr=0.1"
    assert lines[3].endswith("cost 10 %; given up: far from the front after 1 seed gd:lr=0.13")
    assert lines[4] == "given up: RuntimeError: no gd:lr=9"
    assert lines[5] == "poison left ?, accuracy ?, cost 10 % gd:lr=0.15"


# ---- the picture


@pytest.fixture
def draw(tmp_path, monkeypatch, capsys):
    """Runs the script on documents; returns the picture and the table."""

    def run(*documents):
        files = [tmp_path / f"{i}.json" for i in range(len(documents))]
        for file, each in zip(files, documents, strict=True):
            file.write_text(json.dumps(each))
        picture = tmp_path / "fronts.svg"
        monkeypatch.setattr(sys, "argv", ["fronts.py", *map(str, files), "--figure", str(picture)])
        runpy.run_path(str(ROOT / "ci" / "benchmarks" / "fronts.py"), run_name="__main__")
        return ElementTree.fromstring(picture.read_text()), capsys.readouterr().out

    return run


def test_the_picture_has_a_panel_for_each_method(draw):
    root, table = draw(document(tuned()), document(tuned("short"), tuned("ga")))
    space = "{http://www.w3.org/2000/svg}"
    assert [t.text for t in root.iter(f"{space}text") if t.get("class") == "strong"][1:] == ["gd", "short", "ga"]
    assert len(list(root.iter(f"{space}circle"))) == 3 * 3  # what was given up, or diverged, is not drawn
    assert len([p for p in root.iter(f"{space}path") if p.get("class") == "c-fail s"]) == 3
    assert "gd: 0.28 left at −0.7 pp." in root.find(f"{space}desc").text
    assert "| `gd` | 0.85 | 0.20, 0.28 | 0.20, 0.28 | 0.05, 0.11 | 0.05, 0.11 | `gd:lr=0.11` | 0.28, −0.7 pp |" in table


def test_one_method_with_several_fields_is_told_apart(draw):
    root, table = draw(document(tuned("gd"), tuned("gd:epochs=2")))
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text") if t.get("class") == "strong"][1:]
    assert titles == ["gd", "gd:epochs=2"]
    assert "| `gd:epochs=2` |" in table


def test_a_chosen_setting_that_diverged_is_drawn_without_numbers(draw):
    diverged = tried(5, math.inf, 0.0, -math.inf, final=True)
    root, table = draw(document(replace(tuned(), finals=[diverged], chosen=diverged)))
    assert "gd: ? left at ?." in root.find("{http://www.w3.org/2000/svg}desc").text
    assert "`gd:lr=0.15` | ?, ? |" in table


def test_a_method_that_two_files_have_is_refused(draw):
    with pytest.raises(SystemExit, match="more than one of the files has gd: give each method once"):
        draw(document(tuned(), tuned("ga")), document(tuned()))


def test_searches_that_differ_are_not_drawn_together(draw):
    with pytest.raises(SystemExit, match="the searches differ in settings: their fronts cannot be compared"):
        draw(document(tuned()), {**document(tuned("ga")), "settings": 7})
