"""What changed between two results: verdicts, estimates, compute, and what the runs were made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from harness.report.document import Entry, title_of
from harness.report.svg import MINUS
from harness.report.words import WORST, estimate, shown_by, verdict_text
from harness.specs import called

#: An audit of a result, by method, task, poison and claim; and which it is, if several tests judge the same.
Key = tuple[str, str, str, str, int]

#: Settings that change what a verdict means.
MEANING = (
    "seeds",
    "seeds_from",
    "plan",
    "alpha",
    "futility",
    "tolerance",
    "budget",
    "discovery",
    "timeout",
    "isolated",
)


@dataclass(frozen=True)
class Change:
    """What changed about one audit.

    Attributes:
        sentence: What changed.
        worse: Whether the later result is worse: a verdict that is further from PASS, or an audit that is missing.
        stays: Whether the later result has the audit.
    """

    sentence: str
    worse: bool
    stays: bool


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return what changed about the audits, the worst first; empty if nothing did.

    A verdict that stays is mentioned if the intervals of the two estimates do not overlap, or if another trace decides;
    and compute, which has no interval, if it changed by more than a tenth of the budget.

    Args:
        before: A JSON result.
        after: A later one.
    """
    old, new = audits_of(before), audits_of(after)
    found = []
    for key in dict.fromkeys((*old, *new)):
        if change := change_of(key, old.get(key), new.get(key)):
            found.append(change)
    return sorted(found, key=lambda change: not change.worse)


def unchanged(after: Mapping[str, Any], found: Sequence[Change]) -> str:
    """Return how many audits of the later result `changes` does not mention, in a sentence."""
    audits = len(after.get("audits", ()))
    same = audits - sum(change.stays for change in found)
    return f"{same} of {audits} audits: the same verdict, and estimates that agree within their intervals."


def audits_of(document: Mapping[str, Any]) -> dict[Key, Entry]:
    """Return the audits of a result by their keys."""
    found: dict[Key, Entry] = {}
    for audit in document.get("audits", ()):
        of = (audit["unlearner"], audit["task"], audit["poison"], audit["claim"])
        found[(*of, next(i for i in count() if (*of, i) not in found))] = audit
    return found


def made_with(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return in which versions, settings and sources of methods two runs differ, a sentence each."""
    was, now = before.get("run", {}), after.get("run", {})
    lines = _differ("versions", was.get("versions", {}), now.get("versions", {}))
    lines += _differ("devices", *({"device": of.get("device")} for of in (was, now)))
    settings = [{name: of.get("settings", {}).get(name) for name in MEANING} for of in (was, now)]
    if different := _differ("settings", *settings):
        lines += [f"{different[0]} So a verdict does not mean the same in both."]
    sources = [
        {each["name"]: (each.get("source_sha256") or "unknown")[:8] for each in of.get("unlearners", ())}
        for of in (before, after)
    ]
    shared = [name for name in sources[0] if name in sources[1]]
    return lines + _differ("source of methods", *({name: of[name] for name in shared} for of in sources))


def _differ(what: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in dict.fromkeys((*was, *now)) if was.get(name) != now.get(name)]
    texts = [f"{name} {_known(was.get(name))} → {_known(now.get(name))}" for name in names]
    return [f"Different {what}: {', '.join(texts)}."] if texts else []


def _known(value: Any) -> str:
    return "none" if value is None else str(value)


def change_of(key: Key, old: Entry | None, new: Entry | None) -> Change | None:
    """Return what changed about an audit of two results, None if nothing did. One of them may lack it."""
    unlearner, task, poison, claim, _ = key
    name = f"{called(unlearner)} on {task}, {poison}, {title_of(claim)}"
    if old is None or new is None:
        where = "only in the later result" if old is None else "missing from the later result"
        return Change(f"{name}: {where}.", worse=new is None, stays=new is not None)
    ranks = WORST.index(old["verdict"]), WORST.index(new["verdict"])
    if ranks[0] == ranks[1] and not moved(old, new):
        return None
    text = f"{name}: {_text(old)} → {_text(new)}"
    return Change(f"{text}{_by(old, new)}.", worse=ranks[1] < ranks[0], stays=True)


def moved(old: Entry, new: Entry) -> bool:
    """Return whether an estimate moved by more than chance explains."""
    values = old["estimate"], new["estimate"]
    if not comparable(old, new):
        return True
    if None in values:
        return values[0] is not values[1]
    if new.get("test") == "budget":
        return bool(abs(values[1] - values[0]) > 0.1 * new["margin"])
    (low, high), (new_low, new_high) = (
        [e if e is not None else sign * float("inf") for e, sign in zip(of["interval"], (-1, 1), strict=True)]
        for of in (old, new)
    )
    return bool(new_low > high or new_high < low)


def comparable(old: Entry, new: Entry) -> bool:
    """Return whether two estimates are of one trace, and so in one unit."""
    return all(old.get(name) == new.get(name) for name in ("trace", "test"))


def _text(audit: Entry) -> str:
    """Return the verdict of an audit with its numbers, e.g. ``"FAIL (success) 0.35 [0.21, 0.49], n = 8"``."""
    show = shown_by(audit)
    parts = [verdict_text(audit)]
    if text := estimate(audit):
        ends = ", ".join("?" if end is None else show(end) for end in audit["interval"])
        parts.append(text if audit.get("test") == "budget" else f"{text} [{ends}]")
    return f"{' '.join(parts)}, n = {len(audit['seeds'])}" if audit["seeds"] else " ".join(parts)


def _by(old: Entry, new: Entry) -> str:
    """Return by how much an estimate moved; ``""`` if the two are not of one trace."""
    values = old["estimate"], new["estimate"]
    if None in values or not comparable(old, new):
        return ""
    text = shown_by(new)(values[1] - values[0])
    return f"; moved by {text if text.startswith((MINUS, '+')) else f'+{text}'}"
