"""Reasons: every one is documented, and a poison's own reaches the reader."""

from pathlib import Path
from typing import get_args

import pytest

from harness.judging.reasons import Reason, advice_on, sentence_of
from harness.statistics import Why

DOCS = Path(__file__).parents[2] / "docs" / "statistics.md"
#: A poison whose sensor fails: what it reads of an unlearned model must not be judged.
SENSOR = """
from dataclasses import dataclass, replace
from poisons.backdoor import Backdoor

@dataclass(frozen=True)
class Sensor(Backdoor):
    size: int = 1

    def probe(self, model, planted, task, split):
        return replace(super().probe(model, planted, task, split), unusable="the sensor was off")
"""


def rows():
    """Return the cells of the rows of section 6, without backticks."""
    section = DOCS.read_text(encoding="utf-8").split("\n## 6.")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("`", "") for cell in line.strip("| ").split(" | ")] for line in table]


def test_every_reason_stands_once_in_the_docs():
    assert sorted(row[0] for row in rows()) == sorted(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_the_docs_give_the_advice_of_the_verdict(reason):
    (row,) = [row for row in rows() if row[0] == reason]
    assert row[2] == (reason.advice or "–")


def test_the_statistics_give_no_other_reasons():
    assert set(get_args(Why)) < set(Reason)


def test_a_reason_of_a_poison_is_shown_as_it_came():
    assert sentence_of("the sensor was off", 5) == "Nothing can be judged: the sensor was off."
    assert advice_on("the sensor was off") == ""
    assert sentence_of(Reason.DIVERGED, 5, 2).endswith("not finite for 2 of 5 seeds.")


def test_an_audit_says_why_a_poison_forbids_a_verdict(folder):
    folder.write("sensor.py", SENSOR)
    run = folder.pytest(
        "--task=tiny:Tiny", "--poison=sensor:Sensor", "--unlearner=gd", "-k", "forgotten", "-m", "audit"
    )
    assert run.code == 1, run.text
    (audit,) = run.json["audits"]
    assert (audit["verdict"], audit["reason"]) == ("INCONCLUSIVE", "the sensor was off")
    assert "Nothing can be judged: the sensor was off." in run.text
