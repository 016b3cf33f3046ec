"""The contract of a method that runs in a process of its own: every line is checked in there, at one go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.cells import Registered
from harness.contract.lines import LINES, BrokenContract, Clause, NotExamined
from harness.isolated import method as isolation
from harness.isolated.process import Limits, MethodError

if TYPE_CHECKING:
    from harness.isolated.jobs import Job

LIMITS = Limits(seconds=600.0)
_FOUND: dict[tuple[Registered, float, int], Mapping[str, Any] | Exception] = {}


def check(clause: Clause) -> None:
    """Check one line of the contract of an isolated method; as `harness.contract.checks.check`.

    Raises:
        BrokenContract: It does not hold.
        NotExamined: Nothing could be said, because the method raised.
        UnlearningError: The checks did not end in time, or ended their process.
    """
    key = (clause.method, clause.budget, clause.epochs)
    if key not in _FOUND:  # all lines are checked together, and what went wrong is not tried again for each
        arguments = {"budget": clause.budget, "epochs": clause.epochs}
        try:
            _FOUND[key] = isolation.ask("harness.contract.confined:find", clause.method, arguments, LIMITS)
        except Exception as error:
            _FOUND[key] = error
    found = _FOUND[key]
    if isinstance(found, Exception):
        raise found
    of = found["lines"][clause.line]
    if of["broken"]:
        cause = None if of["refused"] else MethodError(of["cause"])
        raise BrokenContract(clause.line, of["broken"], of["request"]) from cause
    if of["not_examined"]:
        raise NotExamined(of["not_examined"])


def find(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check every line in this process, which has the method; return what was found by line."""
    from harness.contract import checks

    method, found = job.method(), {}
    for line in LINES:
        of: dict[str, Any] = {"broken": "", "request": "", "refused": True, "cause": "", "not_examined": ""}
        try:
            checks.check(Clause(method, line, job.arguments["budget"], job.arguments["epochs"]))
        except BrokenContract as broken:
            cause = broken.__cause__
            of |= {"broken": str(broken), "request": broken.request}
            of |= {"refused": isinstance(cause, UnlearningError | None), "cause": f"{type(cause).__name__}: {cause}"}
        except NotExamined as said:
            of["not_examined"] = str(said)
        found[line] = of
    return {"lines": found}, {}
