"""What is reported of an item. `decide` needs no pytest: it takes what happened and returns the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.api import Outcome, UnlearningError
from harness.contract.lines import BrokenContract, NotExamined
from harness.judging.verdict import AuditFailure, InconclusiveAudit, Verdict
from harness.plugin.expectations import Expectation, deviation
from harness.report.words import explain

#: What the terminal shows of a report: the word that is counted, the letter, the word of ``-v``, and its colour.
Shown = tuple[str, str, str, dict[str, bool]]

CRASHED: Shown = ("crashed", "!", "CRASHED", {"yellow": True})
_LETTERS = {"trained": "t", "cached": "c", "raised": "r"}


@dataclass(frozen=True)
class Happened:
    """What happened in one phase of an item.

    Attributes:
        when: ``"setup"``, ``"call"`` or ``"teardown"``.
        outcome: pytest's: ``"passed"``, ``"failed"`` or ``"skipped"``.
        text: pytest's text of a failure.
        reported: What our fixtures and trials report of the item; None for other items.
        error: What was raised.
        headline: Its type and message, in one line.
        path: File of the item.
        verdict: The verdict that the item judged, if there is one.
        ours: Whether it is a test of this project's suites, which nobody may skip.
    """

    when: str
    outcome: str
    text: Any = None
    reported: Mapping[str, Any] | None = None
    error: BaseException | None = None
    headline: str = ""
    path: str = ""
    verdict: Verdict | None = None
    ours: bool = False

    @property
    def heard(self) -> dict[str, Any] | None:
        """What the report carries to the controller; None for phases and items that it need not hear of."""
        if self.reported is None or not (self.when == "call" or self.outcome == "failed"):
            return None
        heard = dict(self.reported)
        for kind in heard.keys() & {"audit", "heuristic"}:
            heard[kind] = ({"reason": self.headline} if self.error is not None else {}) | heard[kind]
        if "contract" in heard and self.when == "call":
            kept = None if isinstance(self.error, NotExamined) else self.outcome == "passed"
            heard["contract"] = {**heard["contract"], "kept": kept, "sentence": str(self.error or "")}
        return heard


@dataclass(frozen=True)
class Expected:
    """What a file expects of an audit.

    Attributes:
        expectation: Its entry; None if the file does not speak of the audit.
        path: The file.
        updating: Whether the run writes the file, so that a deviation is not a failure.
    """

    expectation: Expectation | None
    path: Path
    updating: bool = False


@dataclass(frozen=True)
class Decision:
    """What is reported.

    Attributes:
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        text: The text of a failure, or why the item was skipped, as pytest has it.
        heard: What the report carries to the controller, or None.
    """

    outcome: str
    text: Any
    heard: dict[str, Any] | None

    def noting(self, **more: Any) -> Decision:
        """Return the decision with more to carry, if it carries anything."""
        return replace(self, heard=None if self.heard is None else self.heard | more)


def decide(
    happened: Happened, command: Callable[[str], str], expected: Expected | None = None, warn: bool = False
) -> Decision:
    """Return what is reported of a phase.

    Args:
        happened: What happened.
        command: From the id of an unlearner to the command that repeats the item.
        expected: What the file of expectations has on the audit; None without a file, and for controls.
        warn: Whether an inconclusive audit passes.
    """
    found = _explained(happened, command, warn)
    if happened.ours and found.outcome == "skipped" and not isinstance(happened.error, NotExamined):
        found = _unskipped(found)
    if expected is not None and found.heard is not None and "audit" in found.heard:
        found = _held_against(found, happened, command, expected)
    shown = _shown(found, happened.when)
    return found.noting(shown=shown) if shown else found


def _explained(happened: Happened, command: Callable[[str], str], warn: bool) -> Decision:
    """Return what is reported before any expectation: failures in sentences."""
    error, found = happened.error, Decision(happened.outcome, happened.text, happened.heard)
    match error:
        case NotExamined():
            return replace(found, outcome="skipped", text=(happened.path, 0, f"Skipped: {error}"))
        case BrokenContract():
            return replace(found, text=error.explain())
        case UnlearningError() if happened.reported is not None:
            return replace(found, text=f"{error.__cause__ or ''}\n{error}".strip())
        case AuditFailure():
            load = (happened.reported or {}).get("audit", {}).get("load", "")
            text = explain(error.verdict, command(error.verdict.unlearner), error.expected, load)
            inconclusive = isinstance(error, InconclusiveAudit)
            found = replace(found, text=text).noting(text=text, inconclusive=inconclusive)
            if happened.reported is not None and "heuristic" in happened.reported:
                return replace(found, outcome="passed", text=None)
            return replace(found, outcome="passed") if inconclusive and warn else found
    return found


def _unskipped(found: Decision) -> Decision:
    """Let a test of our suites that was skipped, or whose failure somebody expects by a mark, fail."""
    if isinstance(found.text, str):  # a verdict, in sentences
        return replace(found, outcome="failed")
    why = found.text[2] if isinstance(found.text, tuple) else str(found.text or "xfail")
    return replace(found, outcome="failed", text=f"not judged: a test of these suites cannot be skipped. {why}")


def _held_against(found: Decision, happened: Happened, command: Callable[[str], str], expected: Expected) -> Decision:
    """Let an audit pass that concluded what was expected, and fail one that was expected to conclude something else."""
    assert found.heard is not None
    expectation, error = expected.expectation, happened.error
    audit = found.heard["audit"]
    seen = audit["verdict"]
    met = expectation is not None and expectation.met_by(audit)
    entry = {**expectation.plain, "met": met} if expectation is not None else None
    found = found.noting(audit={**audit, "expected": entry})
    if happened.when != "call" or not isinstance(error, AuditFailure | None):
        return found
    if error is not None and (met or expected.updating):
        return replace(found, outcome="passed", text=None).noting(inconclusive=False, expected=seen)
    if expectation is not None and not met and not expected.updating:
        assert happened.verdict is not None
        text = found.text or explain(happened.verdict, command(happened.verdict.unlearner))
        text = f"{deviation(expectation, audit, expected.path)}\n{text}"
        found = replace(found, text=text).noting(text=text)
        if found.outcome == "passed" and (error is None or expectation.verdict is not Outcome.PASS):
            # --audit-inconclusive=warn lets pass what should have passed, and nothing else.
            return replace(found, outcome="failed").noting(inconclusive=False)
    return found


def _shown(found: Decision, when: str) -> Shown | None:
    """Return what the terminal shows in place of pytest's own words."""
    heard = found.heard
    if heard is None or when != "call":
        return None
    if "search" in heard:  # its line is printed in place of a letter
        tried = heard["search"]["tried"]
        return ("measured again" if tried[-1]["final"] else "tried") if tried else "", "", "", {}
    if "trial" in heard and found.outcome == "failed":  # not by the trial: by a warning that is an error, or a plugin
        return None
    if "trial" in heard:
        word = heard["word"]
        return word, _LETTERS.get(word, "-"), word.upper(), {"cyan": True}
    if "heuristic" in heard and found.outcome == "passed":
        return "informed", "i", "INFORMED", {"cyan": True}
    if "expected" in heard:
        return "expected", "e", f"EXPECTED {heard['expected']}", {"green": True}
    if heard.get("inconclusive"):
        return "inconclusive", "?", "INCONCLUSIVE", {"yellow": True}
    return None
