"""What a dry run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.words import duration


def forecast_lines(costs: Sequence[Mapping[str, Any]], processes: int) -> list[str]:
    """Return what a study would still cost, in a line for the shortest and for the longest plan."""
    lines = []
    for cost, label in zip(costs, ("if every verdict is clear", "if the whole plan is needed"), strict=False):
        on = f"{processes} process{'es' if processes > 1 else ''}"
        crafting = f"; plus crafting {', '.join(cost['crafted'])} with surrogates" if cost["crafted"] else ""
        lines.append(
            f"{label} ({cost['seeds']} seeds): {cost['trainings']} trainings and {cost['unlearnings']} unlearnings, "
            f"about {duration(cost['seconds'] / processes)} on {on}, {cost['bytes'] / 1e6:.1f} MB of disk{crafting}"
        )
    return lines
