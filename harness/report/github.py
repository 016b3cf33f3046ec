"""What GitHub shows of a run: annotations, and the summary of a step."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _pytest_unlearning import DEFAULTS
from harness.cells import Registered
from harness.report.conclusions import headline
from harness.report.document import Entry, MethodResult, methods, title_of
from harness.report.tables import (
    bad_seeds_left_open,
    contract_lines,
    fooled_line,
    heuristic_rows,
    methods_that_pass,
    not_judged_lines,
)
from harness.report.words import WORST, as_required, estimate, manner, percent, shown_by, verdict_text
from harness.sources import factory_of
from harness.specs import called

if TYPE_CHECKING:
    from harness.plugin.expectations import Expectation

ANNOTATE_FAILURES = "pytest_github_actions_annotate_failures"  # the plugin that annotates what fails when called


def wanted() -> bool:
    """Return whether GitHub reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def failing(
    audits: Iterable[Mapping[str, Any]],
    contract: Iterable[Mapping[str, Any]],
    crashes: Iterable[str],
    stale: Iterable[Expectation],
    registered: Iterable[Registered],
    failures: bool = True,
) -> list[str]:
    """Return an annotation for each red audit, broken line of a contract, crashed worker and stale expectation.

    Args:
        audits: What audits reported, with ``"red"`` for those that fail the run.
        contract: What the lines of contracts reported.
        crashes: The messages of workers that crashed.
        stale: Expectations that match no audit.
        registered: The methods that are audited.
        failures: Whether to annotate failed audits and broken lines; False if another plugin annotates them.
    """
    places = {method.id: _place(method) for method in registered}
    lines = []
    for audit in audits:
        is_error = audit["verdict"] == "ERROR"
        if audit["red"] and (failures or is_error):
            of = f"{called(audit['unlearner'])} on {audit['task']}, {audit['poison']}"
            title = f"{of}: {title_of(audit['claim'])} {audit['verdict']}"
            message = audit.get("text") or audit.get("reason") or audit["verdict"]
            lines.append(command("error", title, message, places.get(audit["unlearner"], {})))
    for each in contract:
        if each["kept"] is False and failures:
            title = f"{called(each['unlearner'])}: contract, {each['line']}"
            lines.append(command("error", title, each["sentence"], places.get(each["unlearner"], {})))
    lines += [command("error", "an expectation matches no audit", f"line {old.line}: {old}") for old in stale]
    return lines + [command("error", "a worker crashed", crash) for crash in crashes]


def command(kind: str, title: str, message: str, place: Mapping[str, Any] | None = None) -> str:
    """Return a workflow command, ``::error file=…,line=…,title=…::message``, escaped by GitHub's rules."""
    properties = {**(place or {}), "title": title}
    text = ",".join(f"{name}={_escape(str(value), ':,')}" for name, value in properties.items())
    return f"::{kind} {text}::{_escape(message)}"


def _escape(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _place(method: Registered) -> dict[str, Any]:
    """Return the file of a method relative to the workspace, and its line; empty if it is not in the workspace."""
    workspace = Path(os.environ.get("GITHUB_WORKSPACE", Path.cwd())).resolve()
    try:
        if method.isolated:
            file, line = Path(method.file).resolve(), method.value.line
        else:
            owner = factory_of(method.value)
            file, line = Path(inspect.getfile(owner)).resolve(), inspect.getsourcelines(owner)[1]
    except (OSError, TypeError):
        return {}
    return {"file": file.relative_to(workspace).as_posix(), "line": line} if file.is_relative_to(workspace) else {}


LIMIT = 1 << 20  # bytes of a step's summary; GitHub does not show a longer one
MARKS = {"PASS": "🟢", "FAIL": "🟥", "INCONCLUSIVE": "🔶", "ERROR": "❌"}


def markdown(document: Mapping[str, Any], limit: int = LIMIT) -> str:
    """Return the summary, at most ``limit`` bytes of UTF-8; ``""`` if nothing was judged or nothing fits."""
    found, contract = methods(document), document.get("contract", ())
    if not (found or contract or document.get("crashes")):
        return ""
    audits = sorted(
        (audit for method in found for audit in method.audits),
        key=lambda a: (as_required(a), WORST.index(a["verdict"])),
    )
    head = ["## Unlearning audits", "", escape(headline(document)), ""]
    rows = [_row(audit) for audit in audits]
    if rows:
        head += [
            "| verdict | method | task | poison | audit | estimate | interval | margin | seeds |",
            "|---" * 9 + "|",
        ]
    tail = ["", *_tail(document, found, audits)]
    if _size(head) + _size(rows) + _size(tail) > limit:
        tail, left = [], limit - _size(head) - 60  # the line that counts what does not fit is shorter than this
        kept = 0
        while kept < len(rows) and (left := left - _size(rows[kept : kept + 1])) >= 0:
            kept += 1
        if not kept:
            return ""
        rows, tail = rows[:kept], ["", f"{len(rows) - kept} more audits do not fit here."]
    return "\n".join([*head, *rows, *tail]) + "\n"


def _size(lines: Sequence[str]) -> int:
    """Return the bytes of lines in UTF-8, with what ends each."""
    return sum(len(line.encode()) + 1 for line in lines)


def _row(audit: Entry) -> str:
    verdict = audit["verdict"]
    numbers = [estimate(audit) or str(audit.get("reason") or ""), "", "", ""]
    if estimate(audit):
        ends = ["?" if x is None else shown_by(audit)(x) for x in audit["interval"]]
        margin = "" if audit["margin"] is None else percent(audit["margin"])
        numbers[1:] = [" to ".join(ends), margin, str(len(audit["seeds"]))]
    trace = escape(verdict_text(audit).removeprefix(verdict))
    shown = " ".join(filter(None, [f"{MARKS[verdict]} **{verdict}**", trace, manner(audit)]))
    place = (audit["unlearner"], audit["task"], audit["poison"], title_of(audit["claim"]))
    return f"| {' | '.join([shown, *map(escape, place), *map(escape, numbers)])} |"


def _tail(document: Mapping[str, Any], found: Sequence[MethodResult], audits: Sequence[Entry]) -> list[str]:
    """Return what stands below the table: what to run again, the contract, the usual metrics."""
    lines = []
    red = [a for a in audits if not as_required(a) and a.get("command")]
    for audit in red[:20]:
        text = audit.get("finding") or audit.get("reason") or audit["verdict"]
        text = f"{text} {audit.get('advice', '')}"
        lines += [f"- {escape(text)}", "", "  ```", f"  {audit['command']}"]
        lines += [*([f"  {audit['load']}"] if audit.get("load") else []), "  ```"]
    if len(red) > 20:
        lines.append(f"- and {len(red) - 20} more")
    settings = document.get("run", {}).get("settings", {})
    plan = settings.get("plan", DEFAULTS["plan"])
    below = [bad_seeds_left_open(found, plan), methods_that_pass(found, settings.get("alpha", 0.05), plan)]
    for line in filter(None, below):
        lines += ["", f"{escape(line)}."]
    if contract := document.get("contract", ()):
        lines += ["", "### Contract", "", *(f"- {escape(line)}" for line in contract_lines(contract))]
    named = {method.name: method for method in found}
    for name, rows, fooled in heuristic_rows(found):
        lines += ["", f"### The usual metrics of {escape(name)}", ""]
        for i, row in enumerate(rows):
            lines.append(f"| {' | '.join(map(escape, row))} |")
            if i == 0:
                lines.append("|---" * len(row) + "|")
        for line in filter(None, (fooled_line(fooled), *not_judged_lines(named[name]))):
            lines += ["", f"{escape(line)}."]
    return lines


def escape(text: object) -> str:
    """Return text that Markdown shows as it is, in one line, also inside a table."""
    flat = " ".join(str(text).split())
    for character in "\\`*_[]<>|#~":
        flat = flat.replace(character, {"<": "&lt;", ">": "&gt;", "|": "\\|"}.get(character, f"\\{character}"))
    return flat


def append_summary(document: Mapping[str, Any], target: Path) -> None:
    """Append to the summary of a step, within GitHub's limit; an error of writing is printed and fails no run."""
    try:
        taken = target.stat().st_size if target.exists() else 0
        if text := markdown(document, LIMIT - taken):
            with target.open("a", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        print(f"cannot write the summary to {target}: {error}", file=sys.stderr)
