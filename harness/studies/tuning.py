"""Search an unlearner's fields, on seeds that no audit uses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from harness import registry
from harness.api import DeviceLost, Search, UnlearningError
from harness.cells import Cell, Registered, Trial
from harness.importing import raised
from harness.judging.claims import POISON, UTILITY
from harness.store.artefacts import patiently
from harness.studies.pilot import PILOT_SEED
from harness.trials.lab import Lab, TrialResult

#: What a setting is tried on: far from the seeds of audits, and few, since a search asks for many settings.
TUNING_SEEDS = range(PILOT_SEED, PILOT_SEED + 5)


#: What the best settings are compared on in the end: the best of many is also the luckiest.
FINAL_SEEDS = range(PILOT_SEED, PILOT_SEED + 15)


FINALISTS = 5


@dataclass(frozen=True)
class Score:
    """What a setting does on the seeds that it was tried on.

    Attributes:
        left: Fraction of the poisons' effect that is left, or exceeded beyond retraining: its size, mean over poisons.
        accuracy: Accuracy against retraining, mean difference in shares of 1.
        cost: Examples, the largest fraction of those of retraining.
        margin: Accuracy that the task allows to be lost.
        budget: Fraction of retraining that may be used.
    """

    left: float
    accuracy: float
    cost: float
    margin: float
    budget: float

    @property
    def allowed(self) -> bool:
        """Whether it keeps the model alive, to the budget and, on average, accuracy within the margin."""
        finite = math.isfinite(self.left + self.accuracy)
        return finite and self.accuracy >= -self.margin and self.cost <= self.budget * (1 + 1e-6)

    @property
    def loss(self) -> float:
        """What the search minimises: what is left of the poison, and what accuracy was lost.

        Half the margin may be lost for nothing, since audits of accuracy pass there. Beyond it a tenth of the margin
        weighs as much as a tenth of the poison.
        """
        if not math.isfinite(self.left + self.accuracy):
            return 10.0
        lost = max(0.0, -self.accuracy / self.margin - 0.5)
        return self.left + min(lost, 5.0) + (1.0 if self.cost > self.budget * (1 + 1e-6) else 0.0)


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        unlearner: Of the `FINALISTS` best settings the one with the smallest `Score.loss` on `FINAL_SEEDS`.
        score: What it does there.
        settings: Settings that were tried, the one it began with among them.
        unlearnings: Models that this search had to unlearn; what an earlier one stored is not among them.
        trainings: Models that this search had to train.
        seconds: How long it took.
    """

    unlearner: Registered
    score: Score
    settings: int
    unlearnings: int
    trainings: int
    seconds: float


# Longer than others: what is tried, pruned and counted is one search, and shares its state.
def tune(
    method: Registered,
    task: Registered,
    poisons: Sequence[Registered],
    lab: Lab,
    settings: int,
    on_setting: Callable[[int, Registered, Score | str], None] = lambda *_: None,
) -> Tuned:
    """Search the fields of a method that declare a `Search`, by a tree-structured Parzen estimator (Optuna).

    Each setting is tried seed by seed, and given up where it is worse than the median at that seed (Optuna's median
    pruner). Everything follows from the settings before it, and what was tried is stored, so that a search that was
    interrupted goes on where it stopped. The `FINALISTS` best are tried on further seeds, and the best of these is it.

    Args:
        method: Where the search begins; fields that declare no search stay as they are.
        task: The task.
        poisons: What it is tuned against, all at once.
        lab: Where models are trained.
        settings: How many to try, at least 1.
        on_setting: Called with (settings tried so far, the setting, its score on the seeds it was tried on, or what
            was raised at it, in a sentence: such a setting is given up).

    Raises:
        UnlearningError: Optuna is not installed, no field declares a search, or no setting could be completed.
    """
    try:
        import optuna
    except ImportError:
        raise UnlearningError(
            "tuning needs Optuna, which is not installed: pip install 'pytest-unlearning[tune]'"
        ) from None
    rate = _rate(task)
    searches = registry.searches(method)
    space = {name: search.at(rate) for name, search in searches.items()}
    if not space:
        raise UnlearningError(
            f"no field of {method.id!r} has a range to search: annotate one, Annotated[float, Search(...)]"
        )
    started = time.perf_counter()
    built: set[tuple[Trial, str]] = set()
    tried: dict[Registered, Score] = {}

    def objective(suggestion: Any) -> float:
        fields = {name: _suggest(suggestion, name, search, method.fields[name]) for name, search in space.items()}
        setting = registry.with_fields(method, fields)
        try:
            for step, score in enumerate(scores(setting, TUNING_SEEDS)):
                suggestion.report(score.loss, step)
                if suggestion.should_prune() and step + 1 < len(TUNING_SEEDS):
                    on_setting(suggestion.number + 1, setting, score)
                    raise optuna.TrialPruned
        except (optuna.TrialPruned, DeviceLost):
            raise
        except Exception as error:
            on_setting(suggestion.number + 1, setting, _said(error))
            raise optuna.TrialPruned(str(error)) from error
        tried[setting] = score
        on_setting(suggestion.number + 1, setting, score)
        return score.loss

    def scores(setting: Registered, seeds: Sequence[int]) -> Iterator[Score]:
        cells = [Cell(setting, task, poison) for poison in poisons]
        lab.will_need(cells)
        results: dict[Cell, list[TrialResult]] = {cell: [] for cell in cells}
        for seed in seeds:
            for cell in cells:
                trial = Trial(cell, seed)
                results[cell].append(result := patiently(partial(lab.run, trial)))
                built.update((trial, arm) for arm in result.cost["built"])
            yield _score(results, lab.budget)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        # A third at random first: with fewer, a corner that looks bad beside its neighbours is never seen.
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=max(10, settings // 3)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=10),
    )
    begin = {
        name: _current(method, name, rate)
        for name in space
        if method.fields[name] is not None or searches[name].of_recipe
    }
    study.enqueue_trial({name: value for name, value in begin.items() if _inside(space[name], value)})
    study.optimize(objective, n_trials=settings)
    if not tried:
        raise UnlearningError(f"no setting of {method.id!r} could be completed; it raised an error at each of them")
    finalists = sorted(tried, key=lambda setting: tried[setting].loss)[:FINALISTS]
    final: dict[Registered, Score] = {}
    for setting in finalists:
        try:
            final[setting] = list(scores(setting, FINAL_SEEDS))[-1]
        except DeviceLost:
            raise
        except Exception as error:
            on_setting(settings, setting, _said(error))
    if not final:
        raise UnlearningError(f"none of the best settings of {method.id!r} could be completed on further seeds")
    best = min(final, key=lambda setting: final[setting].loss)
    unlearnings = sum(arm == "U" for _, arm in built)
    seconds = time.perf_counter() - started
    return Tuned(best, final[best], settings, unlearnings, len(built) - unlearnings, seconds)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UnlearningError) else raised(error)


def _rate(task: Registered) -> float:
    """Return the learning rate that a task's recipe trains with."""
    rate: float = task.value.optimizer(task.value.new_model()).param_groups[0]["lr"]
    return rate


def _current(method: Registered, name: str, rate: float) -> Any:
    """Return the value that a field has, its default included."""
    value = method.fields[name]
    return getattr(method.value, f"{name}_of_recipe", 1.0) * rate if value is None else value


def _inside(search: Search, value: Any) -> bool:
    return value in search.choices if search.choices else search.low <= value <= search.high


def _suggest(suggestion: Any, name: str, search: Search, value: Any) -> Any:
    if search.choices:
        return suggestion.suggest_categorical(name, search.choices)
    if isinstance(value, int):
        return suggestion.suggest_int(name, int(search.low), int(search.high), log=search.log)
    # Three digits are all that a search can tell apart, and can be read.
    return float(f"{suggestion.suggest_float(name, search.low, search.high, log=search.log):.3g}")


def _score(results: dict[Cell, list[TrialResult]], budget: float) -> Score:
    left, accuracy = [], []
    for cell, of_cell in results.items():
        p, r, u = (fmean(each.readings[POISON.name][arm].value for each in of_cell) for arm in "PRU")
        share = (u - r) / (p - r) if p != r else math.nan
        left.append(abs(share))
        if UTILITY.applies(cell):
            u, r = (fmean(each.readings[UTILITY.name][arm].value for each in of_cell) for arm in "UR")
            accuracy.append(u - r)
    cost = max(each.cost["fractions"]["examples"] for of_cell in results.values() for each in of_cell)
    margin = next(iter(results)).task.value.utility_margin
    return Score(fmean(left), fmean(accuracy) if accuracy else 0.0, cost, margin, budget)
