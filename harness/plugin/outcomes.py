"""What a report says of an item."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from harness.api import DeviceLost, Outcome, UnlearningError
from harness.contract.lines import BrokenContract, NotExamined
from harness.judging.verdict import AuditFailure, InconclusiveAudit
from harness.plugin.expectations import deviation
from harness.plugin.items import REPORTED, is_control
from harness.plugin.session import SETTINGS
from harness.report.words import explain


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Attach what the controller needs, and say failures in sentences."""
    report = yield
    reported = item.stash.get(REPORTED, None)
    if reported is not None and (report.when == "call" or report.failed):
        report.unlearning = {**reported, "nodeid": report.nodeid}
        for kind in ("audit", "heuristic"):
            if call.excinfo is not None and kind in reported:
                report.unlearning[kind] = {"reason": call.excinfo.exconly().splitlines()[0], **reported[kind]}
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, DeviceLost):
        if hasattr(item.config, "workerinput"):
            os._exit(1)  # xdist starts another worker on the same device, and what was stored is not lost
        pytest.exit(f"{error}; run again, everything finished is stored", returncode=3)
    if reported is not None and "contract" in reported and report.when == "call":
        kept = None if isinstance(error, NotExamined) else report.passed
        report.unlearning["contract"] = {**reported["contract"], "kept": kept, "sentence": str(error or "")}
    if isinstance(error, NotExamined):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {error}")
    if isinstance(error, BrokenContract):
        report.longrepr = error.explain()
    elif isinstance(error, UnlearningError) and reported is not None:
        report.longrepr = f"{error.__cause__ or ''}\n{error}".strip()
    if isinstance(error, AuditFailure):
        command = item.config.stash[SETTINGS].command(item, error.verdict.unlearner)
        load = (reported or {}).get("audit", {}).get("load", "")
        report.longrepr = explain(error.verdict, command, error.expected, load)
        if reported is not None:  # somebody's own test may ask `harness.audit` for its verdict
            report.unlearning |= {"text": report.longrepr, "inconclusive": isinstance(error, InconclusiveAudit)}
        if reported is not None and "heuristic" in reported:
            report.outcome, report.longrepr = "passed", None
        elif isinstance(error, InconclusiveAudit) and item.config.option.audit_inconclusive == "warn":
            report.outcome = "passed"
    if reported is not None and "audit" in reported and (report.when == "call" or report.failed):
        _hold_against_expectation(item, report, error)
    return report


def _hold_against_expectation(item: pytest.Item, report: Any, error: BaseException | None) -> None:
    """Let an audit that concluded what was expected pass, and one that was expected to conclude something else fail."""
    settings = item.config.stash[SETTINGS]
    if settings.expectations is None or is_control(item):
        return
    audit = report.unlearning["audit"]
    seen, expected = audit["verdict"], settings.expectations.of(audit)
    met = expected is not None and expected.verdict == seen
    audit["expected"] = {**expected.plain, "met": met} if expected is not None else None
    if report.when != "call" or not isinstance(error, AuditFailure | None):
        return
    if error is not None and (met or settings.expectations.updating):
        report.outcome, report.longrepr = "passed", None
        report.unlearning |= {"inconclusive": False, "expected": seen}
    elif expected is not None and not met and not settings.expectations.updating:
        verdict = item.funcargs["verdict"]  # type: ignore[attr-defined]
        text = report.longrepr or explain(verdict, settings.command(item, verdict.unlearner))
        report.longrepr = f"{deviation(expected, seen, settings.expectations.path)}\n{text}"
        report.unlearning["text"] = report.longrepr
        if report.outcome == "passed" and (error is None or expected.verdict is not Outcome.PASS):
            report.outcome = "failed"  # --audit-inconclusive=warn softens what should have passed, and nothing else
            report.unlearning["inconclusive"] = False
