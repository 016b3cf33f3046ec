"""What a repetition of a result must agree with, and how closely."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from harness.report.changes import Key, audits_of
from harness.report.document import Entry
from harness.statistics.levels import t_quantile

#: Two readings are the same if they differ by no more than this share; a sum may be rounded in another order.
SAME = 1e-6
#: How often a true result is refused where nothing is equal to the last digit.
LEVEL = 0.001
#: Readings of models that are not trained anew may differ by this share of their spread, if the processor is another.
READ_AGAIN = 0.1
#: The spread is taken to be no smaller than this share of the poison's effect, a quarter of the default tolerance.
LEAST_SPREAD = 0.05

#: What an audit found that a repetition from the same models must find, too; times and paths are left out.
JUDGED = ("verdict", "reason", "seeds", "estimate", "interval", "margin", "values", "by_seed", "p_pass", "p_fail")


@dataclass(frozen=True)
class Pair:
    """A reading of a model, as the result has it and as it was found again.

    Attributes:
        audit: Which audit it belongs to.
        arm: Which model: ``"poisoned"``, ``"retrained"``, ``"unlearned"`` or ``"remaining"``.
        seed: The seed.
        claimed, found: The two.
        spread: Standard deviation of what the result has of such models, over its seeds.
        seeds: How many seeds that are.
    """

    audit: str
    arm: str
    seed: int
    claimed: float | None
    found: float | None
    spread: float
    seeds: int

    @property
    def same(self) -> bool:
        """Whether they are equal, but for rounding."""
        return _same(self.claimed, self.found)

    def near(self, share: float) -> bool:
        """Return whether they differ by at most so many of the spread."""
        if self.claimed is None or self.found is None:
            return self.claimed is self.found
        return abs(self.claimed - self.found) <= share * self.spread

    def __str__(self) -> str:
        text = ("nothing finite" if x is None else f"{x:.6g}" for x in (self.claimed, self.found))
        return "{}, {} model of seed {}: the result says {}, found is {}".format(self.audit, self.arm, self.seed, *text)


def judged_otherwise(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return in what two results differ that rest on the same models, a sentence each."""
    old, new = audits_of(claimed), audits_of(found)
    sentences = []
    for key in dict.fromkeys((*old, *new)):
        if key not in old or key not in new:
            sentences.append(f"{_name(key)}: {'not in the result' if key not in old else 'not found again'}")
            continue
        names = [name for name in JUDGED if not _same(old[key].get(name), new[key].get(name))]
        names += [
            f"{name} ({part})"
            for name in {*old[key].get("traces", {}), *new[key].get("traces", {})}
            for part in ("verdict", "estimate", "interval")
            if not _same(*(of[key].get("traces", {}).get(name, {}).get(part) for of in (old, new)))
        ]
        if names:
            shown = [f"{name} {old[key].get(name)} → {new[key].get(name)}" for name in names if name in JUDGED[:4]]
            sentences.append(f"{_name(key)}: {', '.join(shown or names)}")
    return sentences


def pairs(claimed: Mapping[str, Any], found: Mapping[str, Any]) -> list[Pair]:
    """Return all readings that two results share. Compute is no reading: its seconds differ from run to run."""
    old, new = audits_of(claimed), audits_of(found)
    return [
        pair
        for key in old
        if key in new and old[key].get("test") != "budget"
        for pair in _of_audit(_name(key), old[key], new[key])
    ]


def disagreements(found: list[Pair], anew: Collection[int]) -> tuple[bool, list[Pair]]:
    """Return whether this machine computes as that of the result did, and the readings that do not agree.

    It does if poisoned and retrained models, and all that is only read again, are equal but for rounding. Then the
    unlearned models must be, too. On another kind of machine training takes another course; then a reading must lie as
    close to that of the result as two seeds lie to each other, with an error of `LEVEL` for all of them together.

    Args:
        found: All readings.
        anew: Seeds whose models were trained anew.
    """
    alike = all(pair.same for pair in found if pair.arm != "unlearned" or pair.seed not in anew)
    if alike:
        return True, [pair for pair in found if not pair.same]
    trained = sum(pair.seed in anew for pair in found)
    bad = []
    for pair in found:
        share = READ_AGAIN
        if pair.seed in anew:
            share = -t_quantile(pair.seeds - 1, LEVEL / 2 / trained) * math.sqrt(2)
        if not pair.near(share):
            bad.append(pair)
    return False, bad


def _of_audit(name: str, old: Entry, new: Entry) -> Iterator[Pair]:
    tables = [("", old["values"], new["values"])]
    tables += [(f", {what}", values, new["by_seed"].get(what, {})) for what, values in old["by_seed"].items()]
    for what, values, again in tables:
        finite = {arm: [x for x in of if x is not None] for arm, of in values.items()}
        effect = abs(fmean(finite.get("poisoned") or [0.0]) - fmean(finite.get("retrained") or [0.0]))
        for arm, of in values.items():
            spread = max(stdev(finite[arm]) if len(finite[arm]) > 1 else 0.0, LEAST_SPREAD * effect)
            later = dict(zip(new["seeds"], again.get(arm, ()), strict=False))
            for seed, value in zip(old["seeds"], of, strict=False):
                if seed in later:
                    yield Pair(f"{name}{what}", arm, seed, value, later[seed], spread, max(2, len(finite[arm])))


def _name(key: Key) -> str:
    unlearner, task, poison, claim, _ = key
    return f"{claim} of {unlearner} on {task}, {poison}"


def _same(one: Any, other: Any) -> bool:
    """Return whether two plain values are equal, numbers but for rounding."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)
    return bool(one == other)
