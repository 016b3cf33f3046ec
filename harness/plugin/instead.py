"""What a run does in place of audits: forecast its cost (``--audit-dry-run``), or search fields (``--audit-tune``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.api import UnlearningError
from harness.plugin.session import Session
from harness.report.document import write_text
from harness.report.planning import forecast_lines, score_line, tuned_lines, tuning_head


def forecast(session: Session, writer: Any) -> None:
    """Report what the run would cost."""
    from harness.studies.forecast import remaining_cost

    if not session.cells:
        writer.line("no audits are selected: there is nothing to forecast")
        return
    for line in forecast_lines(remaining_cost(session.study), session.processes):
        writer.line(line)


def tune(session: Session, writer: Any) -> None:
    """Search the fields of every method that is asked for, and write what was chosen after each of them.

    Raises:
        pytest.UsageError: No setting of any method could be completed.
    """
    from harness.studies.tuning import FINAL_SEEDS, TUNING_SEEDS
    from harness.studies.tuning import tune as search

    settings, n = session.settings, session.settings.option.audit_tune
    (task,) = settings.tasks
    poisons = list(dict.fromkeys(cell.poison for cell in settings.cells))
    file = Path(settings.option.audit_tune_file).absolute()
    text = tuning_head(task.id, [each.id for each in poisons], n, TUNING_SEEDS, FINAL_SEEDS, settings.budget)
    lab = session.lab()
    written = False
    for method in settings.unlearners:
        writer.line(f"{method.id}: {n} settings, seeds {TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}")

        def show(tried: int, setting: Any, score: Any) -> None:
            line = f"given up: {score}" if isinstance(score, str) else score_line(score)
            writer.line(f"  {tried:>4}/{n}  {line:<60}  {setting.id}")

        try:
            tuned = search(method, task, poisons, lab, n, show)
        except UnlearningError as error:
            writer.line(f"  {error}", red=True)
            continue
        text += tuned_lines(tuned)
        write_text(file, text)
        written = True
        writer.line(tuned_lines(tuned).strip(), bold=True)
    if not written:
        raise pytest.UsageError("nothing was tuned, so nothing was written")
    writer.line(f"written to {file}; audit it with --unlearner=@{os.path.relpath(file)}")
