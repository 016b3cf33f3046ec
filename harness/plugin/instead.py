"""What a run does in place of audits if only its cost is asked for (``--audit-dry-run``)."""

from __future__ import annotations

from typing import Any

from harness.plugin.session import Session
from harness.report.planning import forecast_lines


def forecast(session: Session, writer: Any) -> None:
    """Report what the run would cost."""
    from harness.studies.forecast import remaining_cost

    if not session.cells:
        writer.line("no audits are selected: there is nothing to forecast")
        return
    for line in forecast_lines(remaining_cost(session.study), session.processes):
        writer.line(line)
