"""What a recall drill says, in sentences, from its JSON result."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.canaries.judgement import Judgement, at_least
from harness.report.document import methods
from harness.report.tables import too_weak
from harness.report.words import KNOWS, deviations, percent, points

#: The name of the second retrained model.
RETRAINED = "R'"
#: What is planted beside the source, by the name of its poison.
PLANTED = {
    "backdoor": "a backdoor, a white square on pictures",
    "table-backdoor": "a backdoor, rare values in a few columns",
    "text-backdoor": "a backdoor, a phrase of rare words in texts",
    "gaussian": "random noise on the inputs",
    "source": "other rows",
    "label-noise": "wrong labels",
}
#: The same, where a field says more than the name.
MISLABELLED = "wrong labels"


def drill_lines(document: Mapping[str, Any], source: str, name: str, rows: int, of: int) -> list[str]:
    """Return what a drill found, line by line.

    Args:
        document: The JSON result of its audits.
        source: Spec of the poison that is the source itself.
        name: What people call the source.
        rows: Its rows.
        of: Rows of the training set.
    """
    lines = too_weak(methods(document))
    for method in methods(document):
        for cell in sorted(method.cells, key=lambda cell: cell.poison != source):  # what was asked for comes first
            audits = {audit["claim"]: audit for audit in cell.audits}
            left = _left(audits["poison"]) if "poison" in audits else "not judged"
            if cell.poison == source:
                lines.append(f"Source {name} ({rows:,} rows, {percent(rows / of)} of the training set): {left}.")
            else:
                lines.append(f"With {planted(cell.poison)}: {left}.")
        lines += _beside([audit for cell in method.cells for audit in cell.audits])
    return lines


def planted(poison: str) -> str:
    """Return in words what is planted beside the source, with the spec of its poison."""
    kind = MISLABELLED if "mislabelled=true" in poison else PLANTED.get(poison.partition(":")[0], "")
    return f"{kind} ({poison})" if kind else poison


def canary_line(found: Mapping[str, Judgement]) -> str:
    """Return what canaries show of one model, as `harness.studies.recall.recall` found it."""
    after, control = found["U"], found[RETRAINED]
    guessed = {name: f"{each.best.right} of {each.best.made}" for name, each in found.items()}
    line = (
        f"Canaries ({after.canaries} rows of the source; a coin decided which {after.planted} of them got a wrong "
        f"label; one model, n = 1): coins guessed {guessed['P']} before the removal, {guessed['U']} after it, "
        f"{guessed[RETRAINED]} after retraining; half are right by chance. "
    )
    if control.shown:
        return line + "A retrained model cannot know the coins, but seems to: something is wrong, do not rely on this."
    if after.shown:
        how = "The removal overshot: wrong labels stand out as the least likely. " if after.best.reverse else ""
        return line + (
            f"{how}It is proven that something of the source is left: with {percent(1 - after.alpha)} confidence, "
            f"epsilon of one row is {at_least(after.epsilon)}."
        )
    if not found["P"].shown:
        return line + "The model does not remember them even before the removal, so they say nothing about it."
    return line + "Nothing is shown to be left. This does not prove that nothing is."


def _left(audit: Mapping[str, Any]) -> str:
    """Return what a removal leaves, after the name of what was to be removed."""
    verdict, reason, estimate = audit["verdict"], audit.get("reason"), audit.get("estimate")
    if reason == "no-bite":
        seeds = len(audit["seeds"])
        return f"nothing to judge: models trained with and without these rows were not found to differ (n = {seeds})"
    if verdict == "ERROR":
        return "not judged: " + re.sub(r"^harness\.[\w.]+: ", "", str(reason)).removesuffix(".")
    if not isinstance(estimate, float) or not math.isfinite(estimate):
        return f"{verdict}; reason: {reason}"
    low, high = audit["interval"]
    exact = audit.get("test") == "exact-null"
    show = deviations if exact else percent
    unbounded = low is None or high is None
    span = "interval unbounded" if unbounded else f"interval {show(low)} to {show(high)}"
    span = f"{span}, n = {len(audit['seeds'])}"
    if exact:
        knows = KNOWS[verdict]
        return f"{knows[0].lower()}{knows[1:]} ({show(estimate)} from retraining, {span}): {verdict}"
    if not unbounded and high < 0:
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
