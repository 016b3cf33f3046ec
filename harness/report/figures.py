"""The figures of a report, as SVG: an audit's seeds, the way to its verdict, and heuristics beside audits.

Pure functions of the JSON result; they import no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from harness.report import svg
from harness.report.svg import Scale, axis, band, interval, mark, number, path, words
from harness.report.svg import drawing as whole

WIDTH = 360  # of a figure, in pixels: what a telephone shows without shrinking it


LEFT, RIGHT, TOP, ROW = 84, 346, 26, 30


ARMS = ("poisoned", "retrained", "unlearned")


def seeds_figure(audit: Mapping[str, Any], name: str) -> str:
    """Return every seed of P, R and U as a point, with means and what is tolerated; ``""`` where there are no numbers.

    Args:
        audit: One of the JSON's audits or heuristics.
        name: An id that nothing else on the page has.
    """
    values: Mapping[str, Sequence[float | None]] = audit.get("values") or {}
    cost = audit.get("test") == "budget"
    arms = ("unlearned",) if cost else ARMS
    known = {arm: [v for v in values.get(arm, ()) if v is not None] for arm in arms}
    if not any(known.values()):
        return ""
    low, high = _tolerated(audit, known)
    shown = [v for of in known.values() for v in of]
    x = Scale.around([*shown, *(v for v in (low, high) if v is not None)], LEFT, RIGHT)
    bottom = TOP + ROW * len(arms)
    parts = []
    if low is not None and high is not None:
        limit = low if audit.get("worse") == "lower" and audit.get("test") == "non-inferiority" else high
        if audit.get("test") == "retention" and audit.get("worse") == "lower":
            limit = low
        parts += [band(x, low, high, TOP - 8, bottom), path(f"M{x(limit):.1f} {TOP - 8}V{bottom}", "limit")]
        parts.append(_over_band(x, low, high, "tolerated"))
    told = []
    for row, arm in enumerate(arms):
        y = TOP + ROW * row + ROW / 2
        parts += [path(f"M{LEFT} {y:g}H{RIGHT}", "rule"), words(0, y + 4, arm)]
        lost = []
        for seed, value in zip(audit.get("seeds", ()), values.get(arm, ()), strict=False):
            if value is None:
                lost.append(seed)
                continue
            tip = f"{arm}, seed {seed}: {number(value)}"
            parts.append(mark(arm, x(value), y + ((seed * 7) % 5 - 2) * 2.6, 4, tip=tip))
        if lost:
            parts.append(words(RIGHT, y + 4, f"not finite: seed {', '.join(map(str, lost))}", "end", "strong"))
        if known[arm]:
            mean = fmean(known[arm])
            parts.append(path(f"M{x(mean):.1f} {y - 11:g}v22", "mean"))
            told.append(f"{arm}: mean {number(mean)}, from {number(min(known[arm]))} to {number(max(known[arm]))}")
        if lost:
            told.append(f"{arm} not finite for seeds {', '.join(map(str, lost))}")
    parts.append(axis(x, bottom + 4, _titled(audit), audit.get("unit") == "%"))
    if low is not None and high is not None:
        told.append(f"tolerated from {number(low)} to {number(high)}")
    return whole(
        WIDTH, bottom + 46, name, f"Every seed of {_title(audit)}", f"{_sentence(told)} The bars are means.", parts
    )


def path_figure(audit: Mapping[str, Any], name: str) -> str:
    """Return the estimate and its intervals at each look up to the verdict; ``""`` where no look was taken.

    The thick interval is the one that a PASS is read from, the thin one that a FAIL is read from.
    """
    looks = [look for look in audit.get("looks") or () if look["estimate"] is not None]
    if not looks:
        return ""
    retention = audit.get("test") == "retention"
    margin = audit["margin"]
    low, high = (0.0, margin) if retention or audit.get("worse") == "higher" else (-margin, 0.0)
    core = [low, high, *(look["estimate"] for look in looks)]
    reach = max(core) - min(core)  # how far an interval may widen the scale before it becomes an arrow
    ends = [e for look in looks for key in ("pass_interval", "fail_interval") for e in look[key] if e is not None]
    x = Scale.around([*core, *(min(max(e, min(core) - reach), max(core) + reach) for e in ends)], LEFT, RIGHT)
    bottom = TOP + ROW * len(looks)
    parts = [band(x, low, high, TOP - 8, bottom), _over_band(x, low, high, "tolerated")]
    parts += [path(f"M{x(at):.1f} {TOP - 8}V{bottom}", kind) for at, kind in ((0.0, "edge"), (low or high, "limit"))]
    told = []
    for row, look in enumerate(looks):
        y = TOP + ROW * row + ROW / 2
        last = row == len(looks) - 1
        kind = audit["verdict"] if last else "INCONCLUSIVE"
        colour = f"c-{svg.CLASSES[kind]}"
        parts.append(words(0, y + 4, f"{look['seeds']} seeds", classes="strong" if last else ""))
        parts.append(interval(x, look["fail_interval"], y, f"{colour} thin"))
        parts.append(interval(x, look["pass_interval"], y, f"{colour} wide", cap=0))
        shown = _unit(audit, look["estimate"])
        parts.append(mark(kind, x(look["estimate"]), y, 6 if last else 4, hollow=not last, tip=shown))
        reads = f"{look['seeds']} seeds: {shown}, {_between(audit, look['pass_interval'])}"
        told.append(f"{reads}, {audit['verdict'] if last else 'undecided'}")
    title = "fraction of the effect that is left" if retention else "difference from retraining"
    parts.append(axis(x, bottom + 4, title, percent=not retention and audit.get("unit") == "%"))
    return whole(WIDTH, bottom + 46, name, f"The way to {audit['verdict']}, look by look", _sentence(told), parts)


def _tolerated(audit: Mapping[str, Any], known: Mapping[str, Sequence[float]]) -> tuple[float | None, float | None]:
    """Return what is tolerated of the measure itself, from the mean of the retrained models on."""
    margin = audit.get("margin")
    if margin is None:
        return None, None
    if audit.get("test") == "budget":
        return 0.0, margin
    if not known["retrained"] or (audit.get("test") == "retention" and not known["poisoned"]):
        return None, None
    start = fmean(known["retrained"])
    if audit.get("test") == "retention":
        reach = margin * (fmean(known["poisoned"]) - start)
    else:
        reach = margin if audit.get("worse") == "higher" else -margin
    return min(start, start + reach), max(start, start + reach)


def _over_band(x: Scale, low: float, high: float, text: str) -> str:
    """Return a word above a band, kept inside the drawing."""
    return words(min(max((x(low) + x(high)) / 2, LEFT + 26), RIGHT - 26), TOP - 13, text, "middle", "soft")


def _title(audit: Mapping[str, Any]) -> str:
    return str(audit.get("title") or audit.get("measure") or audit.get("claim") or "the measure")


def _titled(audit: Mapping[str, Any]) -> str:
    """Return the title of a measure, cut to what stands below an axis."""
    title = _title(audit)
    return title if len(title) <= 44 else title[:43] + "…"


def _unit(audit: Mapping[str, Any], x: float | None) -> str:
    if x is None:
        return "?"
    if audit.get("test") == "retention" or audit.get("unit") != "%":
        return f"{x:.2f}".replace("-", svg.MINUS)
    return f"{100 * x:+.1f} pp".replace("-", svg.MINUS)


def _between(audit: Mapping[str, Any], ends: Sequence[float | None]) -> str:
    return f"from {_unit(audit, ends[0])} to {_unit(audit, ends[1])}"


def _sentence(told: Iterable[str]) -> str:
    return "; ".join(told) + "."
