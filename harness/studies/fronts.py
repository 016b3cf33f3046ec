"""What settings reach, poison left against accuracy: the front of those that no other beats in both, and a choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from harness.cells import Cell, Registered, traces_of
from harness.judging.claims import UTILITY
from harness.judging.yardsticks import beyond, counted_in, shares
from harness.trials.lab import TrialResult
from harness.trials.readings import trace_in

#: Where a front is read: the accuracy that may be lost against retraining, in shares of 1.
FLOORS = (0.005, 0.01, 0.015, 0.02, 0.03)
#: A setting on k seeds may look worse by chance, by about so much divided by the root of k: the standard deviation over
#: seeds of what is left, and of accuracy against retraining, on digits.
CHANCE_LEFT, CHANCE_ACCURACY = 0.3, 0.01
#: A score that is N(0, 1) if nothing is left lies beyond it with a probability of 5 %.
BEYOND = 1.96
#: What is left of several poisons together.
MEAN = "mean of all poisons"
#: What is left of a poison where that is not known: more than of any setting that ends.
UNKNOWN = 2.0


@dataclass(frozen=True)
class Score:
    """What a setting does to one poison, or to all of them together, on the seeds that it was tried on.

    Attributes:
        traces: Size of the share of each trace that is left, or exceeded beyond retraining, by label; infinite if the
            model diverged. Of an exact null it is the share that is left for certain, see `certainly_left`. A trace of
            which nothing is known is missing.
        exact: Mean score of each trace that is judged by an exact null, in standard deviations.
        accuracy: Accuracy against retraining, mean difference in shares of 1; minus infinity if it diverged.
        error: Standard error of that.
        shares: Largest share of retraining's compute, by yardstick. CPU time is there once all seeds are measured: it
            is noisy, and on its first seed a method also pays for what it imports.
    """

    traces: Mapping[str, float]
    exact: Mapping[str, float]
    accuracy: float
    error: float
    shares: Mapping[str, float]

    @property
    def left(self) -> float:
        """The trace of which most is left: all of them must go; infinite if nothing is known of any."""
        return max(self.traces.values(), default=math.inf)

    @property
    def cost(self) -> float:
        """The share of retraining's compute that the method is said to have used, as in an audit."""
        return max((self.shares[name] for name in counted_in(self.shares) if name in self.shares), default=math.inf)

    @property
    def plain(self) -> dict[str, Any]:
        """The same in plain values."""
        return {**vars(self), "traces": dict(self.traces), "exact": dict(self.exact), "shares": dict(self.shares)}


@dataclass(frozen=True)
class Tried:
    """A setting that was tried.

    Attributes:
        number: Its place among those that were tried, from 0.
        final: Whether it was measured again, on seeds on which it was not chosen.
        setting: The method with these fields.
        history: What it does to each poison on the first seed, on the first two, and so on; only the last where it was
            measured again.
        seeds: On how many seeds it was measured.
        given_up: Why not on all; ``""`` if it was.
        built: Models made for it, by arm.
        seconds: How long it took.
    """

    number: int
    final: bool
    setting: Registered
    history: Sequence[Mapping[str, Score]]
    seeds: int
    given_up: str
    built: Mapping[str, int]
    seconds: float

    @property
    def scores(self) -> Mapping[str, Score]:
        """What it does to each poison, on all of its seeds; empty if there are none."""
        return self.history[-1] if self.history else {}

    @property
    def score(self) -> Score:
        """What it does to all poisons together."""
        return together(self.scores)


def score_of(cell: Cell, results: Sequence[TrialResult], timed: bool) -> Score:
    """Return what a setting does to one poison, from its trials.

    Args:
        cell: What was tried.
        results: Of its trials, seed by seed.
        timed: Whether CPU time counts.
    """
    main, *further = traces_of(cell.poison)
    traces, exact = {}, {}
    for trace in (main, *further):
        p, r, u = ([_value(each, arm, "" if trace is main else trace.name) for each in results] for arm in "PRU")
        share = certainly_left(p, u) if trace.test == "exact-null" else _share_left(p, r, u)
        if trace.test == "exact-null":
            exact[trace.label] = fmean(u)
        if share is not None:
            traces[trace.label] = share
    accuracy = error = 0.0
    if UTILITY.applies(cell):
        read = [each.readings[UTILITY.name] for each in results]
        lost = [arms["U"].value - arms["R"].value for arms in read]
        accuracy = fmean(lost) if math.isfinite(sum(lost)) else -math.inf
        error = stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 and math.isfinite(accuracy) else 0.0
    used = shares([each.cost for each in results])
    if not timed:
        used.pop("cpu_seconds", None)
    return Score(traces, exact, accuracy, error, used)


def _value(result: TrialResult, arm: str, trace: str) -> float:
    return trace_in(result.readings["poison"][arm], trace).value


def _share_left(p: Sequence[float], r: Sequence[float], u: Sequence[float]) -> float:
    effect = fmean(p) - fmean(r)
    share = abs(fmean(u) - fmean(r)) / abs(effect) if effect else math.nan
    return share if math.isfinite(share) else math.inf


def certainly_left(p: Sequence[float], u: Sequence[float]) -> float | None:
    """Return how much of a score is left that is N(0, 1) for every model which knows nothing of the poison.

    On few seeds the mean of such scores is far from 0 by chance, so its size would be no share of anything. What counts
    is by how much it exceeds 1.96 standard errors, in units of the poisoned models' mean: 0 for what an exact null
    passes (nothing found at 0.05), and near the share left where the poison is large. It is a lower bound, where the
    other traces have an estimate.

    Args:
        p: Scores of the poisoned models, one per seed.
        u: Scores of the unlearned ones.

    Returns:
        The share; infinite if a model diverged; None if the poisoned models themselves do not stand out.
    """
    chance = BEYOND / math.sqrt(len(u))
    effect, rest = abs(fmean(p)), abs(fmean(u))
    if not effect > chance:
        return None
    return max(0.0, rest - chance) / effect if math.isfinite(rest) else math.inf


def together(scores: Mapping[str, Score]) -> Score:
    """Return what a setting does to several poisons: the mean of what is left, the lowest accuracy, the dearest.

    The mean, because by the worst poison all settings of a method would be equal that removes one poison and not
    another. No poison counts for more than `UNKNOWN`, and one of which nothing is known does not count. A model that
    diverged does: then infinitely much is left.
    """
    if not scores:
        return Score({}, {}, -math.inf, 0.0, {})
    lowest = min(scores.values(), key=lambda each: each.accuracy)
    known = [each.left for each in scores.values() if each.traces]
    mean = fmean(min(left, UNKNOWN) if math.isfinite(left) else left for left in known) if known else math.inf
    left = {MEAN: mean} if known else {}
    used: dict[str, float] = {}
    for each in scores.values():
        used |= {name: max(share, used.get(name, 0.0)) for name, share in each.shares.items()}
    return Score(left, {}, lowest.accuracy, lowest.error, used)


def affordable(score: Score, budget: float) -> bool:
    """Return whether a setting keeps to the budget by every yardstick of an audit, and leaves a model that can be read.

    Args:
        score: What it does.
        budget: A fraction of retraining.
    """
    readable = math.isfinite(score.accuracy) and (math.isfinite(score.left) or not score.traces)
    return readable and not beyond(score.shares, budget)


def goals(score: Score, budget: float) -> tuple[float, float]:
    """Return what a search minimises: what is left of the poisons, and the accuracy that is lost, in shares of 1.

    Accuracy above the strictest floor counts for nothing. What is below the last floor, or beyond the budget, counts as
    if more than all of the poison were left, so that neither a dead model nor a retrained one is on the front.
    """
    lost = min(max(FLOORS[0], -score.accuracy), 1.0)
    if lost > FLOORS[-1] or not affordable(score, budget):
        return UNKNOWN, lost
    return min(score.left, UNKNOWN), lost


def hopeless(score: Score, others: Iterable[Score], seeds: int, budget: float) -> bool:
    """Return whether a setting cannot be expected to reach the front, from what it does on its first seeds.

    It cannot if others, on the same seeds, leave clearly less at the strictest floor that its accuracy may yet reach:
    by more than chance makes of it. Below every floor it cannot if others are clearly more accurate. Chance is about a
    standard deviation of a mean over so many seeds.

    Args:
        score: What it does.
        others: What others do, on the same seeds.
        seeds: How many.
        budget: Fraction of retraining that may be used.
    """
    if not affordable(score, budget):
        return True
    at_best = score.accuracy + CHANCE_ACCURACY / math.sqrt(seeds)
    floor = next((floor for floor in FLOORS if at_best >= -floor), None)
    others = [each for each in others if affordable(each, budget)]
    if floor is None:
        return any(each.accuracy > at_best for each in others)
    if not score.traces:
        return False
    least = min((each.left for each in others if each.accuracy >= -floor), default=math.inf)
    return least < score.left - CHANCE_LEFT / math.sqrt(seeds)


def read(scores: Sequence[Score], floor: float, budget: float) -> int | None:
    """Return which of several settings leaves least, of those that lose no more accuracy than a floor allows."""
    reach = [i for i, each in enumerate(scores) if each.accuracy >= -floor and affordable(each, budget)]
    return min(reach, key=lambda i: (scores[i].left, -scores[i].accuracy), default=None)


def finalists(tried: Sequence[Tried], most: int, margin: float, budget: float) -> list[Tried]:
    """Return the settings of the joint front, and of what is the front without them, up to a number.

    Of a front that is too long for the number those go first that keep accuracy within the margin and leave least. What
    is below every floor is none, unless all are.
    """
    left = [each for each in tried if goals(each.score, budget)[0] < UNKNOWN]
    left = left or [each for each in tried if affordable(each.score, budget)] or list(tried)
    left = list({each.setting: each for each in reversed(left)}.values())[::-1]
    found: list[Tried] = []
    while left and len(found) < most:
        at = {each.number: goals(each.score, budget) for each in left}
        front = [each for each in left if not any(_beats(other, at[each.number]) for other in at.values())]
        found += sorted(front, key=lambda each: (each.score.accuracy < -margin, each.score.left))
        left = [each for each in left if each not in front]
    return found[:most]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _keeps(scores: Iterable[Score], margin: float, errors: float) -> bool:
    return all(each.accuracy - errors * each.error >= -margin for each in scores)


def choose(finals: Sequence[Tried], margin: float, budget: float) -> tuple[Tried, str]:
    """Return the setting to use, and the rule that found it, in words after "chosen:".

    The least poison left among the settings whose accuracy is within the margin by two standard errors, with every
    poison: about what an audit needs to show it. If there is none, the margin is asked of the mean alone; and if there
    is none either, it is the setting with the highest accuracy.
    """
    least = "the least poison left, on average over the poisons, with"
    rules = (
        (f"{least} accuracy within the margin by two standard errors", 2.0),
        (f"{least} mean accuracy within the margin; none is within it for certain", 0.0),
    )
    fit = [each for each in finals if affordable(each.score, budget)]
    for rule, errors in rules:
        # Of every poison: one that keeps a little more accuracy may be known less well.
        if within := [each for each in fit if _keeps(each.scores.values(), margin, errors)]:
            return min(within, key=lambda each: (each.score.left, -each.score.accuracy)), rule
    kind = "none is within the margin" if fit else "none keeps to the budget"
    return max(fit or finals, key=lambda each: each.score.accuracy), f"the highest accuracy; {kind}"
