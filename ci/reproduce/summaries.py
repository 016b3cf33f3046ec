"""What tables and plots share: names, groups of runs, means, and how numbers are shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from runs import Run

from harness.cells import Registered
from harness.trials.lab import TrialResult

LABELS = {
    "short": "Retrain", "neggrad_plus": "NGP", "ga": "GA", "gd": "GD", "cfk": "CFk", "euk": "EUk", "scrub": "SCRUB",
    "ngd": "NGD", "ssd": "SSD",
}  # fmt: skip


def label(run: Run) -> str:
    """Return the paper's name of a method, with its fields where they were given."""
    name, _, fields = run.method.id.partition(":")
    return LABELS.get(name, name) + (f" ({fields.replace(',', ', ')})" if fields else "")


def grouped(done: Iterable[Run]) -> list[tuple[tuple[Registered, str, int], dict[float | None, list[Run]]]]:
    """Return the runs of each poison, method and number of epochs, by learning rate."""
    groups: dict[Any, dict[float | None, list[Run]]] = {}
    for run in done:
        groups.setdefault((run.trial.cell.poison, label(run), run.epochs), {}).setdefault(run.lr, []).append(run)
    return list(groups.items())


def accuracy(result: TrialResult, arm: str = "U") -> float:
    """Return the test accuracy of a model, as a share of 1."""
    return result.readings["accuracy"][arm].value


def best_rate(
    done: Mapping[Run, TrialResult], by_rate: Mapping[float | None, Sequence[Run]]
) -> tuple[float | None, dict[float | None, dict[str, Any]]]:
    """Return the learning rate that `rank` puts first, and the accuracy at each."""
    means = {rate: summary([accuracy(done[run]) for run in runs]) for rate, runs in by_rate.items()}
    return max(means, key=lambda rate: rank(means[rate])), means


def rank(of: Mapping[str, Any]) -> tuple[int, float]:
    """Return what is larger for a better summary of accuracies: fewer diverged runs, and then a higher mean.

    The mean alone is of the runs that did not diverge, so a rate that destroys most models could have the highest.
    """
    return -of["diverged"], of["mean"] if of["n"] else -1.0


def at_the_end(rate: float | None, tried: Iterable[float | None]) -> bool:
    """Return whether a learning rate is the smallest or the largest of several."""
    rates = [each for each in tried if each is not None]
    return len(rates) > 1 and rate in (min(rates), max(rates))


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and sd of the runs that did not diverge, and all of them; n counts those in the mean."""
    finite = [value for value in values if math.isfinite(value)]
    return {
        "mean": fmean(finite) if finite else math.nan,
        "sd": stdev(finite) if len(finite) > 1 else None,
        "n": len(finite),
        "diverged": len(values) - len(finite),
        "values": [value if math.isfinite(value) else None for value in values],
    }


def percent(of: Mapping[str, Any]) -> str:
    """Return a mean of shares in percent, with its standard deviation."""
    if of["mean"] is None:
        return "diverged"
    spread = "" if of["sd"] is None else f" ± {100 * of['sd']:.1f}"
    lost = f", {of['diverged']} diverged" if of["diverged"] else ""
    return f"{100 * of['mean']:.2f}{spread}{lost}"


def scaled(share: float | None) -> float | None:
    """Return a share in percent."""
    return None if share is None else round(100 * share, 3)
