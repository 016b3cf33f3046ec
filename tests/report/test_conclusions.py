"""What is concluded of a method whose poisons were audited at several strengths."""

from __future__ import annotations

import copy

import pytest
from documents import document
from test_page import page_of

from harness.report.conclusions import conclusion, poisons_in_words
from harness.report.document import methods
from harness.report.tables import methods_that_pass, table

SMALL, LARGE = "gaussian:fraction=0.025", "gaussian"
FRACTIONS = {SMALL: 0.025, LARGE: 0.1, "gaussian:fraction=0.015": 0.015}


def result(*poisons, leaves=(), method="good"):
    """Return a result of one method that leaves some of the poisons, as the fixture writes it."""
    made = document(methods=("good", "bad"), poisons=poisons)
    bad = {a["poison"]: a for a in made["audits"] if (a["unlearner"], a["claim"]) == ("bad", "poison")}
    audits = []
    for audit in made["audits"]:
        if audit["unlearner"] != "good":
            continue
        source = bad[audit["poison"]] if audit["poison"] in leaves and audit["claim"] == "poison" else audit
        fields = {"fraction": FRACTIONS.get(audit["poison"], 0.1), "sd": 0.5}
        audits.append(copy.deepcopy(source) | {"unlearner": method, "poison_fields": fields})
    return {**made, "audits": audits, "trials": []}


def concluded(*poisons, leaves=()):
    (method,) = methods(result(*poisons, leaves=leaves))
    return conclusion(method, 0.2)


def test_a_poison_at_one_strength_goes_by_its_id():
    text = concluded(SMALL, "door", leaves=[SMALL])
    assert text == "Leaves gaussian:fraction=0.025 in the model; removes door."


@pytest.mark.parametrize(
    ("leaves", "sentence"),
    [
        ([SMALL], "Leaves gaussian at fraction 0.025 in the model; removes gaussian at fraction 0.1 and door."),
        ([LARGE], "Leaves gaussian at fraction 0.1 in the model; removes gaussian at fraction 0.025 and door."),
        ([SMALL, LARGE], "Leaves gaussian at every strength in the model; removes door."),
        (["door"], "Leaves door in the model; removes gaussian at every strength."),
    ],
)
def test_the_strengths_at_which_a_poison_is_left_are_named(leaves, sentence):
    assert concluded(SMALL, LARGE, "door", leaves=leaves) == sentence


def test_several_of_many_strengths_are_named_one_by_one():
    text = concluded("gaussian:fraction=0.015", SMALL, LARGE, leaves=["gaussian:fraction=0.015", LARGE])
    assert "Leaves gaussian at fraction 0.015 and at fraction 0.1 in the model" in text


def test_only_fields_that_differ_are_a_strength():
    audits = [
        {"poison": "p:a=1", "poison_fields": {"a": 1, "b": "x", "c": 0.5}},
        {"poison": "p:a=2,b=y", "poison_fields": {"a": 2, "b": "y", "c": 0.5}},
    ]
    assert poisons_in_words(audits[1:], audits) == ["p at a 2, b y"]


def test_dotted_names_have_strengths_too():
    audits = [{"poison": f"mine:Noise:share={x}", "poison_fields": {"share": x}} for x in (0.1, 0.2)]
    assert poisons_in_words(audits[:1], audits) == ["mine:Noise at share 0.1"]
    assert poisons_in_words(audits, audits) == ["mine:Noise at every strength"]


def test_results_from_before_strengths_were_written_name_ids():
    audits = [{"poison": SMALL}, {"poison": LARGE}]
    assert poisons_in_words(audits[:1], audits) == [f"gaussian at {SMALL}"]


def test_a_method_that_fails_one_strength_does_not_pass_everything():
    both = [result(SMALL, LARGE, method="half", leaves=[SMALL]), result(SMALL, LARGE, method="whole")]
    found = methods({"audits": [audit for each in both for audit in each["audits"]]})
    assert "1 of 2 methods pass everything: whole (" in methods_that_pass(found, 0.05, "quick")


def test_the_table_has_a_row_for_each_strength():
    lines = table(methods(result(SMALL, LARGE, leaves=[SMALL])))
    assert [line.split()[:2] for line in lines[1:3]] == [[SMALL, "FAIL"], [LARGE, "PASS"]]


def test_the_page_keeps_the_strengths_of_a_poison_together_the_worst_poison_first():
    made = result("backdoor:fraction=0.025", "backdoor", SMALL, LARGE, leaves=[LARGE])
    page = page_of(made)
    order = [page.text.index(f" {name} ", page.text.index("a row for each method")) for name in (SMALL, LARGE)]
    doors = [page.text.index(f" {name} ", page.text.index("a row for each method")) for name in ("backdoor",)]
    assert max(order) < min(doors)
