"""What ``ci/benchmarks/text_metrics.py`` counts as a wrong conclusion of a metric."""

import importlib.util
from pathlib import Path

import pytest

from harness import registry
from harness.cells import Cell
from harness.judging.claims import CLAIMS, Limits
from harness.judging.verdict import Evidence

FILE = Path(__file__).parents[2] / "ci" / "benchmarks" / "text_metrics.py"
R = (0.10, 0.12, 0.11, 0.09, 0.10)
AGAIN = (0.11, 0.10, 0.12, 0.10, 0.09)
P = (0.70, 0.74, 0.71, 0.69, 0.73)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("text_metrics", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def criterion():
    cell = Cell(*(registry.resolve(*of) for of in (
        ("unlearner", "retrain"), ("task", "causal-lm"), ("poison", "false-fact"),
    )))  # fmt: skip
    return CLAIMS["memorisation"].criteria(cell, Limits(0.2, 0.1))[0]


@pytest.mark.parametrize(
    ("judged", "oracle", "said"),
    [
        (AGAIN, AGAIN, "unlearned"),
        (P, AGAIN, "not unlearned"),
        (P, P, "not unlearned"),  # a second retraining that differs from the first: its own gate fails
        (AGAIN, P, "oracle-fails"),
    ],
)
def test_conclusions_are_in_the_words_of_the_table(script, criterion, judged, oracle, said):
    assert script.concluded(criterion, Evidence(P, R, judged, oracle, ()), 5) == said


def test_three_seeds_pass_nothing(script, criterion):
    evidence = Evidence(P, R, AGAIN, AGAIN, ()).first(3)
    assert script.concluded(criterion, evidence, 3) == "need-more-seeds"
    assert script.concluded(criterion, evidence.of(P[:3]), 3) == "not unlearned"


def test_wrong_conclusions_are_counted(script):
    def row(again, nothing, oracle):
        arms = {"P": (0.0, 0.001), "R": (0.7, 0.3), "R'": oracle}
        of = {"size": 2, "poison": "false-fact", "metric": "forget-quality"}
        return of | {"retrained_again": again, "doing_nothing": nothing} | arms

    (entry,) = script.table_of(
        [
            row("not unlearned", "unlearned", (0.9, 0.04)),
            row("unlearned", "not unlearned", (0.2, 0.06)),
            row("no-bite", "no-bite", (0.01, 0.5)),
        ]
    )
    assert entry["blocks"] == 3
    assert [entry[who]["wrong"] for who in ("retrained_again", "doing_nothing")] == [1, 1]
    assert entry["retrained_again"]["interval"] == pytest.approx((0.0084, 0.9057), abs=1e-4)
    assert entry["above_5_percent"] == {"P": 0, "R": 6, "R'": 4, "of": 6}


def test_studies_are_drawn_from_all_seeds(script, monkeypatch):
    monkeypatch.setattr(script, "RUNS", 50)
    of = {"size": 5, "poison": "text-canaries", "metric": "memorisation"}
    shown = {"P": P, "R": R, "R'": AGAIN}
    (found,) = script.resampled([of | shown, of | shown | {"R'": R}], 5)
    assert found["seeds"] == 10
    assert found["retrained_again"] == {"unlearned": 1.0}
    assert found["doing_nothing"] == {"not unlearned": 1.0}
    (blind,) = script.resampled([of | {"P": R, "R": AGAIN, "R'": R}], 5)
    assert "unlearned" not in blind["doing_nothing"]
    assert blind["retrained_again"]["no-bite"] > 0.9
