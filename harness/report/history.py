"""The history of several results as a page: every audit, run by run, and what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from harness.report import rendering, svg
from harness.report.changes import audits_of, changes, made_with, unchanged
from harness.report.document import Entry, title_of
from harness.report.svg import Scale, drawing, mark, number, path, words
from harness.report.words import estimate, fraction
from harness.specs import called

#: A result with its name, such as that of its file.
Named = tuple[str, Mapping[str, Any]]

LEFT, RIGHT, TOP, BOTTOM = 44, 346, 16, 150
#: What the drawings show of what is left; what lies beyond stands at the end.
SHOWN = (-0.5, 1.25)


def render(results: Sequence[Named]) -> str:
    """Return the history of results as HTML.

    Args:
        results: At least two, the earliest first.
    """
    environment = rendering.environment()
    environment.globals["chart"] = lambda runs, name: rendering.safe(chart(runs, name))
    return environment.get_template("history.html").render(view(results))


def view(results: Sequence[Named]) -> dict[str, Any]:
    """Return what the template shows."""
    documents = [document for _, document in results]
    by_run = [audits_of(document) for document in documents]
    sections: dict[str, list[dict[str, Any]]] = {}  # methods that a run left out keep their place
    for key in dict.fromkeys(key for audits in by_run for key in audits):
        unlearner, task, poison, claim, _ = key
        runs = [audits.get(key) for audits in by_run]
        sections.setdefault(f"{called(unlearner)} on {task}", []).append(
            {
                "poison": poison,
                "claim": title_of(claim),
                "runs": [run and {**run, "shown": estimate(run)} for run in runs],
                "drawn": any(map(_drawn, runs)),
            }
        )
    pairs = [((*earlier, *later), changes(earlier[1], later[1])) for earlier, later in pairwise(results)]
    steps = [
        {
            "before": before,
            "after": after,
            "made_with": made_with(old, new),
            "changes": found,
            "same": unchanged(new, found),
        }
        for (before, old, after, new), found in pairs
    ]
    worse = sum(change.worse for change in pairs[-1][1])
    counted = f"{worse} audit{'s' * (worse > 1)}" if worse else "no audit"
    return {
        "title": f"History of {len(results)} runs",
        "headline": f"Compared with the run before it, the last run is worse in {counted}.",
        "runs": [(name, _when(document)) for name, document in results],
        "sections": sections,
        "steps": steps,
    }


def chart(runs: Sequence[Entry | None], name: str) -> str:
    """Return what was left of a poison in each run, with its intervals, over the tolerated band.

    Args:
        runs: The audit of each run; None if a run did not have it. Only tests of retention are drawn.
        name: An id that nothing else on the page has.
    """
    y, step = Scale(*SHOWN, BOTTOM, TOP), (RIGHT - LEFT) / len(runs)
    parts = []
    for share in (0.0, 0.5, 1.0):
        label = words(LEFT - 6, y(share) + 4, number(share), "end", "soft")
        parts += [path(f"M{LEFT} {y(share):.1f}H{RIGHT}", "rule"), label]
    texts = []
    for i, run in enumerate(runs):
        x = LEFT + step * (i + 0.5)
        parts.append(words(x, BOTTOM + 18, str(i + 1), "middle", "soft"))
        if run is None or not _drawn(run):
            continue
        top, height = y(run["margin"]), y(-run["margin"]) - y(run["margin"])
        band = f'<rect class="band" x="{x - step / 2:.1f}" y="{top:.1f}" width="{step:.1f}" height="{height:.1f}"/>'
        low, high = (x if x is not None else side for x, side in zip(run["interval"], SHOWN, strict=True))
        tip = f"run {i + 1}: {run['verdict']}, {fraction(run['estimate'])} left"
        line = path(f"M{x:.1f} {y(low):.1f}V{y(high):.1f}", f"c-{svg.CLASSES[run['verdict']]} thin")
        parts = [band, *parts, line, mark(run["verdict"], x, y(run["estimate"]), tip=tip)]
        texts.append(tip)
    return drawing(360, BOTTOM + 26, name, "What is left, run by run", "; ".join(texts) + ".", parts)


def _drawn(run: Entry | None) -> bool:
    """Return whether a run has a fraction that is left, which can be drawn."""
    return run is not None and run.get("test") == "retention" and run["estimate"] is not None


def _when(document: Mapping[str, Any]) -> str:
    return str(document.get("run", {}).get("started", "")).replace("T", " ").replace("Z", " UTC")
