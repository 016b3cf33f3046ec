"""What a dry run and a search for settings print."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.report.document import versions
from harness.report.words import duration, percent, points

if TYPE_CHECKING:
    from harness.studies.tuning import Score, Tuned


def tuning_head(task: str, poisons: Sequence[str], settings: int, seeds: range, final: range, budget: float) -> str:
    """Return the head of the file that a search writes: what was searched, with what, and when."""
    return (
        f"# Chosen on {task} against {', '.join(poisons)} from {settings} settings of each method: all on seeds "
        f"{seeds[0]} to {seeds[-1]}, the best on seeds {final[0]} to {final[-1]}; budget {percent(budget)} of "
        f"retraining.\n"
        f"# {', '.join(f'{name} {version}' for name, version in versions().items())}; {time.strftime('%Y-%m-%d')}\n"
    )


def tuned_lines(tuned: Tuned) -> str:
    """Return the lines of that file about one method: its score, what the search took, and its spec."""
    allowed = "" if tuned.score.allowed else "; beyond the margin of accuracy or the budget"
    return (
        f"# {score_line(tuned.score)}; {tuned.unlearnings} unlearnings, {tuned.trainings} trainings, "
        f"{duration(tuned.seconds)}{allowed}\n{tuned.unlearner.id}\n"
    )


def score_line(score: Score) -> str:
    """Return what a setting reaches on the tuning seeds."""
    return f"poison left {score.left:.2f}, accuracy {points(score.accuracy)}, cost {percent(score.cost)}"


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
