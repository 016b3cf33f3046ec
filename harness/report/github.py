"""What a run says to GitHub: annotations, and the summary of a step."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Registered
from harness.report.tables import contract_lines, heuristic_rows, methods_that_pass
from harness.report.words import WORST, as_required, crashes_in_words, manner, percent, points

if TYPE_CHECKING:
    from harness.plugin.expectations import Expectation

ANNOTATE_FAILURES = "pytest_github_actions_annotate_failures"  # the plugin that annotates what fails when called


def wanted() -> bool:
    """Say whether GitHub reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def failing(
    audits: Iterable[Mapping[str, Any]],
    contract: Iterable[Mapping[str, Any]],
    crashes: Iterable[str],
    stale: Iterable[Expectation],
    methods: Iterable[Registered],
    failures: bool = True,
) -> list[str]:
    """Return a line per audit that is red, broken line of a contract, crash of a worker, and stale expectation.

    Args:
        audits: What audits reported, with ``"red"`` for those that fail the run.
        contract: What the lines of contracts reported.
        crashes: What was said of workers that crashed.
        stale: Expectations that no audit can meet.
        methods: Who is audited.
        failures: Whether failed audits and broken lines are annotated; not where another plugin does it.
    """
    places = {method.id: _place(method) for method in methods}
    lines = []
    for audit in audits:
        is_error = audit["verdict"] == "ERROR"
        if audit["red"] and (failures or is_error):
            title = f"{audit['unlearner']} on {audit['task']}, {audit['poison']}: {audit['claim']} {audit['verdict']}"
            message = audit.get("text") or audit.get("reason") or audit["verdict"]
            lines.append(command("error", title, message, places.get(audit["unlearner"], {})))
    for each in contract:
        if each["kept"] is False and failures:
            title = f"{each['unlearner']}: contract, {each['line']}"
            lines.append(command("error", title, each["sentence"], places.get(each["unlearner"], {})))
    lines += [command("error", "an expectation matches no audit", f"line {old.line}: {old}") for old in stale]
    return lines + [command("error", "a worker crashed", crash) for crash in crashes]


def command(kind: str, title: str, message: str, place: Mapping[str, Any] | None = None) -> str:
    """Return a workflow command: ``::error file=…,line=…,title=…::message``, escaped as GitHub wants it."""
    properties = {**(place or {}), "title": title}
    text = ",".join(f"{name}={_escape(str(value), ':,')}" for name, value in properties.items())
    return f"::{kind} {text}::{_escape(message)}"


def _escape(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _place(method: Registered) -> dict[str, Any]:
    """Return the file of a method relative to the workspace, and its line; nothing where it is no part of that."""
    value = getattr(method.value, "func", method.value)
    owner = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    workspace = Path(os.environ.get("GITHUB_WORKSPACE", Path.cwd())).resolve()
    try:
        file, line = Path(inspect.getfile(owner)).resolve(), inspect.getsourcelines(owner)[1]
    except (OSError, TypeError):
        return {}
    return {"file": file.relative_to(workspace).as_posix(), "line": line} if file.is_relative_to(workspace) else {}


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


def append_summary(document: Mapping[str, Any], target: Path) -> None:
    """Append to the summary of a step, which GitHub cuts at 1 MiB; a summary that cannot be written fails no run."""
    try:
        taken = target.stat().st_size if target.exists() else 0
        if text := markdown(document, LIMIT - taken):
            with target.open("a", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        print(f"the summary was not written to {target}: {error}", file=sys.stderr)
