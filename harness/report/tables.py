"""The closing tables of a run, as text: audits, usual metrics, contract. Works on plain values; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.judging.plan import LOOKS, MIN_PASS
from harness.report.words import WORST, flags, percent, points, reached


def table(audits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the closing table, method by method: a line per poison, and the controls beside it.

    Args:
        audits: What the items reported: `plain` verdicts with ``references``, or ``"ERROR"`` ones.
    """
    lines = []
    for place in dict.fromkeys((a["unlearner"], a["task"]) for a in audits):
        here = [a for a in audits if (a["unlearner"], a["task"]) == place]
        relearned = any(a["claim"] == "relearning" for a in here)
        told = min(a.get("discovery", 1.0) for a in here)
        rows = [["", "verdict", "poison left", "accuracy", "cost", *(["left, relearned"] if relearned else [])]]
        for poison in dict.fromkeys(a["poison"] for a in here):
            rows.append(_row(poison, [a for a in here if a["poison"] == poison])[: len(rows[0])])
        rows[0][0] = f"{place[0]} on {place[1]}"
        lines += _aligned(rows)
        if told < 1:
            lines += _discovery_lines(here, told)
        lines += reference_lines(here)
        lines.append("")
    return lines[:-1]


def heuristic_lines(heuristics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the usual metrics say, method by method: a line per poison, beside the verdict on the poison."""
    lines = []
    for (method, task), rows, fooled in heuristic_rows(heuristics):
        head = [f"{method} on {task}", "poison", *rows[0][2:]]
        lines += _aligned([head, *(["  " + row[0], *row[1:]] for row in rows[1:])])
        if fooled:
            count = f"{len(fooled)} of them say{'s' if len(fooled) == 1 else ''} unlearned"
            lines.append(f"  {count} where the audit of the poison FAILs: {', '.join(fooled)}")
        lines.append("")
    return lines[:-1]


def heuristic_rows(
    heuristics: Sequence[Mapping[str, Any]],
) -> list[tuple[tuple[str, str], list[list[str]], list[str]]]:
    """Return a table per method and task, its head first, and the heuristics that say "unlearned" where a poison is."""
    claims = list(dict.fromkeys(each["claim"] for each in heuristics))
    tables = []
    for place in dict.fromkeys((each["unlearner"], each["task"]) for each in heuristics):
        here = [each for each in heuristics if (each["unlearner"], each["task"]) == place]
        rows = [["poison", "its audit", *claims]]
        fooled = []
        for poison in dict.fromkeys(each["poison"] for each in here):
            by = {each["claim"]: each for each in here if each["poison"] == poison}
            verdict = next((each["poison_verdict"] for each in by.values() if "poison_verdict" in each), "ERROR")
            rows.append([poison, verdict, *(_heuristic_cell(by.get(claim)) for claim in claims)])
            if verdict == "FAIL":
                fooled += [f"{claim} ({poison})" for claim in claims if by.get(claim, {}).get("verdict") == "PASS"]
        tables.append((place, rows, fooled))
    return tables


def _heuristic_cell(found: Mapping[str, Any] | None) -> str:
    """Return a heuristic's means over seeds, of the unlearned and, in brackets, of the retrained models."""
    if found is None or not found.get("values"):
        return found["verdict"] if found else ""
    means = []
    for arm in ("unlearned", "retrained"):
        values = found["values"][arm]
        means.append("?" if None in values or not values else f"{sum(values) / len(values):.3f}".lstrip("0"))
    said = {
        "PASS": "unlearned",
        "FAIL": "not",
        "INCONCLUSIVE": found["reason"] if found["reason"] == "no-bite" else "?",
    }
    return f"{means[0]} [{means[1]}] {said[found['verdict']]}"


def contract_lines(contract: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line per method: how many lines of the contract it keeps, and which it breaks."""
    lines = []
    for method in dict.fromkeys(each["unlearner"] for each in contract):
        own = [each for each in contract if each["unlearner"] == method]
        broken = [each["line"] for each in own if each["kept"] is False]
        unknown = sum(each["kept"] is None for each in own)
        said = [f"breaks {', '.join(broken)}"] if broken else []
        if not broken and len(own) > unknown:
            said = [f"keeps all {len(own)} lines" if not unknown else f"keeps the {len(own) - unknown} lines examined"]
        said += [f"{unknown} could not be examined"] if unknown else []
        lines.append(f"{method}: {'; '.join(said)}")
    return lines


def methods_that_pass(audits: Sequence[Mapping[str, Any]], alpha: float) -> str | None:
    """Say which of several methods pass everything, with the error rate of saying so for all of them together.

    Each method's p-value is the largest of its audits' (intersection-union), times the looks at which it could have
    passed; over methods they are adjusted by Holm (1979). None for fewer than two methods.
    """
    audits = [a for a in audits if not a.get("control")]
    methods = dict.fromkeys(a["unlearner"] for a in audits)
    if len(methods) < 2:
        return None
    from harness.statistics import holm, rejects

    looks = sum(n >= MIN_PASS for n in LOOKS)
    p = []
    for method in methods:
        own = [a for a in audits if a["unlearner"] == method]
        tested = [a["p_pass"] for a in own if a.get("p_pass") is not None]
        passes = bool(tested) and all(a["verdict"] == "PASS" for a in own)
        p.append(min(1.0, looks * max(tested)) if passes else 1.0)
    named = [m for m, adjusted in zip(methods, holm(p), strict=True) if rejects(adjusted, alpha)]
    return (
        f"{len(named)} of {len(methods)} methods pass everything, at an error rate of {percent(alpha)} for all that "
        f"are named together (Holm): {', '.join(named) or 'none'}"
    )


def _row(poison: str, audits: Sequence[Mapping[str, Any]]) -> list[str]:
    by = {a["claim"]: a for a in audits}
    outcomes = [a["verdict"] for a in audits]
    worst = next(o for o in WORST if o in outcomes)
    # The seeds of the audits that decided the cell: a poison may FAIL at 3 while accuracy is still being judged.
    seeds = max((len(a["seeds"]) for a in audits if a["verdict"] == worst and worst != "ERROR"), default=0)
    left, relearned = (_left(by.get(claim, {})) for claim in ("poison", "relearning"))
    accuracy = cost = ""
    if "accuracy" in by and by["accuracy"].get("estimate") is not None:
        accuracy = points(by["accuracy"]["estimate"])
    if "cost" in by and by["cost"].get("estimate") is not None:
        cost = percent(by["cost"]["estimate"])
        details = by["cost"].get("details", {})
        if details.get("history_bytes"):
            cost += f" and {details['history_bytes'] / 1e6:.2g} MB of checkpoints"
        if flagged := flags(details, by["cost"].get("margin") or math.inf):
            cost += f" (but {' and '.join(flagged)})"
    texts = [left, accuracy, cost, relearned]
    for i, claim in enumerate(("poison", "accuracy", "cost", "relearning")):
        if claim in by:
            texts[i] = f"{texts[i]} {_said(by[claim])}".strip()
    return [f"  {poison}", f"{worst}" + (f"  n={seeds}" if seeds else ""), *texts]


def _said(audit: Mapping[str, Any]) -> str:
    """Return the verdict where it is no PASS, and how it stands to what was expected."""
    verdict, expected = audit["verdict"], audit.get("expected")
    if expected is None or expected["verdict"] == verdict == "PASS":
        return "" if verdict == "PASS" else str(verdict)
    return f"{verdict} as expected" if expected["met"] else f"{verdict}, expected {expected['verdict']}"


def _left(audit: Mapping[str, Any]) -> str:
    if audit.get("estimate") is None:
        return ""
    bounds = ", ".join("?" if x is None else f"{x:.2f}" for x in audit["interval"])
    return f"{audit['estimate']:.2f} [{bounds}]"


def _discovery_lines(audits: Sequence[Mapping[str, Any]], told: float) -> list[str]:
    """Return, for each poison, what retraining keeps of it where not all poisoned points are known."""
    lines = []
    for audit in audits:
        of = audit.get("details", {})
        if audit["claim"] == "poison" and of.get("remaining_keeps") is not None:
            keeps = f"{of['remaining_keeps']:.2f}"
            lines.append(
                f"  {audit['poison']}: with {100 * told:.3g} % handed over, retraining on what remains keeps {keeps}; "
                f"{reached(audit['verdict'], of)}"
            )
    return lines


def reference_lines(audits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the controls beside a method's audits say, in indented lines; none where no audit has any."""
    references = [a["references"] for a in audits if a.get("references")]
    if not references:
        return []
    lines = []
    short = [r["short"] for r in references if "short" in r]
    if short:
        outcomes = " ".join(sorted({s["poison"] for s in short}))
        difference, gain = (_mean([s[name] for s in short]) for name in ("accuracy_difference", "gain"))
        cost = sum(s["cost"] for s in short) / len(short)
        lines.append(
            f"  short, for comparison: poisons {outcomes}, accuracy {points(difference)}, cost {percent(cost)}; "
            f"this method's accuracy is {points(gain)} against it"
        )
    controls = []
    for name, measures in (("retrain", ("poison", "accuracy")), ("identity", ("poison",)), ("wrecked", ("accuracy",))):
        found = [r[name] for r in references if name in r]
        said = " ".join(sorted({f[m] for f in found for m in measures if m in f}))
        if said:
            controls.append(f"{name} {said} n={max(f['seeds'] for f in found)}")
    doses = dict.fromkeys(tuple(r["dose"].items()) for r in references if "dose" in r)
    for dose in doses:
        shares = " ".join(share.removeprefix("0") or "0" for share, _ in dose)
        letters = " ".join({"PASS": "P", "FAIL": "F"}.get(outcome, "?") for _, outcome in dose)
        controls.append(f"doses {shares}: {letters}")
    lines.append("  controls: " + " · ".join(controls))
    return lines


def _mean(numbers: Sequence[float | None]) -> float:
    """Return the mean of what is known: a model that diverged has no accuracy."""
    known = [x for x in numbers if x is not None]
    return sum(known) / len(known) if known else math.nan


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
