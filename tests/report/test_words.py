"""What people read: every reason has its sentence, and numbers come out as numbers."""

from __future__ import annotations

import json
import math

import pytest

from harness.api import Measure, Outcome
from harness.judging.verdict import Verdict
from harness.report.document import finite_tree, plain, write_json
from harness.report.tables import methods_that_pass, reference_lines, table
from harness.report.words import duration, explain, forecast_lines, manner, percent, points

POISON = Measure("left", "trace of the noise", worse="higher", test="retention")
ACCURACY = Measure("accuracy", "test accuracy", worse="lower", test="non-inferiority", unit="%")
COST = Measure("cost", "compute", worse="higher", test="budget", unit="%")


def verdict(outcome=Outcome.FAIL, reason="outside-margin", measure=POISON, **changes):
    values = {
        "unlearner": "mine", "task": "digits", "poison": "noise", "measure": measure, "outcome": outcome,
        "reason": reason, "estimate": 0.91, "interval": (0.84, 0.997), "margin": 0.2, "p_pass": 0.9999, "p_fail": 1e-4,
        "p_bite": 1e-6, "level": 0.005, "seeds": (0, 1, 2),
        "values": {"poisoned": (1.0,) * 3, "retrained": (0.0,) * 3, "unlearned": (0.9,) * 3}, "details": {},
    }  # fmt: skip
    return Verdict(**(values | changes))


def said(v):
    return explain(v, "pytest here")


def test_a_failed_poison_audit_in_four_facts():
    text = said(verdict(details={"worst_seed": 2.0}))
    assert (
        "Trace of the noise: 91 % of the poison's effect is left (99 % interval 84 % … 100 %, tolerance 20 %)." in text
    )
    assert "p(→ FAIL) = 0.0001 (level 0.005 at this look)" in text
    assert "n = 3 seeds, worst 2" in text
    assert "reproduce: pytest here" in text


def test_lost_accuracy_is_said_in_points():
    text = said(verdict(measure=ACCURACY, estimate=-0.58, interval=(-0.6, -0.5), margin=0.01))
    assert (
        "Test accuracy differs from retraining by −58.0 pp (99 % interval −60.0 pp … −50.0 pp; at most 1.0 pp" in text
    )


def test_a_budget_has_no_p_value():
    text = said(
        verdict(measure=COST, reason="over-budget", estimate=1.0, margin=0.1, p_pass=None, p_fail=None, level=None)
    )
    assert "Unlearning used 100 % of the compute of retraining; the budget is 10 %." in text
    assert "p(" not in text


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("nonfinite-reference", "a poisoned or retrained model diverged"),
        ("oracle-fails", "retraining itself fails this audit"),
        ("oracle-not-pass", "retraining has not passed this audit"),
        ("identity-passes", "the poisoned model itself passes"),
        ("wrecked-passes", "a model that was never trained passes"),
        ("dose-not-monotone", "not judged in the order of their poison"),
        ("null-not-exact", "far from N(0, 1)"),
        ("masked-gradients", "hides from this probe"),
        ("no-bite", "the poison shows no effect in 3 seeds"),
        ("too-few-seeds", "3 seeds are too few"),
    ],
)
def test_every_reason_has_a_sentence(reason, sentence):
    assert sentence in said(verdict(Outcome.INCONCLUSIVE, reason, estimate=math.nan, interval=(-math.inf, math.inf)))


def test_divergence_says_how_many_of_how_many():
    values = {"poisoned": (1.0,) * 3, "retrained": (0.0,) * 3, "unlearned": (0.1, math.nan, math.nan)}
    assert "not finite for 2 of 3 seeds" in said(verdict(reason="diverged", values=values))


@pytest.mark.parametrize(
    ("needed", "sentence"),
    [
        (12.0, "about 12 seeds would (power .8); see --audit-seeds."),
        (40.0, "about 40 seeds would (power .8), more than the plan has"),
        (math.inf, "more than 1000 seeds would (power .8), more than the plan has"),
    ],
)
def test_what_is_undecided_says_how_many_seeds_would_decide(needed, sentence):
    text = said(verdict(Outcome.INCONCLUSIVE, "need-more-seeds", details={"seeds_to_decide": needed}))
    assert sentence in text


@pytest.mark.parametrize("needed", [70.0, 15.0])
def test_what_was_given_up_says_why(needed):
    text = said(verdict(Outcome.INCONCLUSIVE, "futile", details={"seeds_to_decide": needed, "futility": 0.2}))
    assert (
        f"about {needed:.0f} seeds would (power .8), the plan's 16 with a probability below 0.2, so it was given up"
        in text
    )
    assert "--audit-futility=0 goes on" in text


def test_an_unbounded_interval_is_not_printed_as_infinity():
    assert "interval unbounded" in said(verdict(interval=(-math.inf, math.inf)))


def test_residue_is_worded_as_a_proof_of_failure():
    details = {"mu_lower": 1.72, "eps_lower": 3.0, "residue_confidence": 0.95}
    assert "mu ≥ 1.7, epsilon ≥ 3 at 95 % (proves failure, never deletion)" in said(verdict(details=details))


def test_plain_values_are_finite_and_survive_json():
    odd = plain(verdict(estimate=math.nan, interval=(-math.inf, math.inf)))
    assert odd["estimate"] is None
    assert odd["interval"] == [None, None]
    json.dumps(finite_tree({"a": {"b": math.inf, "c": "text", "d": 1}}), allow_nan=False)


def entry(unlearner, claim, outcome, **more):
    numbers = {"estimate": 0.1, "interval": [0.0, 0.2], "p_pass": 0.001, "seeds": [0, 1, 2, 3, 4]}
    return {"unlearner": unlearner, "task": "t", "poison": "p", "claim": claim, "verdict": outcome} | numbers | more


def test_the_table_shows_the_worst_of_a_cell_and_the_seeds_that_decided_it():
    audits = [entry("a", "poison", "FAIL", seeds=[0, 1, 2]), entry("a", "accuracy", "PASS"), entry("a", "cost", "PASS")]
    header, row = table(audits)
    assert header.split() == ["a", "on", "t", "verdict", "poison", "left", "accuracy", "cost"]
    assert row.split()[:3] == ["p", "FAIL", "n=3"]
    assert "0.10 [0.00, 0.20] FAIL" in row


def test_an_error_is_worse_than_a_failure():
    audits = [entry("a", "poison", "FAIL"), {**entry("a", "cost", "ERROR"), "estimate": None}]
    assert table(audits)[1].split()[1] == "ERROR"


def test_methods_are_named_together_only_with_holm():
    def both(name, p):
        return [entry(name, "poison", "PASS", p_pass=p), entry(name, "accuracy", "PASS", p_pass=p / 2)]

    audits = [*both("a", 0.0004), *both("b", 0.007), *both("c", 0.011)]
    said = methods_that_pass(audits, 0.05)  # times 4 looks and Holm: .0048, .056, .056
    assert said.startswith("1 of 3 methods pass everything")
    assert said.endswith(": a")
    assert methods_that_pass(both("a", 0.001), 0.05) is None


def test_a_method_that_fails_once_is_not_named_whatever_its_p():
    audits = [entry("a", "poison", "PASS"), entry("a", "cost", "FAIL", p_pass=None), entry("b", "poison", "PASS")]
    assert methods_that_pass(audits, 0.05).endswith(": b")


def test_spans_shares_and_differences_read_well():
    assert [duration(s) for s in (0.2, 59, 200, 8000, 200_000)] == ["1 s", "59 s", "3 min", "2 h", "2 days"]
    assert percent(-0.3) == "−30 %"
    assert points(0.001) == "+0.1 pp"
    assert percent(math.nan) == "?"


def test_json_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "r.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": math.nan})
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_forecast_says_what_comes_on_top():
    cost = {"seeds": 5, "trainings": 15, "unlearnings": 5, "seconds": 60.0, "bytes": 2e6, "crafted": []}
    assert forecast_lines([cost], 1) == [
        "if every verdict is clear (5 seeds): 15 trainings and 5 unlearnings, about 60 s on 1 process, 2.0 MB of disk"
    ]
    (line,) = forecast_lines([{**cost, "crafted": ["targeted"]}], 2)
    assert line.endswith("about 30 s on 2 processes, 2.0 MB of disk; crafting targeted, with surrogates, comes on top")


def test_a_retrained_model_that_diverged_leaves_the_table_standing():
    short = {"poison": "INCONCLUSIVE", "accuracy_difference": None, "gain": None, "cost": 0.1, "seeds": 3}
    lines = reference_lines([{"references": {"short": short}}])
    assert "accuracy ?" in lines[0]


def test_controls_are_no_methods_that_pass():
    passing = {"unlearner": "retrain", "verdict": "PASS", "p_pass": 1e-6}
    failing = {"unlearner": "identity", "verdict": "FAIL", "p_pass": 1.0}
    assert methods_that_pass([{**passing, "control": True}, {**failing, "control": True}], 0.05) is None
    assert methods_that_pass([passing, failing], 0.05).startswith("1 of 2 methods")


def test_known_failures_and_controls_are_told_apart():
    failed = {"verdict": "FAIL", "as_required": True}
    assert manner(failed) == "as it must"
    assert manner({**failed, "expected": {"verdict": "FAIL"}}) == "as expected"
    assert manner({**failed, "as_required": False}) == manner({"verdict": "PASS"}) == ""
