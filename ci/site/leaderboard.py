"""The tables of the page of results, made of the bundles in ``ci/results``. Every bundle's signature is checked.

Still a bundle is text that somebody sent, and hard to review: what it says is shown as text, whatever is in it.

Methods are ordered by how many poisons they pass, with every audit; among equals, by how far on average the share of
the poisons that is left is from 0.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bundles.bundle import Bundle, opened
from harness.bundles.made import others_of
from harness.report.changes import MEANING
from harness.report.document import CellResult, Entry, MethodResult, grouped, methods
from harness.report.history import view
from harness.report.words import estimate, flags, fraction, percent, points, verdict_text
from harness.specs import called

#: Who may sign the bundles of the table, beside them.
SIGNERS = "signers"


@dataclass(frozen=True)
class Row:
    """A bundle of the table: its file, the bundle, and what it says of its method."""

    file: Path
    bundle: Bundle
    method: MethodResult

    @property
    def run(self) -> Mapping[str, Any]:
        """What the result says of its run."""
        found: Mapping[str, Any] = self.bundle.document["run"]
        return found

    @property
    def date(self) -> str:
        """The day on which it was made, in UTC."""
        return str(self.run["started"])[:10]

    @property
    def terms(self) -> tuple[Any, ...]:
        """What must be equal for two verdicts to mean the same: the task, and the settings."""
        return (self.method.task, *(self.run["settings"][name] for name in MEANING))


def rows_in(folder: Path) -> list[Row]:
    """Return the bundles below a folder, the earliest first.

    Raises:
        UnlearningError: One of them was changed, or nobody in the folder's file of signers has signed it.
    """
    rows = []
    for file in sorted(folder.glob("*/*.zip")):
        with tempfile.TemporaryDirectory() as place:
            bundle = opened(file, Path(place), folder / SIGNERS)
        rows += [Row(file, bundle, method) for method in methods(bundle.document)]
    return sorted(rows, key=lambda row: str(row.run["started"]))


def tables(folder: Path, link: Callable[[Path], str]) -> str:
    """Return a table in Markdown for each task and kind of plan.

    Args:
        folder: Where the bundles are.
        link: From a file to where the page finds it.
    """
    of_terms: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows_in(folder):
        of_terms.setdefault(row.terms, {})[row.method.unlearner] = row  # the latest one of a method
    return "\n".join(_table(list(rows.values()), link) for rows in of_terms.values()) or "There is no bundle yet.\n"


def _table(rows: Sequence[Row], link: Callable[[Path], str]) -> str:
    poisons = list(dict.fromkeys(cell.poison for row in rows for cell in row.method.cells))
    heads = [_plain(poison).replace(":", ":<br>") for poison in poisons]
    lines = [
        f"### {_plain(rows[0].method.task)}, {_plain(rows[0].run['settings']['plan'])} plan\n",
        _cells(["method", "passed", "accuracy", *heads, "cost", "bundle"]),
        _cells(["---"] * (len(poisons) + 5)),
    ]
    for row in sorted(rows, key=_rank):
        cells = {cell.poison: cell for cell in row.method.cells}
        passed, link_text = f"{_passes(row)} of {len(cells)}", f"[{row.date}]({link(row.file)})"
        left = [_left(cells[poison]) if poison in cells else "" for poison in poisons]
        accuracy, cost = _accuracy(_claim(row, "accuracy")), _cost(_claim(row, "cost"))
        lines.append(_cells([_code(row.method.called), passed, accuracy, *left, cost, link_text]))
    return "\n".join([*lines, "", *_made(rows), *_left_out(rows[0].file.parent), ""])


def _rank(row: Row) -> tuple[float, float, str]:
    shares = [share for audit in _claim(row, "poison") if (share := _share(audit)) is not None]
    return (-_passes(row), sum(map(abs, shares)) / len(shares) if shares else math.inf, row.method.called)


def _share(audit: Entry) -> float | None:
    """Return the share of the poison that is left, by the trace of which most is; None if no share was measured."""
    traces = audit.get("traces") or {"": audit}
    shares = [of["estimate"] for of in traces.values() if of.get("test") == "retention" and of["estimate"] is not None]
    return max(shares, key=abs, default=None)


def _passes(row: Row) -> int:
    """Return how many poisons a method passes: removed, accuracy kept, within the budget."""
    return sum(cell.worst == "PASS" for cell in row.method.cells)


def _claim(row: Row, claim: str) -> list[Entry]:
    return [audit for audit in row.method.audits if audit["claim"] == claim]


def _left(cell: CellResult) -> str:
    """Return the verdict on a poison, and below it what is left, its interval and n."""
    audit = cell.by_claim["poison"]
    left = _plain(estimate(audit))
    if audit.get("test") == "retention":
        left += f" [{', '.join('?' if x is None else fraction(x) for x in audit['interval'])}]"
    return f"{_verdict(verdict_text(audit))}<br>{left}<br>n = {len(audit['seeds'])}"


def _accuracy(audits: Sequence[Entry]) -> str:
    """Return the range of accuracies against retraining, with the verdicts."""
    values = [audit["estimate"] for audit in audits if audit["estimate"] is not None]
    shown = dict.fromkeys(points(value) for value in (min(values), max(values))) if values else {}
    text = " to ".join(shown).replace(" pp to", " to")
    return f"{_verdicts(audits)}<br>{text}"


def _cost(audits: Sequence[Entry]) -> str:
    """Return the largest share of retraining's compute, and the verdicts unless all are PASS."""
    most = max((audit["estimate"] for audit in audits if audit["estimate"] is not None), default=math.nan)
    hidden = dict.fromkeys(text for audit in audits for text in flags(audit.get("details", {}), audit["margin"]))
    return "<br>".join([_verdicts(audits), percent(most), *list(hidden)[:1]])


def _verdicts(audits: Sequence[Entry]) -> str:
    """Return the verdicts of some audits: one word if all are equal, else how many of each."""
    counted = {verdict: len(of) for (verdict,), of in sorted(grouped(audits, "verdict").items())}
    return _verdict(*counted) if len(counted) == 1 else ", ".join(f"{n} {_verdict(v)}" for v, n in counted.items())


def _verdict(text: str) -> str:
    """Return a verdict; one that is undecided is a question mark, which leaves room for the rest."""
    return f"**{text}**" if text == "PASS" else _plain(text.replace("INCONCLUSIVE", "?"))


def _made(rows: Iterable[Row]) -> list[str]:
    """Return what bundles were made with, in a line for each kind."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        versions = row.run["versions"]
        named = ", ".join(f"{name} {versions[name]}" for name in ("pytest-unlearning", "torch", "python"))
        text = f"{row.bundle.made.machine} ({row.run['device']}); {named}; signed by {row.bundle.signed_by}"
        kinds.setdefault(text, []).append(row)
    return [f"- {len(of)} bundle{'s' * (len(of) > 1)}: {_plain(text)}" for text, of in kinds.items()]


def _left_out(folder: Path) -> list[str]:
    """Return the methods that could not be submitted on the task of a folder, each with the reason."""
    file = folder / "left_out.json"
    reasons: Mapping[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return [f"- Left out: {_code(called(method))}: {_plain(reason)}" for method, reason in sorted(reasons.items())]


def history(folder: Path, link: Callable[[Path], str]) -> str:
    """Return what changed between the bundles of one method on one task, in Markdown.

    Args:
        folder: Where the bundles are.
        link: As for `tables`.
    """
    by_method: dict[tuple[str, str], list[Row]] = {}
    for row in rows_in(folder):
        by_method.setdefault((row.method.task, row.method.unlearner), []).append(row)
    several = [rows for rows in by_method.values() if len(rows) > 1]
    return "\n".join(_changes(rows, link) for rows in several) or "There is one bundle of each method so far.\n"


def _changes(rows: Sequence[Row], link: Callable[[Path], str]) -> str:
    shown = view([(row.date, row.bundle.document) for row in rows])
    ((name, audits),) = shown["sections"].items()
    lines = [f"### {_plain(name)}\n", _cells(["poison", "claim", *(f"[{row.date}]({link(row.file)})" for row in rows)])]
    lines.append(_cells(["---"] * (len(rows) + 2)))
    for audit in audits:
        texts = (f"{_verdict(verdict_text(run))} {_plain(run['shown'])}" if run else "" for run in audit["runs"])
        lines.append(_cells([_plain(audit["poison"]), _plain(audit["claim"]), *texts]))
    lines.append("")
    for step, old, new in zip(shown["steps"], rows, rows[1:], strict=False):
        lines.append(f"From {step['before']} to {step['after']}:\n")
        other = others_of(old.bundle.made.sources, new.bundle.made.sources)
        said = [*step["made_with"], *([f"Different source of the harness: {', '.join(other)}."] if other else [])]
        lines += [
            f"- {_plain(text)}" for text in (*said, *(change.sentence for change in step["changes"]), step["same"])
        ]
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return f"`{' '.join(text.split()).replace('`', '')}`"


def _cells(texts: Iterable[str]) -> str:
    escaped = (re.sub(r"(?<!\\)\|", r"\|", text) for text in texts)
    return f"| {' | '.join(escaped)} |"
