"""What a repetition of a result must find again."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from harness.judging.yardsticks import YARDSTICKS, beyond, counted_in
from harness.report.changes import audits_of, change_of, comparable, moved
from harness.report.document import Entry

#: Two numbers are the same if they differ by no more than this share; a sum may be rounded in another order.
SAME = 1e-6
#: What differs from run to run, at whatever depth: times, paths and the commands that hold them.
VOLATILE = ("seconds", "cpu_seconds", "command", "load", "file", "first_call", "built", "word")
#: Sentences, which are made of the numbers.
WORDED = ("finding", "advice", "standing", "sentence", "text")
#: Shares of compute that are counted, and not timed.
COUNTED = ("examples", "steps", "flops")


def differences(
    claimed: Mapping[str, Any], found: Mapping[str, Any], worded: bool = True, timed: bool = True
) -> list[str]:
    """Return where two results differ that were judged from equal models, a sentence each.

    Everything is compared that tables and pages are made of, but what is timed, and the paths.

    Args:
        claimed: A JSON result.
        found: The one that was found again.
        worded: Whether sentences are compared, too, and not the numbers alone.
        timed: Whether both rest on the same measured times. If not, nothing is compared that follows from a time.
    """
    sentences = []
    for part in ("audits", "contract", "heuristics", "unlearners"):
        old, new = (_by_name(of, part) for of in (claimed, found))
        for name in dict.fromkeys((*old, *new)):
            if name not in old or name not in new:
                sentences.append(f"{name}: {'not in the result' if name not in old else 'not found again'}")
                continue
            left_out = {*VOLATILE, "id", *(() if worded else WORDED)}
            left_out |= set() if timed else _from_times(old[name], new[name])
            sentences += [f"{name}: {line}" for line in _unequal(old[name], new[name], left_out)]
    return sentences


def refuted(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what speaks against a result that another kind of machine made anew, a sentence each.

    No number comes out the same there. But no verdict is worse, nothing is left out, the seeds begin the same list,
    margins are the same, and the intervals of two estimates of one trace overlap.

    Args:
        claimed: A JSON result.
        found: The one that was made anew.
    """
    sentences = []
    old, new = audits_of(claimed), audits_of(found)
    for key in dict.fromkeys((*old, *new)):
        one, other = old.get(key), new.get(key)
        if one is None or other is None:
            sentences.append(f"{_name(*key[:4])}: {'not in the result' if one is None else 'not found again'}")
            continue
        change, times = change_of(key, one, other), _from_times(one, other)
        apart = comparable(one, other) and "estimate" not in times and moved(one, other)
        if change and ((change.worse and "verdict" not in times) or apart):
            sentences.append(change.sentence)
        if not _one_list(one["seeds"], other["seeds"]):
            sentences.append(f"{_name(*key[:4])}: seeds {one['seeds']} → {other['seeds']}")
        if comparable(one, other) and not _same(one["margin"], other["margin"]):
            sentences.append(f"{_name(*key[:4])}: margin {one['margin']} → {other['margin']}")
    lines, found_lines = _by_name(claimed, "contract"), _by_name(found, "contract")
    for name, line in found_lines.items():
        if name not in lines:
            sentences.append(f"{name}: not in the result")
        elif line["kept"] is False:
            sentences.append(f"{name}: {line['sentence']}")
    return sentences


def _one_list(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether of two lists one begins with the other: a plan may end after another number of seeds."""
    n = min(len(one), len(other))
    return list(one[:n]) == list(other[:n])


def slower(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return which budgets were kept in one result and, by CPU time alone, not in the other, a sentence each."""
    old, new = audits_of(claimed), audits_of(found)
    sentences = []
    for key, audit in old.items():
        if key in new and audit["verdict"] == "PASS" and _too_slow(new[key]):
            sentences.append(f"{_name(*key[:4])}: {new[key].get('finding', '')}")
    return sentences


def _from_times(*audits: Entry) -> set[str]:
    """Return the names of values of an audit that follow from CPU times in one of two results."""
    found: set[str] = set()
    if any(map(_too_slow, audits)):
        found |= {"verdict", "reason", "as_required", *WORDED}
    if any(of.get("test") == "budget" and counted_in(_shares(of)) == ("cpu_seconds",) for of in audits):
        found |= {"estimate", "interval", "values", *WORDED}
    return found


def _too_slow(audit: Entry) -> bool:
    """Return whether an audit of a budget fails by CPU time alone, which depends on what else a machine does."""
    return audit.get("test") == "budget" and beyond(_shares(audit), audit["margin"]) == ["cpu_seconds"]


def _shares(audit: Entry) -> dict[str, float]:
    found = {name: audit.get("details", {}).get(f"{name}_of_retraining") for name in YARDSTICKS}
    return {name: share for name, share in found.items() if share is not None}


def readings(document: Mapping[str, Any], seeds: Collection[int]) -> dict[str, float | None]:
    """Return every number of a result that belongs to one model of these seeds, by what it is.

    These are the readings of the audits, and what of the compute is counted.
    """
    found: dict[str, float | None] = {}
    for key, audit in audits_of(document).items():
        if audit.get("test") != "budget":
            found |= dict(_of_audit(_name(*key[:4]), audit, seeds))
    for trial in document["trials"]:
        if trial["seed"] in seeds:
            of = _name(trial["unlearner"], trial["task"], trial["poison"], "compute")
            shares = trial["cost"]["fractions"]
            found |= {f"{of}, {name}, seed {trial['seed']}": shares.get(name) for name in COUNTED if name in shares}
    return found


def unlike(claimed: Mapping[str, float | None], found: Mapping[str, float | None]) -> list[str]:
    """Return which readings were not found again, a sentence each."""
    return [
        f"{name}: the result says {value}, found {found.get(name, 'nothing')}"
        for name, value in claimed.items()
        if name not in found or not _same(value, found[name])
    ]


def of_others(name: str) -> bool:
    """Return whether a reading is of a model that the method has no part in."""
    return ", poisoned model, " in name or ", retrained model, " in name


def _of_audit(name: str, audit: Entry, seeds: Collection[int]) -> Iterator[tuple[str, float | None]]:
    tables = {"": audit["values"], **{f", {what}": values for what, values in audit.get("by_seed", {}).items()}}
    for what, values in tables.items():
        for arm, of in values.items():
            for seed, value in zip(audit["seeds"], of, strict=False):
                if seed in seeds:
                    yield f"{name}{what}, {arm} model, seed {seed}", value


def _by_name(document: Mapping[str, Any], part: str) -> dict[str, Entry]:
    if part == "contract":
        return {f"line {each['line']} of {each['unlearner']}": each for each in document[part]}
    if part == "unlearners":
        return {f"source of {each['name']}": each for each in document[part]}
    audits = audits_of({"audits": document[part]})
    return {f"{_name(*key[:4])}{f', test {key[4] + 1}' if key[4] else ''}": of for key, of in audits.items()}


def _name(unlearner: str, task: str, poison: str, claim: str) -> str:
    return f"{claim} of {unlearner} on {task}, {poison}"


def _unequal(old: Entry, new: Entry, left_out: Collection[str]) -> Iterator[str]:
    """Yield what differs between two entries: the names of their values, and small ones in full."""
    for name in sorted({*old, *new} - set(left_out)):
        values = old.get(name), new.get(name)
        if not _same(*values):
            short = all(len(str(value)) < 60 for value in values)
            yield f"{name} {values[0]} → {values[1]}" if short else name


def _same(one: Any, other: Any) -> bool:
    """Return whether two plain values are equal, numbers but for rounding, and what is timed left out."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_same(one.get(name), other.get(name)) for name in {*one, *other} if not _is_timed(name))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)
    return bool(one == other)


def _is_timed(name: str) -> bool:
    return name in VOLATILE or "seconds" in name
