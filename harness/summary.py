"""A run's verdicts as Markdown, for the summary of a step of GitHub Actions: what failed first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report import WORST, as_required, crashes_in_words, manner, percent, points
from harness.tables import contract_lines, heuristic_rows, methods_that_pass

LIMIT = 1 << 20  # bytes of a step's summary; GitHub shows none that is longer
MARKS = {"PASS": "🟢", "FAIL": "🟥", "INCONCLUSIVE": "🔶", "ERROR": "❌"}


def markdown(document: Mapping[str, Any], limit: int = LIMIT) -> str:
    """Return the summary, at most so many bytes of UTF-8; ``""`` where nothing was judged or nothing fits."""
    audits = sorted(document.get("audits", ()), key=lambda a: (as_required(a), WORST.index(a["verdict"])))
    contract, heuristics = document.get("contract", ()), document.get("heuristics", ())
    crashed = crashes_in_words(document)
    if not (audits or contract or heuristics or crashed):
        return ""
    head = ["## Unlearning audits", "", *([f"**{crashed}**", ""] if crashed else [])]
    if audits:
        unlike = sum(not as_required(a) for a in audits)
        counts = ", ".join(f"{n} {o}" for o in WORST if (n := sum(a["verdict"] == o for a in audits)))
        head += [f"{unlike} of {len(audits)} audits did not conclude what they must: {counts}.", ""]
    rows = [_row(audit) for audit in audits]
    if rows:
        head += [
            "| verdict | method | task | poison | audit | estimate | interval | margin | seeds |",
            "|---" * 9 + "|",
        ]
    tail = ["", *_tail(document, audits, contract, heuristics)]
    if _size(head) + _size(rows) + _size(tail) > limit:
        tail, left = [], limit - _size(head) - 60  # what does not fit is counted in fewer bytes than this
        kept = 0
        while kept < len(rows) and (left := left - _size(rows[kept : kept + 1])) >= 0:
            kept += 1
        if not kept:
            return ""
        rows, tail = rows[:kept], ["", f"{len(rows) - kept} more, and the rest, do not fit here."]
    return "\n".join([*head, *rows, *tail]) + "\n"


def _size(lines: Sequence[str]) -> int:
    """Return the bytes of lines in UTF-8, with what ends each."""
    return sum(len(line.encode()) + 1 for line in lines)


def _row(audit: Mapping[str, Any]) -> str:
    verdict, estimate = audit["verdict"], audit.get("estimate")
    show = points if audit.get("test") == "non-inferiority" else percent
    numbers = ["", "", "", ""]
    if estimate is not None:
        ends = ["?" if x is None else show(x) for x in audit["interval"]]
        numbers = [show(estimate), " … ".join(ends), percent(audit["margin"]), str(len(audit["seeds"]))]
    elif audit.get("reason"):
        numbers[0] = str(audit["reason"])
    said = f" {manner(audit)}" if manner(audit) else ""
    place = (audit["unlearner"], audit["task"], audit["poison"], audit["claim"])
    cells = [f"{MARKS[verdict]} **{verdict}**{said}", *map(escape, place), *map(escape, numbers)]
    return f"| {' | '.join(cells)} |"


def _tail(
    document: Mapping[str, Any],
    audits: Sequence[Mapping[str, Any]],
    contract: Sequence[Mapping[str, Any]],
    heuristics: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what stands below the table: what to run again, the contract, the heuristics."""
    lines = []
    red = [a for a in audits if not as_required(a) and a.get("command")]
    for audit in red[:20]:
        lines += [f"- {escape(audit.get('finding') or audit.get('reason') or audit['verdict'])}"]
        lines += ["", "  ```", f"  {audit['command']}", *([f"  {audit['load']}"] if audit.get("load") else []), "  ```"]
    if len(red) > 20:
        lines.append(f"- and {len(red) - 20} more")
    alpha = document.get("run", {}).get("settings", {}).get("alpha", 0.05)
    if audits and (together := methods_that_pass(audits, alpha)):
        lines += ["", f"{escape(together)}."]
    if contract:
        lines += ["", "### Contract", "", *(f"- {escape(line)}" for line in contract_lines(contract))]
    for (method, task), rows, _ in heuristic_rows(heuristics):
        lines += ["", f"### What the usual metrics say of {escape(method)} on {escape(task)}", ""]
        for i, row in enumerate(rows):
            lines.append(f"| {' | '.join(map(escape, row))} |")
            if i == 0:
                lines.append("|---" * len(row) + "|")
    return lines


def escape(text: object) -> str:
    """Return text that Markdown shows as it is, in one line, inside of a table too."""
    flat = " ".join(str(text).split())
    for character in "\\`*_[]<>|#~":
        flat = flat.replace(character, {"<": "&lt;", ">": "&gt;", "|": "\\|"}.get(character, f"\\{character}"))
    return flat
