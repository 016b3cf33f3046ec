"""What every method can reach, as a picture and as a table: the fronts that searches wrote, one panel for each method.

Reads what ``pytest test_suites --audit-tune N`` writes beside ``--audit-tune-file``. Searches in several files must be
the same but for their methods: task, poisons, number of settings, seeds, budget.

    python ci/benchmarks/fronts.py tuned.txt.json [MORE.json ...] --figure docs/fronts.svg --markdown fronts.md
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.judging.yardsticks import beyond
from harness.report.document import write_text
from harness.report.svg import Scale, drawing, mark, number, palette, path, style, words
from harness.report.words import fraction, points
from harness.studies.fronts import MEAN

ACROSS = 4
WIDTH, HEIGHT, GAP, HEAD = 262, 250, 22, 64
LOST, LEFT = (-0.04, 0.005), (0.0, 1.1)  # what the axes show: accuracy against retraining, poison left
TOLERANCE = 0.2
SAME = ("task", "poisons", "settings", "seeds", "budget", "margin")


def together(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the searches of several files as one.

    Raises:
        SystemExit: They differ in more than their methods, so that their fronts must not be compared; or one is twice.
    """
    first = documents[0]
    for other in documents[1:]:
        if different := [name for name in SAME if other[name] != first[name]]:
            sys.exit(f"the searches differ in {', '.join(different)}: their fronts cannot be compared")
    methods = [method for document in documents for method in document["methods"]]
    names = [method["unlearner"] for method in methods]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        sys.exit(f"more than one of the files has {', '.join(twice)}: give each method once")
    return {**first, "methods": methods}


def front(settings: Sequence[Mapping[str, Any]], budget: float) -> list[tuple[float, float]]:
    """Return the settings that no other beats in both, as (accuracy, left), the most accurate first."""
    found: list[tuple[float, float]] = []
    for each in sorted(shown(settings, budget), key=lambda one: (-one["accuracy"], one["left"])):
        if not found or each["left"] < found[-1][1]:
            found.append((each["accuracy"], each["left"]))
    return found


def shown(settings: Sequence[Mapping[str, Any]], budget: float) -> list[Mapping[str, Any]]:
    """Return the settings that were measured to the end, within the budget, and lie on the axes."""
    whole = [each for each in settings if not each["given_up"] and None not in (each["left"], each["accuracy"])]
    kept = [each for each in whole if not beyond(each["shares"], budget)]
    return [each for each in kept if each["accuracy"] >= LOST[0] and each["left"] <= LEFT[1]]


def panel(method: Mapping[str, Any], document: Mapping[str, Any], left: float, top: float) -> list[str]:
    """Return the drawing of one method, with its corner at a place."""
    budget, margin = document["budget"], document["margin"]
    x, y = Scale(*LOST, left + 40, left + WIDTH - 6), Scale(*LEFT, top + HEIGHT - 46, top + 24)
    corner = f'x="{x(-margin):.1f}" y="{y(TOLERANCE):.1f}" width="{x(LOST[1]) - x(-margin):.1f}"'
    parts = [
        words(left, top + 12, method["unlearner"], classes="strong"),
        f'<rect class="band" {corner} height="{y(0) - y(TOLERANCE):.1f}"/>',
        path(f"M{x.left:g} {y.left:g}H{x.right:g}M{x.left:g} {y.left:g}V{y.right:g}", "edge"),
        path(f"M{x(0):.1f} {y.left:g}V{y.right:g}M{x.left:g} {y(1):.1f}H{x.right:g}", "rule"),
    ]
    for lost in (-0.03, -0.02, -0.01, 0.0):
        parts += [path(f"M{x(lost):.1f} {y.left:g}v4", "edge")]
        parts += [words(x(lost), y.left + 17, number(100 * lost), "middle", "soft")]
    for share in (0.0, 0.2, 0.5, 1.0):
        parts += [path(f"M{x.left:g} {y(share):.1f}h-4", "edge")]
        parts += [words(x.left - 7, y(share) + 4, number(share), "end", "soft")]
    for each in shown(method["tried"], budget):
        parts.append(mark("membership", x(each["accuracy"]), y(each["left"]), 2, hollow=True))
    parts.append(path(stairs(front(method["tried"], budget), x, y), "thin c-pass dash"))
    parts.append(path(stairs(front(method["finals"], budget), x, y), "wide c-ink line"))
    best = method["on_final_seeds"]
    if None not in (best["accuracy"], best["left"]):  # it diverged, as every finalist did
        parts.append(mark("poison", x(best["accuracy"]), y(best["left"]), 6, tip=method["chosen"]))
    return parts


def stairs(corners: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """Return the line below which nothing was reached: what is left, as more accuracy may be lost."""
    if not corners:
        return "M0 0"
    steps = [f"M{x(corners[0][0]):.1f} {y.right:.1f}"]
    for accuracy, left in corners:
        steps.append(f"H{x(accuracy):.1f}V{y(left):.1f}")
    return "".join([*steps, f"H{x.left:g}"])


def picture(document: Mapping[str, Any]) -> str:
    """Return the panels of all methods, as an SVG file of its own, on white."""
    methods, seeds = document["methods"], document["seeds"]
    across = min(ACROSS, len(methods))
    width = max(across * (WIDTH + GAP) + GAP, 720)
    height = HEAD + -(-len(methods) // across) * (HEIGHT + GAP)
    search, final = (f"{seeds[name][0]} to {seeds[name][-1]}" for name in ("search", "final"))
    poisons = ", ".join(document["poisons"])
    parts = [
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        words(GAP, 22, f"What is left of {poisons}, on average", classes="strong"),
        words(GAP, 38, "up: share of the effect that is left · across: accuracy against retraining, points · blue: "
              "passes both", classes="soft"),
        words(GAP, 54, f"dashed, dots: {document['settings']} settings, seeds {search} · black: their best, seeds "
              f"{final} · diamond: chosen", classes="soft"),
    ]  # fmt: skip
    for i, method in enumerate(methods):
        row, column = divmod(i, across)
        parts += panel(method, document, GAP + column * (WIDTH + GAP), HEAD + 10 + row * (HEIGHT + GAP))
    told = " ".join(_told(method) for method in methods)
    body = drawing(width, height, "fronts", "Poison left against accuracy, for each method", told, parts)
    sheet = f"<style>svg{{{palette()}}}{style()}{LINES}</style>"
    return body.replace("<title ", f"{sheet}<title ", 1) + "\n"


#: What fills no area, and is narrower than the intervals of a report.
LINES = "path.dash{stroke-dasharray:3 3;fill:none}path.line{fill:none;stroke-width:2}"


def _told(method: Mapping[str, Any]) -> str:
    left, accuracy = reached(method["on_final_seeds"])
    return f"{method['unlearner']}: {left} left at {accuracy}."


def reached(score: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is left and the accuracy in words; a question mark for what is no number."""
    left, accuracy = (math.nan if score[name] is None else score[name] for name in ("left", "accuracy"))
    return fraction(left), points(accuracy)


def markdown(document: Mapping[str, Any]) -> str:
    """Return the joint fronts as a table: at each floor what is left on the seeds of the search, and measured again."""
    floors = [points(point["floor"]) for point in document["methods"][0]["fronts"][MEAN]]
    lines = [f"| method | {' | '.join(floors)} | chosen | left, accuracy |", "|---" * (len(floors) + 3) + "|"]
    for method in document["methods"]:
        cells = []
        for point in method["fronts"][MEAN]:
            again = point.get("again")
            text = reached(point)[0] if "left" in point else "–"
            cells.append(f"{text}, {reached(again)[0]}" if again else text)
        best = ", ".join(reached(method["on_final_seeds"]))
        lines.append(f"| `{method['unlearner']}` | {' | '.join(cells)} | `{method['chosen']}` | {best} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="what searches wrote")
    parser.add_argument("--figure", type=Path, help="write the picture to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()
    document = together([json.loads(file.read_text(encoding="utf-8")) for file in options.files])
    table = markdown(document)
    print(table, end="")
    if options.figure:
        write_text(options.figure, picture(document))
    if options.markdown:
        write_text(options.markdown, table)


if __name__ == "__main__":
    main()
