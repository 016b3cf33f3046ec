"""The figure that puts membership inference beside the poison's own measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from harness.judging.reasons import Reason
from harness.report import svg
from harness.report.document import Entry, methods
from harness.report.figures import RIGHT, ROW, TOP, WIDTH, sentence
from harness.report.svg import Scale, axis, band, drawing, interval, mark, number, palette, path, style, words
from harness.report.words import RATE, percent, points

CONFIDENCE = 0.95  # of the t intervals over seeds

#: By method, the claim of membership inference and that of the poison.
_Pairs = Mapping[str, tuple[Entry, Entry]]


@dataclass(frozen=True)
class Point:
    """A number with its interval.

    Attributes:
        value: The number.
        low, high: Ends of the interval; None if it is unbounded.
        n: Seeds.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    def text(self) -> str:
        """Return it as people read it."""
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}] n={self.n}"


@dataclass(frozen=True)
class Panel:
    """One panel: two metrics, method by method.

    Attributes:
        title: What it shows.
        axis: What its numbers are.
        names: Names of the two metrics, by ``"membership"`` and ``"poison"``.
        rows: By method the number of each metric; None if there is none.
        tolerated: The largest number that passes, in either direction; None if nothing is judged.
        references: Numbers of retrained models, by metric.
        sentences: What it shows, in words.
    """

    title: str
    axis: str
    names: Mapping[str, str]
    rows: Mapping[str, Mapping[str, Point | None]]
    tolerated: float | None
    references: Mapping[str, float]
    sentences: Sequence[str]


def panels(document: Mapping[str, Any]) -> list[Panel]:
    """Return membership inference beside the poison's own measure; empty unless both ran.

    For a poison whose measure reads a rate of true positives: this rate at 1 % false positives, as in Figure 2 of
    Pawelczyk et al. (arXiv 2406.17216), means over seeds with t intervals, between those of retrained and of poisoned
    models. For every poison: the fraction of its effect that is left by the two measures that are judged, with the
    intervals of their audits.
    """
    pairs: dict[tuple[str, str], dict[str, tuple[Entry, Entry]]] = {}
    for method in methods(document):
        for cell in method.cells:
            attack, audit = (cell.by_claim.get(claim, {}) for claim in ("membership", "poison"))
            if attack.get("values") and audit.get("values"):
                pairs.setdefault((method.task, cell.poison), {})[method.called] = (attack, audit)
    found = []
    several = len({task for task, _ in pairs}) > 1
    for (task, poison), by_method in pairs.items():
        name = f"{poison} on {task}" if several else poison
        if all(RATE in of.get("by_seed", {}) for pair in by_method.values() for of in pair):
            found.append(_rates(name, by_method))
        found.append(_fractions(name, by_method))
    return found


def _rates(name: str, pairs: _Pairs) -> Panel:
    def read(arm: str, attack: Mapping[str, Any], audit: Mapping[str, Any]) -> dict[str, Point | None]:
        return {
            "membership": t_interval(attack["by_seed"][RATE][arm]),
            "poison": t_interval(audit["by_seed"][RATE][arm]),
        }

    # Retrained and poisoned models are the same for all methods: the longest list of seeds holds them all.
    longest = max(pairs.values(), key=lambda pair: min(len(of["seeds"]) for of in pair))
    retrained = read("retrained", *longest)
    rows = {
        "retrained": retrained,
        **{method: read("unlearned", *pair) for method, pair in pairs.items()},
        "poisoned": read("poisoned", *longest),
    }
    seen = longest[1]["by_seed"][RATE]
    differences = [p - r for p, r in zip(seen["poisoned"], seen["retrained"], strict=True) if None not in (p, r)]
    bite = t_interval(differences)
    sentences = []
    if bite is not None:
        sees = bite.low is not None and bite.low > 0
        sentences.append(
            f"At this rate the score of the poison finds {'more' if sees else 'no more'} points in poisoned models "
            f"than in retrained ones: the rates differ by {points(bite.value)}, interval {points(bite.low or 0)} to "
            f"{points(bite.high or 0)} (n = {bite.n})."
            + ("" if sees else " The audit judges the mean of the scores, which does differ: see the next panel.")
        )
    failed = [method for method, (_, audit) in pairs.items() if audit["verdict"] == "FAIL"]
    reference = retrained["membership"]
    if failed and reference is not None:
        below = [m for m in failed if (point := rows[m]["membership"]) and point.value <= reference.value]
        sentences.append(
            f"The audit of the poison FAILs for {len(failed)} method{'s' * (len(failed) != 1)}. The rate of membership "
            f"inference is no higher than after retraining for {len(below)} of them."
        )
    references = {metric: point.value for metric, point in retrained.items() if point is not None}
    return Panel(
        f"{name}: points found at 1 % false positives",
        "rate of true positives at 1 % false positives",
        {"membership": "membership inference by loss", "poison": "score of the poison"},
        rows, None, references, sentences,
    )  # fmt: skip


def _fractions(name: str, pairs: _Pairs) -> Panel:
    def judged(audit: Mapping[str, Any]) -> Point | None:
        of = _main(audit)
        if of["estimate"] is None or of["reason"] == Reason.NO_BITE:
            return None
        low, high = of["interval"]
        return Point(of["estimate"], low, high, of["seeds"] if of is not audit else len(audit["seeds"]))

    rows = {m: {"membership": judged(attack), "poison": judged(audit)} for m, (attack, audit) in pairs.items()}
    failed = {m: attack["verdict"] for m, (attack, audit) in pairs.items() if audit["verdict"] == "FAIL"}
    fooled = [m for m, verdict in failed.items() if verdict == "PASS"]
    first = _main(next(iter(pairs.values()))[1])
    return Panel(
        f"{name}: fraction of its effect that is left",
        "fraction left: 0 as if retrained, 1 nothing unlearned",
        {"membership": "area under the attack's curve", "poison": str(first.get("title", "measure of the poison"))},
        rows, first["margin"], {},
        [
            f"The audit of the poison FAILs for {len(failed)} of {len(pairs)} methods. Membership inference, judged by "
            f"the area under its curve, concludes “unlearned” for {len(fooled)} of them"
            + (f" ({', '.join(fooled)})." if fooled else ".")
        ],
    )  # fmt: skip


def _main(audit: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the main trace of an audit comes to, whichever trace decides it."""
    main: Mapping[str, Any] = next(iter(audit.get("traces", {}).values()), audit)
    return main


def t_interval(values: Iterable[float | None]) -> Point | None:
    """Return a mean over seeds with its t interval at `CONFIDENCE`; None without values, or if one is missing."""
    from harness.statistics import t_statistic  # here, because listing audits loads no scipy

    known = list(values)
    if not known or None in known:
        return None
    numbers = [float(v) for v in known if v is not None]
    if len(numbers) < 2:
        return Point(numbers[0], None, None, 1)
    mean = fmean(numbers)
    half = t_statistic((1 - CONFIDENCE) / 2, len(numbers) - 1) * stdev(numbers) / math.sqrt(len(numbers))
    return Point(mean, mean - half, mean + half, len(numbers))


def draw_panel(panel: Panel, name: str) -> str:
    """Return a panel's drawing."""
    longest = max(map(len, panel.rows))
    left = min(max(70.0, 6.6 * longest + 8), 150.0)
    cut = int((left - 8) / 6.4)
    x = _scale(panel, left)
    top = TOP + 24
    bottom = top + ROW * len(panel.rows)
    parts = []
    for i, (metric, title) in enumerate(panel.names.items()):
        parts += [mark(metric, 7, 10 + 17 * i, 5), words(18, 14 + 17 * i, title)]
    if panel.tolerated is not None:
        parts += [
            band(x, -panel.tolerated, panel.tolerated, top - 6, bottom),
            *(path(f"M{x(at):.1f} {top - 6}V{bottom}", "edge") for at in (0, 1)),
            *(path(f"M{x(at):.1f} {top - 6}V{bottom}", "limit") for at in (-panel.tolerated, panel.tolerated)),
        ]
    parts += [
        path(f"M{x(value):.1f} {top - 6}V{bottom}", f"c-{svg.CLASSES[metric]} dash")
        for metric, value in panel.references.items()
    ]
    texts = []
    for row, (method, by) in enumerate(panel.rows.items()):
        y = top + ROW * row + ROW / 2
        named = method if len(method) <= cut else method[: cut - 1] + "…"
        reference = panel.tolerated is None and method in ("retrained", "poisoned")
        parts += [path(f"M0 {y + ROW / 2:g}H{RIGHT + 6}", "rule"), words(0, y + 4, named, "start", "soft" * reference)]
        for metric, shift in (("membership", -6), ("poison", 6)):
            point = by[metric]
            parts += _point(x, y + shift, metric, point, method, rate=panel.tolerated is None)
            if point is not None:
                texts.append(f"{method}, {panel.names[metric]}: {point.text()}")
    parts.append(axis(x, bottom + 4, panel.axis, percent=panel.tolerated is None))
    return drawing(WIDTH, bottom + 46, name, panel.title, sentence(texts), parts)


def _scale(panel: Panel, left: float) -> Scale:
    """Return the scale of a panel: all numbers, and their intervals unless these are very wide."""
    points = [p for of in panel.rows.values() for p in of.values() if p is not None]
    core = [0.0, *(p.value for p in points)] + (
        [1.0, panel.tolerated, -panel.tolerated] if panel.tolerated is not None else []
    )
    reach = (max(core) - min(core)) / 2
    ends = [min(max(e, min(core) - reach), max(core) + reach) for p in points for e in (p.low, p.high) if e is not None]
    if panel.tolerated is None:
        ends = [max(0.0, e) for e in ends]  # a rate is at least 0
    return Scale.around([*core, *ends], left, RIGHT + 6)


def _point(x: Scale, y: float, metric: str, point: Point | None, method: str, rate: bool) -> list[str]:
    """Return a number with its interval."""
    if point is None:
        return [words(x.right, y + 4, "not judged", "end", "soft")]
    low = max(0.0, point.low) if rate and point.low is not None else point.low
    return [
        interval(x, (low, point.high), y, f"c-{svg.CLASSES[metric]} thin", cap=3),
        mark(metric, x(point.value), y, 4.5, tip=f"{method}: {point.text()}"),
    ]


def contrast_file(document: Mapping[str, Any]) -> str:
    """Return all panels side by side as an SVG file of its own, on white.

    Raises:
        ValueError: The document does not have both usual metrics and audits of a poison.
    """
    found = panels(document)
    if not found:
        raise ValueError(
            'the figure needs usual metrics and audits of one run: pytest test_suites -m "heuristic or audit"'
        )
    gap, head = 28, 34
    drawn = [draw_panel(panel, f"panel-{i}") for i, panel in enumerate(found)]
    heights = [float(text.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1]) for text in drawn]
    width, height = len(found) * (WIDTH + gap) + gap, max(heights) + head + 46
    parts = [f'<rect width="{width}" height="{height:g}" fill="#fff"/>']
    for i, (panel, text, tall) in enumerate(zip(found, drawn, heights, strict=True)):
        left = gap + i * (WIDTH + gap)
        place = f'<svg x="{left}" y="{head}" width="{WIDTH}" height="{tall:g}" '
        parts += [words(left, 22, panel.title, classes="strong"), text.replace("<svg ", place, 1)]
    parts.append(words(gap, height - 14, footnote(found), classes="soft"))
    body = drawing(width, height, "contrast", "Membership inference beside the poison's own measure",
                 " ".join(sentence for panel in found for sentence in panel.sentences), parts)  # fmt: skip
    sheet = f"<style>svg{{{palette()}}}{style()}{DASH}</style>"
    return body.replace("<title ", f"{sheet}<title ", 1) + "\n"


DASH = ".dash{stroke-dasharray:2 3;fill:none}"


def footnote(found: Sequence[Panel]) -> str:
    """Return what the marks and intervals of panels are, in words."""
    seeds = sorted({p.n for panel in found for of in panel.rows.values() for p in of.values() if p is not None})
    n = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}" if seeds else "no"
    rates = f"Rates: means over seeds with {percent(CONFIDENCE)} t intervals; dotted lines mark retraining. "
    fractions = "Fractions: intervals of the audits, at the level of the look that decided; the band is tolerated. "
    return (rates if any(panel.tolerated is None for panel in found) else "") + fractions + f"n = {n} seeds."
