"""What people read: every reason has its sentence, and numbers come out as numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from documents import document

from harness.api import Measure, Outcome
from harness.judging.claims import CLAIMS
from harness.judging.verdict import Verdict
from harness.plugin.limits import amount, badness
from harness.report.collected import plain
from harness.report.document import finite_tree, methods, write_json
from harness.report.github import markdown
from harness.report.page import render
from harness.report.planning import forecast_lines
from harness.report.tables import bad_seeds_left_open, columns_of, methods_that_pass, reference_lines, table
from harness.report.words import duration, explain, flags, fraction, manner, percent, points, shown_by

POISON = Measure("left", "trace of the noise", worse="higher", test="retention")
ACCURACY = Measure("accuracy", "test accuracy", worse="lower", test="non-inferiority", unit="%")
COST = Measure("cost", "compute", worse="higher", test="budget", unit="%")


def verdict(outcome=Outcome.FAIL, reason="poison-left", measure=POISON, **changes):
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
        "Trace of the noise: 91 % of the poison's effect is left (99 % interval 84 % to 100 %, tolerance 20 %)." in text
    )
    assert "p = 0.0001 if at most 20 % were left or reversed (FAIL needs p ≤ 0.005 at this look)" in text
    assert "n = 3 seeds, worst seed 2" in text
    assert "reproduce: pytest here" in text


def test_a_model_beyond_retraining_is_said_to_be_that():
    text = said(verdict(reason="over-corrected", estimate=-0.85, interval=(-1.92, -0.3)))
    assert (
        "Trace of the noise: the method removes more than the poison. It moved the model beyond retraining by 85 % of "
        "the poison's effect, in the opposite direction (99 % interval 30 % to 192 %, tolerance 20 %). Weaken the"
    ) in text


def test_what_hides_another_poison_is_not_called_the_poison():
    """Retraining without it leads to more of what the other poison does: less is not better."""
    hides = replace(POISON, worse="lower", cause="camouflage")
    assert "Trace of the noise: 91 % of the camouflage's effect is left" in said(verdict(measure=hides))
    beyond = said(verdict(reason="over-corrected", estimate=-0.85, measure=hides))
    assert (
        "removes more than the camouflage. It moved the model beyond retraining by 85 % of the camouflage's" in beyond
    )


def test_lost_accuracy_is_said_in_points():
    text = said(verdict(measure=ACCURACY, estimate=-0.58, interval=(-0.6, -0.5), margin=0.01))
    assert (
        "Test accuracy differs from retraining by −58.0 pp (99 % interval −60.0 pp to −50.0 pp, allowed loss 1.0 pp"
        in text
    )


def test_what_is_no_share_is_not_said_in_points():
    (perplexity,) = CLAIMS["perplexity"].measures(None).values()
    one = verdict(measure=perplexity, estimate=0.124, interval=(0.02, 0.22), margin=math.log(1.05), details={})
    text = said(one)
    assert (
        "nats per token differs from retraining by +0.124 (99 % interval +0.020 to +0.220, allowed rise 0.049)" in text
    )
    assert "if it rose by at most 0.049" in text
    assert "if it rose by more than 0.049" in text
    assert "pp" not in text
    audit = plain(one)
    assert (shown_by(audit)(0.124), badness(audit), amount(audit, 0.124)) == ("+0.124", 0.124, "0.124")
    lost = plain(verdict(measure=ACCURACY, estimate=-0.124))
    assert (shown_by(lost)(-0.124), badness(lost), amount(lost, 12.4)) == ("−12.4 pp", 12.4, "12.4 points of accuracy")


@pytest.mark.parametrize(
    ("measure", "interval", "wide"),
    [
        (POISON, (-0.65, 0.55), "The poison's effect is too weak, or varies too much from seed to seed."),
        (POISON, (0.1, 0.3), ""),
        (POISON, (0.1, math.inf), "The poison's effect is too weak, or varies too much from seed to seed."),
        (ACCURACY, (-0.9, 0.1), "The difference varies too much from seed to seed."),
    ],
)
def test_an_interval_that_is_wide_is_not_called_near_the_tolerance(measure, interval, wide):
    unclear = {"measure": measure, "interval": interval, "details": {"seeds_to_decide": 625.0}}
    text = said(verdict(Outcome.INCONCLUSIVE, "underpowered", **unclear))
    assert "about 625 would" in text
    assert wide in text
    assert ("from seed to seed" in text) == bool(wide)


def test_a_budget_has_no_p_value():
    text = said(
        verdict(measure=COST, reason="over-budget", estimate=1.0, margin=0.1, p_pass=None, p_fail=None, level=None)
    )
    assert "Unlearning used 100 % of the compute of retraining. The budget is 10 %." in text
    assert "p(" not in text


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({"examples": 0.3, "flops": 0.3}, "Unlearning used 30 % of the examples of retraining. The budget is 10 %."),
        ({"examples": 0.1, "flops": 0.3}, "30 % of the operations of retraining. The budget is 10 %; by operations,"),
        ({"examples": 0, "flops": 0, "cpu_seconds": 1}, "100 % of the CPU time of retraining. The budget is 10 %; by"),
    ],
)  # fmt: skip
def test_the_yardstick_that_decided_is_named(shares, sentence):
    details = {f"{name}_of_retraining": share for name, share in shares.items()}
    assert sentence in said(
        verdict(measure=COST, reason="over-budget", estimate=0.3, margin=0.1, p_pass=None, details=details)
    )


def test_too_much_cpu_time_is_flagged_beside_the_share_that_hides_it():
    assert flags({"examples_of_retraining": 0.0, "cpu_seconds_of_retraining": 0.95}, 0.1) == ["95 % of the CPU time"]
    assert flags({"examples_of_retraining": 0.3, "cpu_seconds_of_retraining": 0.39}, 0.1) == []


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("nonfinite-reference", "a poisoned or retrained model diverged"),
        ("oracle-fails", "retraining itself fails this audit"),
        ("oracle-not-pass", "retraining has not passed this audit"),
        ("wrecked-passes", "a model that was never trained passes"),
        ("null-not-exact", "far from N(0, 1)"),
        ("masked-gradients", "this probe cannot see into it"),
        ("unmetered", "of retraining's own compute"),
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
        (
            12.0,
            "3 seeds do not decide it; about 12 would, if the estimate is right (power 0.8). The interval straddles",
        ),
        (40.0, "3 seeds do not decide it; about 40 would, if the estimate is right (power 0.8)."),
        (math.inf, "more than 1000 would, if the estimate is right (power 0.8)."),
    ],
)
def test_what_is_undecided_says_how_many_seeds_would_decide(needed, sentence):
    text = said(verdict(Outcome.INCONCLUSIVE, "need-more-seeds", details={"seeds_to_decide": needed}))
    assert sentence in text


@pytest.mark.parametrize("needed", [70.0, 15.0])
def test_what_stopped_early_says_why(needed):
    text = said(verdict(Outcome.INCONCLUSIVE, "futile", details={"seeds_to_decide": needed, "futility": 0.2}))
    assert "The audit stopped early: 3 seeds do not decide it; " in text
    assert f"about {needed:.0f} would, if the estimate is right (power 0.8)." in text
    assert "run every seed with --audit-futility=0" in text


def test_an_unbounded_interval_is_not_printed_as_infinity():
    assert "interval unbounded" in said(verdict(interval=(-math.inf, math.inf)))


def test_residue_is_worded_as_a_proof_of_failure():
    details = {"mu_lower": 1.72, "eps_lower": 3.0, "residue_confidence": 0.95}
    assert "mu ≥ 1.7, epsilon ≥ 3 at 95 % (proves failure, never deletion)" in said(verdict(details=details))


@pytest.mark.parametrize(
    ("proven", "so"),
    [
        (3.0, "contradicted, because epsilon ≥ 3"),
        (math.inf, "contradicted, because epsilon ≥ inf"),
        (1.0, "not contradicted"),
        (0.0, "not contradicted"),
    ],
)
def test_a_claim_is_held_against_what_is_proven(proven, so):
    details = {"mu_lower": 1.72, "eps_lower": proven, "residue_confidence": 0.95}
    claim = {"certified_epsilon": 1.0, "certified_delta": 1e-5}
    assert f"the method certifies epsilon ≤ 1 at delta = 1e-05: {so}" in said(verdict(details=details | claim))
    assert "certifies" not in said(verdict(details=details))
    shown = finite_tree(details | claim)  # as it stands in a document
    lines = table(methods({"audits": [entry("certified", "poison", "FAIL", details=shown)]}))
    assert f"  certified: epsilon ≤ 1 at delta = 1e-05: {so} (p)" in lines


def test_plain_values_are_finite_and_survive_json():
    odd = plain(verdict(estimate=math.nan, interval=(-math.inf, math.inf)))
    assert odd["estimate"] is None
    assert odd["interval"] == [None, None]
    json.dumps(finite_tree({"a": {"b": math.inf, "c": "text", "d": 1}}), allow_nan=False)


def entry(unlearner, claim, outcome, **more):
    numbers = {"estimate": 0.1, "interval": [0.0, 0.2], "p_pass": 0.001, "seeds": [0, 1, 2, 3, 4], "test": "retention"}
    return {"unlearner": unlearner, "task": "t", "poison": "p", "claim": claim, "verdict": outcome} | numbers | more


def test_the_table_shows_the_worst_of_a_cell_and_the_seeds_that_decided_it():
    audits = [entry("a", "poison", "FAIL", seeds=[0, 1, 2]), entry("a", "accuracy", "PASS"), entry("a", "cost", "PASS")]
    header, row = table(methods({"audits": audits}))
    assert header.split() == ["a", "on", "t", "verdict", "poison", "left", "accuracy", "cost"]
    assert row.split()[:3] == ["p", "FAIL", "n=3"]
    assert "0.10 [0.00, 0.20] FAIL" in row


def test_a_new_claim_is_a_new_column_everywhere(monkeypatch):
    claim = replace(CLAIMS["accuracy"], name="speed", title="speed kept", fails="slows down ({})")
    monkeypatch.setitem(CLAIMS, "speed", claim)
    result = document(methods=("slow",))
    slow = {**result["audits"][1], "claim": "speed", "verdict": "FAIL", "estimate": -0.25, "as_required": False}
    result["audits"].append(slow)
    header, row, *_ = table(methods(result))
    assert header.split()[-2:] == ["speed", "kept"]
    assert row.endswith("−25.0 pp FAIL")
    page = render(result)
    assert '<th scope="col">speed kept</th>' in page
    assert "slows down (noise)" in page
    assert "speed kept" in markdown(result)


def test_columns_that_always_run_are_always_there():
    assert columns_of([]) == ["poison", "accuracy", "cost"]
    assert columns_of([{"claim": "relearning"}, {"claim": "old"}]) == [
        "poison",
        "accuracy",
        "cost",
        "relearning",
        "old",
    ]


def test_partial_discovery_names_what_retraining_keeps():
    of = {"remaining_keeps": 0.5, "reaches_remaining": 1.0, "identity_reaches_remaining": 0.0}
    audits = [entry("a", "poison", "FAIL", details=of, discovery=0.5), entry("a", "cost", "PASS", discovery=0.5)]
    line = table(methods({"audits": audits}))[2]
    assert line == (
        "  p: with 50 % handed over, retraining on the remaining data keeps 0.50; it reaches retraining on the "
        "remaining data, not on clean data"
    )


def test_no_number_is_minus_zero():
    assert [fraction(-0.001), fraction(-0.5), percent(-0.001)] == ["0.00", "−0.50", "0 %"]


def test_mixtures_have_the_share_of_the_poison_and_the_verdict():
    dose = {"0": "PASS", "0.1": "PASS", "0.2": "INCONCLUSIVE", "0.5": "FAIL", "1": "FAIL"}
    lines = table(methods({"audits": [entry("a", "poison", "PASS", references={"dose": dose})]}))
    assert lines[-1].endswith("controls: 0, 10, 20, 50, 100 % of the poison: PASS PASS INCONCLUSIVE FAIL FAIL")


def test_an_error_is_worse_than_a_failure():
    audits = [entry("a", "poison", "FAIL"), {**entry("a", "cost", "ERROR"), "estimate": None}]
    assert table(methods({"audits": audits}))[1].split()[1] == "ERROR"


def test_methods_are_named_together_only_with_holm():
    def both(name, p):
        return [entry(name, "poison", "PASS", p_pass=p), entry(name, "accuracy", "PASS", p_pass=p / 2)]

    audits = [*both("a", 0.0004), *both("b", 0.007), *both("c", 0.011)]
    said = methods_that_pass(methods({"audits": audits}), 0.05, "quick")  # times 4 looks and Holm: .0048, .056, .056
    assert said.startswith("1 of 3 methods pass everything")
    assert said.endswith(": a (error rate 5 % over all of them together, by Holm)")
    reliable = methods_that_pass(methods({"audits": audits}), 0.05, "reliable")  # one look: .0012, .014, .014
    assert reliable.startswith("3 of 3 methods pass everything: a, b, c ")
    assert methods_that_pass(methods({"audits": both("a", 0.001)}), 0.05, "quick") is None


def test_a_pass_says_what_share_of_bad_seeds_it_leaves_open():
    passing = {**entry("a", "poison", "PASS", p_pass=1e-6), "seeds": [0, 1, 2, 3, 4]}
    longer = {**entry("a", "accuracy", "PASS", p_pass=1e-6), "seeds": list(range(16))}
    assert bad_seeds_left_open(methods({"audits": [passing, longer]}), "quick") == (
        "5 good seeds exclude only that more than 45 % of seeds are bad (--audit-plan=reliable asks for 16)"
    )
    assert bad_seeds_left_open(methods({"audits": [longer]}), "reliable") == (
        "16 good seeds exclude that more than 17 % of seeds are bad"
    )
    silent = [{**passing, "control": True}, entry("a", "poison", "FAIL"), entry("a", "cost", "PASS", p_pass=None)]
    assert not any(bad_seeds_left_open(methods({"audits": [each]}), "quick") for each in silent)


def test_what_the_reliable_plan_found_is_said():
    text = explain(verdict(reason="bad-seeds", details={"bad_seeds": 2.0, "e_pass": 3.456, "e_fail": 1.0}), "pytest")
    assert "bad seeds: 2   e-values, without normality: 3.46 for PASS, 1 for FAIL" in text
    accuracy = explain(verdict(measure=ACCURACY, reason="bad-seeds", details={"bad_seeds": 1.0}), "pytest")
    assert "bad seeds: 1" in accuracy
    assert "e-value" not in accuracy


def test_a_method_that_fails_once_is_not_named_whatever_its_p():
    audits = [entry("a", "poison", "PASS"), entry("a", "cost", "FAIL", p_pass=None), entry("b", "poison", "PASS")]
    assert "pass everything: b (" in methods_that_pass(methods({"audits": audits}), 0.05, "quick")


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
    cost = {
        "seeds": 5, "trainings": 15, "unlearnings": 5, "seconds": 60.0, "memory": 4e8, "bytes": 2e6, "crafted": [],
        "tenth": False, "gpu": (0, 0),
    }  # fmt: skip
    assert forecast_lines([cost], 1) == [
        "if every verdict is clear (5 seeds): 15 trainings and 5 unlearnings, about 60 s on 1 process, 0.4 GB of "
        "memory, 2.0 MB of disk"
    ]
    (line,) = forecast_lines([{**cost, "crafted": ["targeted"]}], 2)
    assert line.endswith(
        "about 30 s on 2 processes, 0.8 GB of memory (0.4 GB each), 2.0 MB of disk; crafting targeted comes on top"
    )
    (line, known) = forecast_lines([{**cost, "memory": 0, "tenth": True}], 1)
    assert "memory" not in line
    assert "a training on a tenth of the rows" in known


@pytest.mark.parametrize(
    ("filled", "processes", "ends"),
    [(40, 1, "it fits."), (40, 4, "it fits, but 4 processes would not fit on one GPU."), (90, 1, "it does not fit.")],
)
def test_a_forecast_says_whether_it_fits_the_gpu(filled, processes, ends):
    cost = {
        "seeds": 5, "trainings": 15, "unlearnings": 5, "seconds": 7200.0, "memory": 0, "bytes": 2e6, "crafted": [],
        "tenth": False, "gpu": (filled * 10**9, 80 * 10**9),
    }  # fmt: skip
    line, fits = forecast_lines([cost], processes)
    assert "(2 GPU hours)" in line
    assert fits == f"What one process trains side by side fills {filled}.0 GB of the GPU's 80.0 GB: {ends}"


def test_a_retrained_model_that_diverged_leaves_the_table_standing():
    short = {"poison": "INCONCLUSIVE", "accuracy_difference": None, "gain": None, "cost": 0.1, "seeds": 3}
    (method,) = methods({"audits": [entry("a", "poison", "PASS", references={"short": short})]})
    lines = reference_lines(method)
    assert "accuracy ?" in lines[0]


def test_controls_are_no_methods_that_pass():
    passing = entry("retrain", "poison", "PASS", p_pass=1e-6)
    failing = entry("identity", "poison", "FAIL", p_pass=1.0)
    controls = methods({"audits": [{**passing, "control": True}, {**failing, "control": True}]})
    assert methods_that_pass(controls, 0.05, "quick") is None
    assert methods_that_pass(methods({"audits": [passing, failing]}), 0.05, "quick").startswith("1 of 2 methods")


def test_known_failures_and_controls_are_told_apart():
    failed = {"verdict": "FAIL", "as_required": True}
    assert manner(failed) == "as required"
    assert manner({**failed, "expected": {"verdict": "FAIL"}}) == "as expected"
    assert manner({**failed, "as_required": False}) == manner({"verdict": "PASS"}) == ""
