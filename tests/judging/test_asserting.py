"""The budget, and what an audit asserts."""

import pytest
from arms import (
    FAIL,
    INCONCLUSIVE,
    LEFT,
    PASS,
)

from harness.judging.judge import judge_budget
from harness.judging.verdict import AuditFailure, InconclusiveAudit, Verdict
from harness.judging.yardsticks import CPU_FLOOR, shares

# ---- the budget


@pytest.mark.parametrize(
    ("found", "outcome", "reason"),
    [
        ({"examples": 0.0}, PASS, "within-budget"),
        ({"examples": 0.1 + 1e-12}, PASS, "within-budget"),
        ({"examples": 0.1 * (1 + 1e-6)}, PASS, "within-budget"),
        ({"examples": 0.1001}, FAIL, "over-budget"),
        ({"examples": 0.1, "flops": 0.15}, PASS, "within-budget"),
        ({"examples": 0.1, "flops": 0.1501}, FAIL, "over-budget"),
        ({"examples": 0.1, "cpu_seconds": 0.4}, PASS, "within-budget"),
        ({"examples": 0.1, "cpu_seconds": 0.401}, FAIL, "over-budget"),
        ({"examples": 0.1, "steps": 9.0}, PASS, "within-budget"),
    ],
)
def test_the_budget_is_a_bound_by_every_yardstick(found, outcome, reason):
    assert judge_budget(found, 0.1) == (outcome, reason)


@pytest.mark.parametrize(
    ("retraining", "outcome"),
    [((1.0, 1.0), PASS), ((1.009,), PASS), ((1.0, 0.98), INCONCLUSIVE), ((0.0,), INCONCLUSIVE), ((3.0,), INCONCLUSIVE)],
)
def test_a_budget_is_kept_only_where_retraining_is_measured_right(retraining, outcome):
    assert judge_budget({"examples": 0.1}, 0.1, retraining)[0] is outcome
    assert judge_budget({"examples": 0.2}, 0.1, retraining) == (FAIL, "over-budget")


def spent(cpu, seconds=1.0, examples=0.1, first=False):
    fractions = {"examples": examples, "flops": examples, "cpu_seconds": cpu}
    return {"fractions": fractions, "first_call": first, "cpu_seconds": {"U": seconds}}


def test_the_largest_share_of_all_seeds_counts():
    assert shares([spent(0.1, examples=0.1), spent(0.3, examples=0.2)]) == {
        "examples": 0.2, "flops": 0.2, "cpu_seconds": 0.3
    }  # fmt: skip


def test_first_calls_are_not_judged_by_cpu_time_if_there_are_others():
    assert shares([spent(0.9, first=True), spent(0.2), spent(0.1)])["cpu_seconds"] == 0.2
    assert shares([spent(0.9, first=True), spent(0.1, first=True), spent(0.2, first=True)])["cpu_seconds"] == 0.2


def test_little_cpu_time_says_nothing():
    assert "cpu_seconds" not in shares([spent(3.0, seconds=CPU_FLOOR / 2)])
    assert "cpu_seconds" not in shares([spent(3.0, first=True), spent(3.0, seconds=CPU_FLOOR / 2)])
    assert shares([spent(3.0, seconds=CPU_FLOOR)])["cpu_seconds"] == 3.0


# ---- what an audit asserts


def verdict(outcome):
    return Verdict(
        unlearner="u", task="t", poison="p", measure=LEFT, outcome=outcome, reason="reason", estimate=0,
        interval=(0, 1), margin=0.2, p_pass=1, p_fail=1, p_bite=1, level=0.01, seeds=(0, 1, 2), values={},
    )  # fmt: skip


@pytest.mark.parametrize("wanted", [PASS, FAIL])
def test_an_audit_asserts_what_it_must_conclude(wanted):
    verdict(wanted).require(wanted)
    other = FAIL if wanted is PASS else PASS
    with pytest.raises(AuditFailure, match=rf"u-t-p: left {other.value} \(reason\)") as caught:
        verdict(other).require(wanted)
    assert not isinstance(caught.value, InconclusiveAudit)


@pytest.mark.parametrize("wanted", [PASS, FAIL])
def test_an_inconclusive_audit_satisfies_nothing(wanted):
    with pytest.raises(InconclusiveAudit, match="u-t-p: left INCONCLUSIVE") as caught:
        verdict(INCONCLUSIVE).require(wanted)
    assert isinstance(caught.value, AssertionError)
