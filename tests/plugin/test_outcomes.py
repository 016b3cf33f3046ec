"""What a report says, from what happened: a table, without a run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.api import Measure, Outcome, UnlearningError
from harness.contract.lines import NotExamined
from harness.judging.verdict import AuditFailure, InconclusiveAudit, Verdict
from harness.plugin.expectations import Expectation
from harness.plugin.outcomes import Expected, Happened, decide

VERDICT = Verdict(
    unlearner="mine", task="tiny", poison="backdoor", outcome=Outcome.FAIL, reason="poison-left",
    measure=Measure("success", "Success", worse="higher", test="retention"), estimate=0.9, interval=(0.7, math.inf),
    margin=0.2, p_pass=None, p_fail=0.001, p_bite=0.001, level=0.01, seeds=(0, 1, 2),
    values={"poisoned": (1.0,) * 3, "retrained": (0.0,) * 3, "unlearned": (0.9,) * 3},
)  # fmt: skip
FAILED = AuditFailure(VERDICT, Outcome.PASS)
UNCLEAR = InconclusiveAudit(replace(VERDICT, outcome=Outcome.INCONCLUSIVE, reason="need-more-seeds"), Outcome.PASS)
PASSED = replace(VERDICT, outcome=Outcome.PASS, reason="equivalent", estimate=0.0, interval=(-0.1, 0.1))
RAISED = RuntimeError("no such layer")
SKIPPED = ("x.py", 1, "Skipped: tired")
CACHED = {"trial": {}, "word": "cached"}
KEY = ("mine", "tiny", "backdoor", "poison")


def expecting(verdict, updating=False):
    entry = Expectation(KEY, Outcome(verdict), "It is known.", 7) if verdict else None
    return Expected(entry, Path("expected.toml"), updating)


def audit(error=None, when="call", kind="audit"):
    """One phase of an audit that raised this, or nothing."""
    outcome = error.verdict.outcome if isinstance(error, AuditFailure) else "ERROR" if error else Outcome.PASS
    verdict = error.verdict if isinstance(error, AuditFailure) else PASSED
    reported = {kind: {"verdict": str(outcome), "load": "harness.load_models()"}}
    failed = "passed" if error is None else "failed"
    return Happened(
        when, failed, None if error is None else "a traceback", reported, error, "Type: text", "x.py", verdict
    )


@pytest.mark.parametrize(
    ("happened", "expected", "warn", "outcome", "word", "text"),
    [
        (audit(), None, False, "passed", None, None),
        (audit(FAILED), None, False, "failed", None, "90 % of the poison's effect is left"),
        (audit(UNCLEAR), None, False, "failed", "inconclusive", "reproduce: pytest mine"),
        (audit(UNCLEAR), None, True, "passed", "inconclusive", "reproduce: pytest mine"),
        (audit(FAILED), None, True, "failed", None, "reproduce: pytest mine"),
        # What the file expects.
        (audit(FAILED), expecting("FAIL"), False, "passed", "expected", None),
        (audit(FAILED), expecting(None), False, "failed", None, "90 %"),
        (audit(FAILED), expecting("PASS"), False, "failed", None, "PASS is expected"),
        (audit(), expecting("FAIL"), False, "failed", None, "FAIL is expected"),
        (audit(), expecting("PASS"), False, "passed", None, None),
        (audit(UNCLEAR), expecting("FAIL"), False, "failed", "inconclusive", "but it is INCONCLUSIVE"),
        (audit(UNCLEAR), expecting("FAIL"), True, "failed", None, "but it is INCONCLUSIVE"),
        (audit(UNCLEAR), expecting("PASS"), True, "passed", "inconclusive", "but it is INCONCLUSIVE"),
        (audit(UNCLEAR), expecting("INCONCLUSIVE"), False, "passed", "expected", None),
        # What the file is about to expect.
        (audit(FAILED), expecting(None, updating=True), False, "passed", "expected", None),
        (audit(), expecting("FAIL", updating=True), False, "passed", None, None),
        # An error is red, whatever is expected.
        (audit(RAISED, "setup"), expecting("FAIL"), False, "failed", None, "a traceback"),
        (audit(RAISED, "setup"), expecting(None, updating=True), False, "failed", None, "a traceback"),
        (audit(UnlearningError("Set k."), "setup"), None, False, "failed", None, "Set k."),
        # What only informs.
        (audit(kind="heuristic"), None, False, "passed", "informed", None),
        (audit(FAILED, kind="heuristic"), None, False, "passed", "informed", None),
        (audit(UNCLEAR, kind="heuristic"), None, False, "passed", "informed", None),
        (audit(RAISED, "setup", kind="heuristic"), None, False, "failed", None, "a traceback"),
        # What is none of ours.
        (Happened("call", "passed"), None, False, "passed", None, None),
        (Happened("call", "failed", "a traceback", error=RAISED), None, False, "failed", None, "a traceback"),
        (Happened("call", "failed", "a traceback", error=UnlearningError("x")), None, False, "failed", None, "a tr"),
        (Happened("call", "failed", "a traceback", error=FAILED), None, False, "failed", None, "90 %"),
        (Happened("call", "failed", "a traceback", error=NotExamined("Why.")), None, False, "skipped", None, "Why."),
        (Happened("call", "passed", reported=CACHED), None, False, "passed", "cached", None),
        (Happened("setup", "passed", reported=CACHED), None, False, "passed", None, None),
        (Happened("call", "failed", "a warning", reported=CACHED), None, False, "failed", None, "a warning"),
        # What somebody skips, or expects to fail by a mark: in our suites it is red.
        (Happened("setup", "skipped", SKIPPED), None, False, "skipped", None, "tired"),
        (Happened("setup", "skipped", SKIPPED, ours=True), None, False, "failed", None, "not judged: a test of these"),
        (replace(audit(FAILED), outcome="skipped", ours=True), None, False, "failed", None, "90 %"),
        (replace(audit(FAILED), outcome="skipped", ours=True), expecting("FAIL"), False, "passed", "expected", None),
        (Happened("call", "failed", error=NotExamined("Why."), ours=True), None, False, "skipped", None, "Why."),
    ],
)  # fmt: skip
def test_what_a_report_says(happened, expected, warn, outcome, word, text):
    decided = decide(happened, lambda unlearner: f"pytest {unlearner}", expected, warn)
    assert decided.outcome == outcome
    assert ((decided.heard or {}).get("shown") or (None,))[0] == word
    assert (decided.text is None) if text is None else text in str(decided.text)


def test_what_the_controller_hears():
    assert decide(audit(when="setup"), str).heard is None, "a phase that passed"
    assert decide(audit(RAISED, "setup"), str).heard["audit"]["reason"] == "Type: text"
    assert decide(audit(FAILED), str, expecting("FAIL")).heard["audit"]["expected"] == {
        "verdict": "FAIL", "reason": "It is known.", "line": 7, "met": True,
    }  # fmt: skip
    assert decide(audit(FAILED), str, expecting(None)).heard["audit"]["expected"] is None
    assert "expected" not in decide(audit(FAILED), str).heard["audit"], "a control, or a run without a file"
    unclear = decide(audit(UNCLEAR), str, expecting("FAIL"), warn=True).heard
    assert unclear["inconclusive"] is False, "the option does not soften what should have failed"
    assert unclear["text"].startswith("FAIL is expected (expected.toml, line 7: It is known.)")


@pytest.mark.parametrize(
    ("error", "outcome", "kept", "sentence"),
    [
        (None, "passed", True, ""),
        (AssertionError("It returned None."), "failed", False, "It returned None."),
        (NotExamined("No such request."), "failed", None, "No such request."),
    ],
)
def test_a_line_of_the_contract_is_kept_broken_or_not_examined(error, outcome, kept, sentence):
    reported = {"contract": {"unlearner": "mine", "line": "budget", "kept": False, "sentence": ""}}
    heard = decide(Happened("call", outcome, None, reported, error), str).heard
    assert (heard["contract"]["kept"], heard["contract"]["sentence"]) == (kept, sentence)
