"""The figures of an audit, as SVG: its seeds, and its looks up to the verdict.

Pure functions of the JSON result; they import no torch. To add a figure to every audit of the page,
add it to `figures`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from harness.report import svg
from harness.report.svg import Scale, axis, band, drawing, interval, mark, number, path, words
from harness.report.words import fraction, points

WIDTH = 360  # of a figure, in pixels: what a telephone shows without shrinking it
LEFT, RIGHT, TOP, ROW = 84, 346, 26, 30
ARMS = ("poisoned", "retrained", "unlearned")


def figures(audit: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    """Return the captions and drawings of an audit or usual metric; empty without numbers.

    Args:
        audit: One of the JSON's audits or heuristics.
        name: An id that nothing else on the page has.
    """
    seeds, looks = "Each mark is a seed, each bar a mean", "The estimate at each look"
    if audit.get("test") == "exact-null":
        seeds += "."
        looks += ". A PASS needs 0 in the thick interval, a FAIL needs it outside the thin one."
    else:
        seeds += ", and the band is tolerated."
        looks += ". A PASS needs the thick interval in the band, a FAIL needs the thin one outside it."
    looks += " The plan also asks for enough seeds."
    drawn = ((seeds, seeds_figure(audit, f"s{name}")), (looks, path_figure(audit, f"p{name}")))
    return [(caption, figure) for caption, figure in drawn if figure]


def seeds_figure(audit: Mapping[str, Any], name: str) -> str:
    """Return every seed of P, R and U as a mark, with means and what is tolerated; ``""`` without numbers.

    Args:
        audit: One of the JSON's audits or heuristics.
        name: An id that nothing else on the page has.
    """
    values: Mapping[str, Sequence[float | None]] = audit.get("values") or {}
    arms = ("unlearned",) if audit.get("test") == "budget" else ARMS
    known = {arm: [v for v in values.get(arm, ()) if v is not None] for arm in arms}
    if not any(known.values()):
        return ""
    ends = _tolerated(audit, known)
    x = Scale.around([*(v for of in known.values() for v in of), *(ends or ())], LEFT, RIGHT)
    bottom = TOP + ROW * len(arms)
    parts, texts = [], []
    if ends is not None:
        lower = audit.get("worse") == "lower" and audit.get("test") != "budget"
        limits = ends if audit.get("test") == "retention" else (ends[0] if lower else ends[1],)
        parts.append(band(x, *ends, TOP - 8, bottom))
        parts += [path(f"M{x(limit):.1f} {TOP - 8}V{bottom}", "limit") for limit in limits]
        parts.append(_over_band(x, *ends, "tolerated"))
    for row, arm in enumerate(arms):
        drawn, text = _arm(x, TOP + ROW * row + ROW / 2, arm, audit.get("seeds", ()), values.get(arm, ()))
        parts += drawn
        texts += text
    parts.append(axis(x, bottom + 4, _short_title(audit), audit.get("unit") == "%"))
    if ends is not None:
        texts.append(f"tolerated from {number(ends[0])} to {number(ends[1])}")
    description = f"{sentence(texts)} The bars are means."
    return drawing(WIDTH, bottom + 46, name, f"Every seed: {_title(audit)}", description, parts)


def _arm(
    x: Scale, y: float, arm: str, seeds: Sequence[int], values: Sequence[float | None]
) -> tuple[list[str], list[str]]:
    """Return the row of one arm: what is drawn, and what it shows in words."""
    parts = [path(f"M{LEFT} {y:g}H{RIGHT}", "rule"), words(0, y + 4, arm)]
    texts = []
    lost = ", ".join(str(seed) for seed, value in zip(seeds, values, strict=False) if value is None)
    for seed, value in zip(seeds, values, strict=False):
        if value is not None:
            shifted = y + ((seed * 7) % 5 - 2) * 2.6  # so that equal values do not hide each other
            parts.append(mark(arm, x(value), shifted, 4, tip=f"{arm}, seed {seed}: {number(value)}"))
    if lost:
        parts.append(words(RIGHT, y + 4, f"not finite: seed {lost}", "end", "strong"))
    if known := [v for v in values if v is not None]:
        parts.append(path(f"M{x(fmean(known)):.1f} {y - 11:g}v22", "mean"))
        texts.append(f"{arm}: mean {number(fmean(known))}, from {number(min(known))} to {number(max(known))}")
    if lost:
        texts.append(f"{arm} not finite for seeds {lost}")
    return parts, texts


def path_figure(audit: Mapping[str, Any], name: str) -> str:
    """Return the estimate and its intervals at each look up to the verdict; ``""`` if there was no look.

    The thick interval is the one that a PASS is read from, the thin one that a FAIL is read from.
    """
    looks = [look for look in audit.get("looks") or () if look["estimate"] is not None]
    if not looks:
        return ""
    retention, exact = (audit.get("test") == test for test in ("retention", "exact-null"))
    margin = audit["margin"]
    one = () if exact else (margin if audit.get("worse") == "higher" else -margin,)
    limits = (-margin, margin) if retention else one
    low, high = min((0.0, *limits)), max((0.0, *limits))
    core = [low, high, *(look["estimate"] for look in looks)]
    reach = max(core) - min(core)  # how far an interval may widen the scale before it becomes an arrow
    ends = [e for look in looks for key in ("pass_interval", "fail_interval") for e in look[key] if e is not None]
    x = Scale.around([*core, *(min(max(e, min(core) - reach), max(core) + reach) for e in ends)], LEFT, RIGHT)
    bottom = TOP + ROW * len(looks)
    parts = [] if exact else [band(x, low, high, TOP - 8, bottom), _over_band(x, low, high, "tolerated")]
    lines = [(0.0, "edge"), *((limit, "limit") for limit in limits)]
    parts += [path(f"M{x(at):.1f} {TOP - 8}V{bottom}", kind) for at, kind in lines]
    texts = []
    for row, look in enumerate(looks):
        last = row == len(looks) - 1
        verdict = audit["verdict"] if last else "INCONCLUSIVE"
        parts += _look(x, TOP + ROW * row + ROW / 2, look, verdict, last, tip=_unit(audit, look["estimate"]))
        text = f"{look['seeds']} seeds: {_unit(audit, look['estimate'])}, {_between(audit, look['pass_interval'])}"
        texts.append(f"{text}, {verdict if last else 'undecided'}")
    title = "mean score, in standard deviations" if exact else "difference from retraining"
    title = "fraction of the effect that is left" if retention else title
    parts.append(axis(x, bottom + 4, title, percent=not retention and audit.get("unit") == "%"))
    return drawing(WIDTH, bottom + 46, name, f"The looks up to {audit['verdict']}", sentence(texts), parts)


def _look(x: Scale, y: float, look: Mapping[str, Any], verdict: str, last: bool, tip: str) -> list[str]:
    """Return the row of one look: its seeds, its two intervals, its estimate."""
    colour = f"c-{svg.CLASSES[verdict]}"
    return [
        words(0, y + 4, f"{look['seeds']} seeds", classes="strong" if last else ""),
        interval(x, look["fail_interval"], y, f"{colour} thin"),
        interval(x, look["pass_interval"], y, f"{colour} wide", cap=0),
        mark(verdict, x(look["estimate"]), y, 6 if last else 4, hollow=not last, tip=tip),
    ]


def _tolerated(audit: Mapping[str, Any], known: Mapping[str, Sequence[float]]) -> tuple[float, float] | None:
    """Return the tolerated range of the measure itself, around or beside the mean of the retrained models."""
    margin = audit.get("margin")
    if margin is None:
        return None
    if audit.get("test") == "budget":
        return 0.0, margin
    if not known["retrained"] or (audit.get("test") == "retention" and not known["poisoned"]):
        return None
    start = fmean(known["retrained"])
    if audit.get("test") == "retention":
        reach = margin * abs(fmean(known["poisoned"]) - start)
        return start - reach, start + reach
    reach = margin if audit.get("worse") == "higher" else -margin
    return min(start, start + reach), max(start, start + reach)


def _over_band(x: Scale, low: float, high: float, text: str) -> str:
    """Return a word above a band, kept inside the drawing."""
    return words(min(max((x(low) + x(high)) / 2, LEFT + 26), RIGHT - 26), TOP - 13, text, "middle", "soft")


def _title(audit: Mapping[str, Any]) -> str:
    return str(audit.get("title") or audit.get("measure") or audit.get("claim") or "the measure")


def _short_title(audit: Mapping[str, Any]) -> str:
    """Return the title of a measure, cut to what fits below an axis."""
    title = _title(audit)
    return title if len(title) <= 44 else title[:43] + "…"


def _unit(audit: Mapping[str, Any], x: float | None) -> str:
    if x is None:
        return "?"
    return points(x) if audit.get("test") != "retention" and audit.get("unit") == "%" else fraction(x)


def _between(audit: Mapping[str, Any], ends: Sequence[float | None]) -> str:
    return f"from {_unit(audit, ends[0])} to {_unit(audit, ends[1])}"


def sentence(texts: Iterable[str]) -> str:
    """Return short texts as one sentence."""
    return "; ".join(texts) + "."
