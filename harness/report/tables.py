"""The closing tables of a run, as text: audits, usual metrics, contract. Works on plain values; imports no torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.judging.claims import CLAIMS
from harness.judging.plan import LOOKS, Plan
from harness.judging.reasons import Reason
from harness.report.document import CellResult, Entry, MethodResult, grouped, title_of, worst_of
from harness.report.words import certificate_text, estimate, flags, fraction, percent, points, reached, verdict_text
from harness.specs import called
from harness.studies.controls import AUDITED


def table(methods: Iterable[MethodResult]) -> list[str]:
    """Return the closing table, method by method: a line for each poison, and the controls below."""
    lines = []
    for method in methods:
        if not method.audits:
            continue
        columns = columns_of(method.audits)
        rows = [[method.name, "verdict", *map(title_of, columns)]]
        rows += [[f"  {cell.poison}", *_texts(cell, columns)] for cell in method.cells if cell.audits]
        lines += [*_aligned(rows), *_discovery_lines(method), *_certificate_lines(method), *reference_lines(method), ""]
    return lines[:-1]


def rows_of(methods: Iterable[MethodResult], columns: Sequence[str]) -> list[list[str]]:
    """Return the closing table without controls as one table, the head first: a row for each method and poison.

    Args:
        methods: With their audits.
        columns: The claims to show.
    """
    rows = [["method", "task", "poison", "verdict", *map(title_of, columns)]]
    for method in methods:
        for cell in method.cells:
            texts = (" ".join(text.split()) for text in _texts(cell, columns))
            rows.append([method.called, method.task, cell.poison, *texts])
    return rows


#: What the numbers of the closing table mean, and where all other words are explained.
LEGEND = (
    "poison left: 0 as retrained, 1 as poisoned [interval] · accuracy: minus retraining's · "
    "cost: share of retraining's · n: seeds · words: pytest-unlearning glossary"
)

#: Reasons for which a longer plan, or another method, would not help: the poison or the task is too weak.
TOO_WEAK = (Reason.NO_BITE, Reason.ORACLE_NOT_PASS, Reason.ORACLE_FAILS)


def too_weak(methods: Iterable[MethodResult]) -> list[str]:
    """Return a line for each poison by which no method can be judged, with the command that says what would help."""
    found = {
        (method.task, cell.poison): audit["reason"]
        for method in methods
        for cell in method.cells
        for audit in cell.audits
        if audit["claim"] == "poison" and audit.get("reason") in list(TOO_WEAK)
    }
    return [
        f"{poison} on {task}: nothing can be judged ({reason}); see pytest-unlearning plan "
        f"{shlex.quote(f'--task={task}')} {shlex.quote(f'--poison={poison}')}"
        for (task, poison), reason in found.items()
    ]


def columns_of(audits: Iterable[Entry]) -> list[str]:
    """Return the claims of a table's columns: those that always run, and those that ran."""
    ran = dict.fromkeys(audit["claim"] for audit in audits)
    known = [name for name, claim in CLAIMS.items() if name in ran or (claim.gates and not claim.mark)]
    return [*known, *(name for name in ran if name not in CLAIMS)]


def _texts(cell: CellResult, columns: Sequence[str]) -> list[str]:
    """Return the worst verdict on a poison, with its seeds, and what each claim comes to."""
    seeds = f"  n={cell.seeds}" if cell.seeds else ""
    return [cell.worst + seeds, *(_text(cell.by_claim[claim]) if claim in cell.by_claim else "" for claim in columns)]


def _text(audit: Entry) -> str:
    """Return the cell of an audit: its estimate, its verdict unless that is PASS, and what was expected."""
    text, details = estimate(audit), audit.get("details", {})
    if text and audit.get("test") == "retention":
        text += f" [{', '.join('?' if x is None else fraction(x) for x in audit['interval'])}]"
    if details.get("history_bytes"):
        text += f" and {details['history_bytes'] / 1e6:.2g} MB of checkpoints"
    if text and audit.get("test") == "budget" and (flagged := flags(details, audit.get("margin") or math.inf)):
        text += f" (but {' and '.join(flagged)})"
    verdict, expected = verdict_text(audit), audit.get("expected")
    if expected is not None and not expected["verdict"] == verdict == "PASS":
        verdict += " as expected" if expected["met"] else f", expected {expected['verdict']}"
    return text if verdict == "PASS" else f"{text} {verdict}".strip()


def _certificate_lines(method: MethodResult) -> list[str]:
    """Return, for each poison by which it can be tested, what a method certifies, and whether that is contradicted."""
    audits = [(cell.poison, audit) for cell in method.cells for audit in cell.audits if audit["claim"] == "poison"]
    texts = [(poison, certificate_text(audit.get("details", {}))) for poison, audit in audits]
    return [f"  certified: {text} ({poison})" for poison, text in texts if text]


def _discovery_lines(method: MethodResult) -> list[str]:
    """Return, for each poison of which some points are unknown, what retraining keeps of it."""
    return [
        f"  {cell.poison}: with {100 * cell.discovery:.3g} % handed over, retraining on the remaining data keeps "
        f"{fraction(audit['details']['remaining_keeps'])}; {reached(audit['verdict'], audit['details'])}"
        for cell in method.cells
        for audit in cell.audits
        if audit.get("details", {}).get("remaining_keeps") is not None
    ]


def reference_lines(method: MethodResult) -> list[str]:
    """Return what the controls beside a method's audits conclude, in indented lines; empty without controls."""
    references = method.references
    if not references:
        return []
    lines = []
    if short := [r["short"] for r in references if "short" in r]:
        outcomes = " ".join(sorted({s["poison"] for s in short}))
        difference, gain = (_mean([s[name] for s in short]) for name in ("accuracy_difference", "gain"))
        lines.append(
            f"  short, for comparison: poisons {outcomes}, accuracy {points(difference)}, cost "
            f"{percent(_mean([s['cost'] for s in short]))}; this method's accuracy minus short's: {points(gain)}"
        )
    controls = []
    for name, claims in AUDITED.items():
        found = [r[name] for r in references if name in r]
        if outcomes := " ".join(sorted({f[claim] for f in found for claim in claims if claim in f})):
            controls.append(f"{name} {outcomes} n={max(f['seeds'] for f in found)}")
    for dose in {tuple(r["dose"].items()): None for r in references if "dose" in r}:
        shares = ", ".join(f"{100 * float(share):g}" for share, _ in dose)
        controls.append(f"{shares} % of the poison: {' '.join(outcome for _, outcome in dose)}")
    lines.append("  controls: " + " · ".join(controls))
    return lines


#: Columns of the table of usual metrics that a terminal has room for.
WIDEST = 9


def heuristic_lines(methods: Iterable[MethodResult]) -> list[str]:
    """Return what the usual metrics conclude, method by method: a line for each poison, beside its audit."""
    methods, lines = list(methods), []
    by_name = {method.name: method for method in methods}
    for name, rows, fooled in heuristic_rows(methods):
        shown = [[name, "poison", *rows[0][2:]], *([f"  {row[0]}", *row[1:]] for row in rows[1:])]
        if len(rows[0]) > WIDEST:  # a line for each metric
            shown = [[cells[0], *map(str.strip, cells[1:])] for cells in zip(*shown, strict=True)]
            shown = [shown[0], *([f"  {each[0]}", *each[1:]] for each in shown[1:])]
        lines += _aligned(shown)
        lines += [f"  {line}" for line in (fooled_line(fooled), *not_judged_lines(by_name[name])) if line]
        lines.append("")
    return lines[:-1]


def fooled_line(fooled: Sequence[str]) -> str:
    """Return how many metrics conclude "unlearned" of a poison whose audit FAILs, and which; ``""`` if none does."""
    if not fooled:
        return ""
    count = f"{len(fooled)} metric{'s' * (len(fooled) > 1)} conclude{'s' * (len(fooled) == 1)}"
    return f"{count} “unlearned” although the audit of the poison FAILs: {', '.join(fooled)}"


def not_judged_lines(method: MethodResult) -> list[str]:
    """Return a line for each usual metric that does not apply to a poison, with the reason."""
    return [
        f"{each['claim']} ({each['poison']}) is not judged: {each['reason']}"
        for each in method.metrics
        if _own_reason(each)
    ]


def _own_reason(found: Entry) -> bool:
    """Return whether a metric says in words of its own why it reads nothing."""
    return bool(found.get("reason")) and found["reason"] not in list(Reason) and found["verdict"] == "INCONCLUSIVE"


def heuristic_rows(methods: Iterable[MethodResult]) -> list[tuple[str, list[list[str]], list[str]]]:
    """Return a table for each method with usual metrics.

    Returns:
        For each: its name, its rows with the head first, and the metrics that conclude "unlearned" of a poison whose
        audit FAILs.
    """
    methods = [method for method in methods if method.metrics]
    claims = list({each["claim"]: None for method in methods for each in method.metrics})
    tables = []
    for method in methods:
        rows, fooled = [["poison", "its audit", *map(title_of, claims)]], []
        for cell in method.cells:
            by = {each["claim"]: each for each in cell.metrics}
            audited = next((each["poison_verdict"] for each in by.values() if "poison_verdict" in each), "ERROR")
            rows.append([cell.poison, audited, *(_metric_text(by.get(claim)) for claim in claims)])
            if audited == "FAIL":
                fooled += [f"{claim} ({cell.poison})" for claim in by if by[claim]["verdict"] == "PASS"]
        tables.append((method.name, rows, fooled))
    return tables


def _metric_text(found: Entry | None) -> str:
    """Return the means over seeds of the unlearned and, in brackets, of the retrained models, and the verdict."""
    if found is None or not found.get("values"):
        return found["verdict"] if found else ""
    if _own_reason(found):
        return "not judged"
    means = []
    for arm in ("unlearned", "retrained"):
        values = found["values"][arm]
        means.append("?" if None in values or not values else f"{sum(values) / len(values):.3f}")
    words = {"PASS": "unlearned", "FAIL": "not unlearned", "ERROR": "ERROR"}
    undecided = found["reason"] if found["reason"] == Reason.NO_BITE else "undecided"
    return f"{means[0]} [{means[1]}] {words.get(found['verdict'], undecided)}"


def contract_lines(contract: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each method: how many lines of the contract it keeps, and which it breaks."""
    lines = []
    for (method,), own in grouped(contract, "unlearner").items():
        broken = [each["line"] for each in own if each["kept"] is False]
        unknown = sum(each["kept"] is None for each in own)
        texts = [f"breaks {', '.join(broken)}"] if broken else []
        if not broken and len(own) > unknown:
            texts = [f"keeps all {len(own)} lines" if not unknown else f"keeps the {len(own) - unknown} lines checked"]
        texts += [f"{unknown} could not be checked"] if unknown else []
        lines.append(f"{called(method)}: {'; '.join(texts)}")
    return lines


def methods_that_pass(methods: Iterable[MethodResult], alpha: float, plan: str) -> str | None:
    """Return which of several methods pass everything, with the error rate of naming them all together.

    Each method's p-value is the largest of its audits' (intersection-union), times the looks at which it could have
    passed; over methods they are adjusted by Holm (1979). None for fewer than two methods.

    Args:
        methods: With their audits.
        alpha: The error rate.
        plan: The kind of the seed plan.
    """
    by_method: dict[str, list[Entry]] = {}
    for method in methods:
        if method.audits and not method.control:
            by_method.setdefault(method.unlearner, []).extend(method.audits)
    if len(by_method) < 2:
        return None
    from harness.statistics import holm, rejects  # here, because a run without audits needs no scipy

    looks = Plan(kind=plan).pass_looks
    p = []
    for own in by_method.values():
        # Of several traces the least certain one counts; an exact null has no p-value of a PASS.
        traces = [each for a in own for each in (a, *a.get("traces", {}).values())]
        tested = [each["p_pass"] for each in traces if each.get("p_pass") is not None]
        p.append(min(1.0, looks * max(tested)) if tested and worst_of(own) == "PASS" else 1.0)
    named = [m for m, adjusted in zip(by_method, holm(p), strict=True) if rejects(adjusted, alpha)]
    return (
        f"{len(named)} of {len(by_method)} methods pass everything{': ' * bool(named)}{', '.join(map(called, named))} "
        f"(error rate {percent(alpha)} over all of them together, by Holm)"
    )


def bad_seeds_left_open(methods: Iterable[MethodResult], plan: str) -> str:
    """Return what share of bad seeds a PASS on the fewest seeds leaves open; ``""`` if no method passes a test.

    Args:
        methods: With their audits.
        plan: The kind of the seed plan.
    """
    passed = [
        len(audit["seeds"])
        for method in methods
        for audit in method.audits
        if not method.control and audit["verdict"] == "PASS" and audit.get("p_pass") is not None
    ]
    if not passed:
        return ""
    from harness.statistics import bad_seed_bound  # here, because a run without audits needs no scipy

    n = min(passed)
    excluded = f"exclude{'' if Plan(kind=plan).reliable else ' only'} that more than {percent(bad_seed_bound(n))}"
    more = "" if Plan(kind=plan).reliable else f" (--audit-plan=reliable asks for {LOOKS[-1]})"
    return f"{n} good seeds {excluded} of seeds are bad{more}"


def _mean(numbers: Sequence[float | None]) -> float:
    """Return the mean of the numbers that are known: a model that diverged has no accuracy."""
    known = [x for x in numbers if x is not None]
    return sum(known) / len(known) if known else math.nan


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
