"""What a drill says, from the JSON result of its audits."""

from __future__ import annotations

import pytest

from harness.report.drilling import drill_lines

SOURCE = "source:column=vendor,value=acme"


def entry(poison, claim="poison", verdict="INCONCLUSIVE", **more):
    return {
        "id": f"t::{claim}[{poison}]", "unlearner": "mine.py:remove", "task": "mine.py", "poison": poison,
        "discovery": 1.0, "claim": claim, "verdict": verdict, "seeds": [0, 1, 2], "text": "", "details": {}, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        (
            {"verdict": "PASS", "estimate": 0.03, "interval": [-0.05, 0.11]},
            "the removal leaves 3 % of what these rows taught (interval −5 % to 11 %, n = 3): PASS.",
        ),
        ({"verdict": "PASS", "estimate": -0.03, "interval": [-0.1, 0.1]}, "leaves nothing of what these rows taught"),
        ({"verdict": "FAIL", "estimate": -0.6, "interval": [-0.9, -0.3]}, "moves the model beyond retraining, by 60 %"),
        (
            {"estimate": 0.4, "interval": [None, None]},
            "the removal leaves 40 % of what these rows taught (interval unbounded, n = 3): INCONCLUSIVE.",
        ),
        (
            {"verdict": "FAIL", "test": "exact-null", "estimate": -1.2, "interval": [-1.9, -0.5]},
            "the model still knows what was planted (−1.2 sd from retraining, interval −1.9 sd to −0.5 sd, n = 3): "
            "FAIL.",
        ),
        ({"reason": "no-bite", "estimate": 0.2, "interval": [0, 1]}, "were not found to differ (n = 3)."),
        ({"verdict": "ERROR", "reason": "TypeError: no 'fit'"}, "training set): not judged: TypeError: no 'fit'."),
        (
            {"verdict": "ERROR", "reason": "harness.api.ContractError: the task ignores the seed; mend it."},
            "Source vendor=acme (34 rows, 8 % of the training set): not judged: the task ignores the seed; mend it.",
        ),
    ],
)
def test_a_source_has_a_line(audit, said):
    *_, line = drill_lines({"audits": [entry(SOURCE, **audit)]}, SOURCE, "vendor=acme", 34, 400)

    assert said in line


def test_what_cannot_be_judged_comes_first_with_the_command_that_helps():
    audits = [entry("table-backdoor", reason="no-bite"), entry(SOURCE, verdict="PASS", estimate=0.0, interval=[0, 0.1])]
    first, *_ = drill_lines({"audits": audits}, SOURCE, "vendor=acme", 34, 400)

    assert first.startswith("table-backdoor on mine.py: nothing can be judged (no-bite); see pytest-unlearning plan ")


def test_the_source_comes_first_and_poisons_are_named_in_words():
    specs = ["gaussian:fraction=0.1", SOURCE, "source:fraction=0.1,mislabelled=true", "source", "confusion:first=2"]
    audits = [entry(spec, verdict="PASS", estimate=0.0, interval=[0, 0.1]) for spec in specs]

    lines = [line.partition(":")[0] for line in drill_lines({"audits": audits}, SOURCE, "vendor=acme", 34, 400)]

    assert lines == [
        "Source vendor=acme (34 rows, 8 % of the training set)", "With random noise on the inputs (gaussian",
        "With wrong labels (source", "With other rows (source)", "With confusion",
    ]  # fmt: skip
