"""What a recall drill says, in sentences, from its JSON result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.document import methods
from harness.report.words import percent, points

#: What is planted beside the source, by the name of its poison.
PLANTED = {
    "backdoor": "a backdoor, a white square on pictures",
    "table-backdoor": "a backdoor, rare values in a few columns",
    "text-backdoor": "a backdoor, a phrase of rare words in texts",
    "source": "wrong labels",
}


def drill_lines(document: Mapping[str, Any], source: str, name: str, rows: int, of: int) -> list[str]:
    """Return what a drill found, line by line.

    Args:
        document: The JSON result of its audits.
        source: Spec of the poison that is the source itself.
        name: What people call the source.
        rows: Its rows.
        of: Rows of the training set.
    """
    lines = []
    for method in methods(document):
        for cell in method.cells:
            audits = {audit["claim"]: audit for audit in cell.audits}
            left = _left(audits["poison"]) if "poison" in audits else "not judged"
            if cell.poison == source:
                lines.append(f"Source {name} ({rows:,} rows, {percent(rows / of)} of the training set): {left}.")
            else:
                kind = PLANTED.get(cell.poison.partition(":")[0], "")
                kind = kind if "source" not in cell.poison or "mislabelled=true" in cell.poison else "other rows"
                lines.append(f"With {kind} ({cell.poison}): {left}.")
        lines += _beside([audit for cell in method.cells for audit in cell.audits])
    return lines


def _left(audit: Mapping[str, Any]) -> str:
    """Return what a removal leaves, after the name of what was to be removed."""
    verdict, reason, estimate = audit["verdict"], audit.get("reason"), audit.get("estimate")
    if reason == "no-bite":
        seeds = len(audit["seeds"])
        return f"nothing to judge: models trained with and without these rows were not found to differ (n = {seeds})"
    if not isinstance(estimate, float) or not math.isfinite(estimate):
        return f"{verdict}; reason: {reason}"
    low, high = audit["interval"]
    span = f"interval {percent(low)} to {percent(high)}, n = {len(audit['seeds'])}"
    if high < 0:
        by = f"by {percent(-estimate)} of what these rows taught"
        return f"the removal moves the model beyond retraining, {by} ({span}): {verdict}"
    if estimate < 0:
        return f"the removal leaves nothing of what these rows taught (estimate {percent(estimate)}, {span}): {verdict}"
    return f"the removal leaves {percent(estimate)} of what these rows taught ({span}): {verdict}"


def _beside(audits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines on what the removal costs, in accuracy and in compute."""
    lines = []
    for claim, says in (
        ("accuracy", "Accuracy, compared with retraining"),
        ("cost", "Compute, as a share of retraining"),
    ):
        own = [audit for audit in audits if audit["claim"] == claim and isinstance(audit.get("estimate"), float)]
        if own:
            sign = -1 if claim == "cost" else 1
            order = ("FAIL", "INCONCLUSIVE", "PASS")
            worst = min(own, key=lambda audit: (order.index(audit["verdict"]), sign * audit["estimate"]))
            share = worst["estimate"]
            shown = percent(share) if claim == "cost" else points(share)
            lines.append(f"{says}: {shown} in the worst audit. {worst['verdict']}.")
    return lines
