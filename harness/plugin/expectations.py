"""Verdicts that are expected, read from a TOML file: what keeps a gate green for methods that are known to fail.

::

    [[expected]]
    unlearner = "scrub"          # ids, as the closing table shows them
    task = "digits-cnn"
    poison = "gaussian"
    claim = "poison"             # the default; or "accuracy", "cost", "relearning"
    verdict = "FAIL"             # or "INCONCLUSIVE", or "PASS"
    at_most = 0.96               # the largest estimate that still meets a FAIL; of a poison with several traces:
    at_most = { mean = 0.96, "second moment" = 3 }
    reason = "It trains on what is kept, and the noise stays."

An expectation is met by that verdict and no other: an INCONCLUSIVE is no FAIL, and a method that does better than was
expected is red until the file says so. A FAIL that is worse than ``at_most`` does not meet it either. ``at_most`` is a
fraction of the poison's effect, a fraction of retraining's compute, or the percentage points of accuracy that are lost.
Traces of one poison have different units. So where there are several, ``at_most`` limits each by its name, and each
limit holds whichever trace decides. A trace that is not named has no limit.
An audit that raises is an ERROR, which nothing can expect.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import registry
from harness.api import Outcome, UnlearningError
from harness.cells import Cell
from harness.judging.claims import CLAIMS, GATING
from harness.plugin.limits import amount, badness, limit_of, traces_in

HEADER = re.compile(r"\s*\[\[\s*expected\s*\]\]")


REQUIRED = ("unlearner", "task", "poison", "verdict", "reason")


KEYS = (*REQUIRED[:3], "claim", "verdict", "at_most", "reason")


VERDICT = re.compile(r"\s*verdict\s*=")


HEAD = """\
# Verdicts that are expected: pytest --audit-expect=FILE holds audits against them, and --audit-expect-update writes
# what was seen. Say in each reason why it is so.
"""


Key = tuple[str, str, str, str]  # unlearner, task, poison, claim
Limited = tuple[Mapping[str, Any], float]  # an audit or one of its traces, and its limit


@dataclass(frozen=True)
class Expectation:
    """What one audit is expected to conclude.

    Attributes:
        key: Ids of the unlearner, the task and the poison, and the claim.
        verdict: The only one that meets it.
        reason: Why, for people.
        line: Where it stands in the file, counted from 1.
        at_most: The largest `badness` that still meets a FAIL, by trace; under ``""`` if there are not several.
    """

    key: Key
    verdict: Outcome
    reason: str
    line: int
    at_most: Mapping[str, float] = field(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """Its entry in the JSON result."""
        limit = {"at_most": _as_written(self.at_most)} if self.at_most else {}
        return {"verdict": self.verdict.value, **limit, "reason": self.reason, "line": self.line}

    def met_by(self, audit: Mapping[str, Any]) -> bool:
        """Return whether an audit concluded this, and is no worse."""
        return bool(audit["verdict"] == self.verdict) and not self.misnamed(audit) and not self.exceeded(audit)

    def misnamed(self, audit: Mapping[str, Any]) -> bool:
        """Return whether ``at_most`` limits something that is no trace of an audit, or names none of several."""
        return not self.at_most.keys() <= traces_in(audit).keys()

    def limited(self, audit: Mapping[str, Any]) -> list[Limited]:
        """Return what of an audit has a limit, with it."""
        traces = traces_in(audit)
        return [(traces[name], limit) for name, limit in self.at_most.items() if name in traces]

    def exceeded(self, audit: Mapping[str, Any]) -> list[Limited]:
        """Return what of an audit is worse than its limit, with it."""
        return [(trace, limit) for trace, limit in self.limited(audit) if badness(trace) > limit]

    def __str__(self) -> str:
        unlearner, task, poison, claim = self.key
        return f"{unlearner} on {task}, {poison}, {claim}"


class Expectations:
    """The expectations of a file.

    Args:
        path: The file.
        updating: Whether it is about to be written: it need not exist, and reasons may still be missing.

    Raises:
        UnlearningError: The file cannot be read, or an entry is invalid; the message names file and line.
    """

    def __init__(self, path: Path, updating: bool = False) -> None:
        self.path = path
        self.updating = updating
        try:
            text = path.read_text(encoding="utf-8-sig") if path.exists() or not updating else HEAD
            self._head, self._blocks = _blocks(text)
            document = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UnlearningError(f"--audit-expect: {path} cannot be read: {error}") from None
        self._by_key: dict[Key, Expectation] = {}
        entries = document.pop("expected", [])
        if document:
            raise UnlearningError(
                f"--audit-expect: {path}: unknown key {min(document)!r}; the file may hold only [[expected]] entries"
            )
        if not isinstance(entries, list) or len(entries) != len(self._blocks):
            raise UnlearningError(
                f"--audit-expect: {path}: write every expectation as an [[expected]] entry of its own"
            )
        for entry, (line, _) in zip(entries, self._blocks, strict=True):
            expectation = self._read(entry, line)
            if (other := self._by_key.setdefault(expectation.key, expectation)) is not expectation:
                raise self._error(line, f"{expectation} already has an entry in line {other.line}")

    def _read(self, entry: Mapping[str, Any], line: int) -> Expectation:
        if unknown := [name for name in entry if name not in KEYS]:
            raise self._error(line, f"unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
        optional = ("reason",) if self.updating else ()
        for name in (key for key in KEYS if key != "at_most"):
            value = entry.get(name, "poison" if name == "claim" else "")
            if not isinstance(value, str) or not (value.strip() or name in optional):
                hint = ": explain why this verdict is expected" if name == "reason" else ""
                raise self._error(line, f"the key {name!r} is missing, empty or not a text{hint}")
        verdict, claim = entry["verdict"], entry.get("claim", "poison")
        if verdict not in list(Outcome):
            hint = "; an ERROR is red whatever is expected" if verdict == "ERROR" else ""
            raise self._error(line, f"the verdict must be one of {', '.join(Outcome)}, not {verdict!r}{hint}")
        if claim not in GATING:
            raise self._error(line, f"the claim must be one of {', '.join(GATING)}, not {claim!r}")
        found = entry.get("at_most", {})
        limits = found if isinstance(found, dict) else {"": found}
        if ("at_most" in entry and not limits) or not all(map(_is_limit, limits.values())):
            raise self._error(
                line, f"at_most must be a number that is not negative, or such numbers by trace, not {found!r}"
            )
        if limits and verdict != Outcome.FAIL:
            raise self._error(line, f"only a FAIL can have at_most; the verdict here is {verdict}")
        key = (entry["unlearner"], entry["task"], entry["poison"], claim)
        return Expectation(key, Outcome(verdict), entry.get("reason", "").strip(), line, limits)

    def _error(self, line: int, sentence: str) -> UnlearningError:
        return UnlearningError(f"--audit-expect: {self.path}, line {line}: {sentence}")

    def of(self, audit: Mapping[str, Any]) -> Expectation | None:
        """Return what is expected of an audit, given as the plain values that it reports."""
        return self._by_key.get(_key(audit))

    def unmatched(
        self, cells: Iterable[Cell], audits: Iterable[Mapping[str, Any]], narrowed: Sequence[str]
    ) -> tuple[list[Expectation], list[Expectation]]:
        """Return the stale expectations, and those about something else than what this run audits.

        Stale is what is said of a method that is audited, where no audit of it could ever match. What ``-k`` and its
        like leave out is not missed, nor are other methods, nor tasks and poisons that there are but that this run does
        without.

        Args:
            cells: What the command line asks for.
            audits: What ran, as plain values.
            narrowed: Which of ``"task"`` and ``"poison"`` the command line chooses among.
        """
        cells = list(cells)
        ran = {_key(audit) for audit in audits}
        known = ran | {(*_ids(cell), claim) for cell in cells for claim in GATING if CLAIMS[claim].applies(cell)}
        methods = {cell.unlearner.id for cell in cells}
        kinds: tuple[tuple[int, registry.Kind], ...] = ((1, "task"), (2, "poison"))
        stale: list[Expectation] = []
        elsewhere: list[Expectation] = []
        for each in self._by_key.values():
            if each.key in known:
                continue
            left_out = [
                name
                for index, name in kinds
                if each.key[index] not in {key[index] for key in known}
                and (name in narrowed or each.key[index].partition(":")[0] in registry.available(name))
            ]
            (elsewhere if each.key[0] not in methods or left_out else stale).append(each)
        return stale, elsewhere

    def lines(
        self, audits: Sequence[Mapping[str, Any]], stale: Sequence[Expectation], elsewhere: Sequence[Expectation]
    ) -> list[tuple[str, dict[str, bool]]]:
        """Return the lines of the terminal, with pytest's markup: what was met and why, what was not, what is stale."""
        found = []
        for audit in audits:
            expected = self.of(audit) if "expected" in audit else None
            if expected is not None and as_expected(audit):
                found.append((f"{expected}: {expected.verdict} as expected: {expected.reason}", {"green": True}))
            elif expected is not None:
                colour = {"yellow" if self.updating else "red": True}
                found.append((f"{expected}: {_seen(expected, audit)}", colour))
        for each in [] if self.updating else stale:
            sentence = "matches no audit of this method: correct it or remove it"
            found.append((f"{each} ({self.path.name}, line {each.line}): {sentence}", {"red": True}))
        if elsewhere:
            are = "expectation is" if len(elsewhere) == 1 else "expectations are"
            found.append((f"{len(elsewhere)} {are} about audits that are not part of this run", {}))
        if self.updating:
            found.append((f"written to {self.path}; explain each verdict in its reason", {"bold": True}))
        return found or [("every audit of this run is expected to PASS", {})]

    def updated(self, audits: Iterable[Mapping[str, Any]], stale: Iterable[Expectation]) -> str:
        """Return the file's text with what was seen: entries that still hold stay as they are, comments included.

        A new or changed verdict gets an empty reason, which the next run asks for, and so does a FAIL that is worse
        than its limit. A FAIL without a limit gets one, on each trace. What passes is left out, and what is stale; of
        audits that did not run or raised, what stood there stands.
        """
        # An audit of a control carries no word on what is expected: what it must do stands in its test.
        seen = {_key(a): a for a in audits if "expected" in a and a["verdict"] in list(Outcome)}
        gone = {each.key for each in stale}
        kept = []
        for expectation, (_, block) in zip(self._by_key.values(), self._blocks, strict=True):
            audit = seen.pop(expectation.key, None)
            if audit is None:
                kept += [block] if expectation.key not in gone else []
            elif expectation.met_by(audit):
                kept.append(block if expectation.at_most else _limited(block, audit))
            elif audit["verdict"] != "PASS":
                kept.append(_entry(audit, f"was {_in_words(expectation)}: {expectation.reason}"))
        kept += [_entry(audit) for _, audit in sorted(seen.items()) if audit["verdict"] != "PASS"]
        return "\n\n".join(part.strip("\n") for part in [self._head, *kept] if part.strip()) + "\n"


def as_expected(audit: Mapping[str, Any]) -> bool:
    """Return whether an audit concluded what the file expects of it."""
    return bool((audit.get("expected") or {}).get("met"))


def deviation(expectation: Expectation, audit: Mapping[str, Any], path: Path) -> str:
    """Return the sentence about an audit that did not conclude what was expected."""
    where = f"{path.name}, line {expectation.line}"
    seen = audit["verdict"]
    done = ""
    if seen == "PASS":
        done = " It does better than that: take the entry out, or run with --audit-expect-update."
    elif seen == "INCONCLUSIVE":
        done = " The evidence does not show it any more: look at why, before anything is changed."
    limited = expectation.limited(audit)
    if seen == expectation.verdict:
        if expectation.misnamed(audit):
            return f"at_most cannot be compared ({where}): {_misnamed(audit)}."
        limited = expectation.exceeded(audit)
        seen = " and ".join(_beyond(trace, limit) for trace, limit in limited)
    most = " and ".join(amount(trace, limit) for trace, limit in limited)
    limit = f" of at most {most}" if most else ""
    return f"{expectation.verdict}{limit} is expected ({where}: {expectation.reason}), but it is {seen}.{done}"


def _seen(expectation: Expectation, audit: Mapping[str, Any]) -> str:
    """Return what was seen in place of what was expected."""
    if audit["verdict"] != expectation.verdict:
        return f"{audit['verdict']}, but {expectation.verdict} was expected"
    if expectation.misnamed(audit):
        return _misnamed(audit)
    seen, limits = (
        " and ".join(amount(*each) for each in of)
        for of in zip(*(((t, badness(t)), (t, limit)) for t, limit in expectation.exceeded(audit)), strict=True)
    )
    return f"{audit['verdict']} of {seen}, but at most {limits} was expected"


def _beyond(trace: Mapping[str, Any], limit: float) -> str:
    """Return how bad a trace is, and by how much that is more than its limit."""
    bad = badness(trace)
    seen = amount(trace, bad)
    return f"{seen}, {amount(trace, bad - limit)} more" if math.isfinite(bad) else f"a FAIL with {seen}"


def _misnamed(audit: Mapping[str, Any]) -> str:
    """Return what to do about a limit that is on no trace of an audit."""
    names = ", ".join(f"{json.dumps(name)} = ..." for name in traces_in(audit) if name)
    if not names:
        return "there is one trace only; write at_most as a number"
    return f"there are several traces; limit them by name, as in at_most = {{ {names} }}"


def _in_words(expectation: Expectation) -> str:
    limits = [f", at most {most:g}" + (f" ({name})" if name else "") for name, most in expectation.at_most.items()]
    return f"{expectation.verdict}{''.join(limits)}"


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _as_written(limits: Mapping[str, float]) -> float | dict[str, float]:
    """Return limits as the file has them: a number where there are not several traces."""
    return limits[""] if "" in limits else dict(limits)


def _key(audit: Mapping[str, Any]) -> Key:
    return (audit["unlearner"], audit["task"], audit["poison"], audit["claim"])


def _ids(cell: Cell) -> tuple[str, str, str]:
    return (cell.unlearner.id, cell.task.id, cell.poison.id)


def _blocks(text: str) -> tuple[str, list[tuple[int, str]]]:
    """Split a file into what comes before its entries, and per entry its line and text with the comments above it."""
    lines = text.splitlines()
    headers = [i for i, line in enumerate(lines) if HEADER.match(line)]
    starts = []
    for header in headers:
        start = header
        while start > 0 and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        starts.append(start)
    parts = ["\n".join(lines[a:b]) for a, b in zip([0, *starts], [*starts, len(lines)], strict=True)]
    return parts[0], [(header + 1, part) for header, part in zip(headers, parts[1:], strict=True)]


def _entry(audit: Mapping[str, Any], before: str = "") -> str:
    """Return the entry of a verdict that was seen, without a reason; a comment has its numbers."""
    interval = audit["interval"]
    shown = "" if audit["estimate"] is None else f" estimate {audit['estimate']:.3g}"
    if None not in interval:
        shown += f", interval {interval[0]:.3g} to {interval[1]:.3g}"
    shown += "" if audit["margin"] is None else f", limit {audit['margin']:.3g}"
    comments = [f"# {audit['reason']}:{shown}, n = {len(audit['seeds'])}"]
    comments += [f"# {' '.join(before.split())}"] if before else []
    fields: dict[str, Any] = dict(zip(KEYS[:4], _key(audit), strict=True)) | {"verdict": audit["verdict"]}
    fields |= _limit(audit) | {"reason": ""}
    return "\n".join([*comments, "[[expected]]", *_as_toml(fields)])


def _limit(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field of an entry that limits a FAIL, on each trace that has a finite estimate. Empty for the rest."""
    limits = {name: limit_of(trace) for name, trace in traces_in(audit).items()}
    limits = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
    return {"at_most": _as_written(limits)} if audit["verdict"] == Outcome.FAIL and limits else {}


def _as_toml(fields: Mapping[str, Any]) -> list[str]:
    """Return a line for each field."""
    return [f"{name} = {_toml(value)}" for name, value in fields.items()]


def _toml(value: Any) -> str:
    """Return a value of a field. JSON's strings and numbers are TOML's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _limited(block: str, audit: Mapping[str, Any]) -> str:
    """Return an entry of a FAIL that has no limit with one, behind its verdict."""
    lines = block.split("\n")
    header = next(i for i, line in enumerate(lines) if HEADER.match(line))
    at = next((i for i, line in enumerate(lines[header:], header) if VERDICT.match(line)), header)
    return "\n".join([*lines[: at + 1], *_as_toml(_limit(audit)), *lines[at + 1 :]])
