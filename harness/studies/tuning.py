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
    space = registry.searches(method)
    if not space:
        raise UnlearningError(
            f"no field of {method.id!r} has a range to search: annotate one, Annotated[float, Search(...)]"
        )
    recipe = Recipe.of(task)
    started = time.perf_counter()
    built: set[tuple[Trial, str]] = set()
    tried: dict[Registered, Score] = {}

    def objective(suggestion: Any) -> float:
        found = {name: _suggest(suggestion, name, search, method.fields[name]) for name, search in space.items()}
        setting = placed(method, recipe, found)
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
    begin = positions(method, recipe)
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


@dataclass(frozen=True)
class Recipe:
    """What ranges may count in.

    Attributes:
        optimizer: That the task trains with.
        blocks: Number of blocks of the task's models.
    """

    optimizer: Any
    blocks: int

    @classmethod
    def of(cls, task: Registered) -> Recipe:
        """Return that of a task."""
        model = task.value.new_model()
        return cls(task.value.optimizer(model), len(task.value.blocks(model)))

    def unit(self, method: Registered, name: str, search: Search) -> float:
        """Return what a field's range counts in, for a method with the values of all fields that count in nothing."""
        if search.of == "rate":
            own = getattr(method.value, f"{name}_unit", None)
            rate: float = self.optimizer.param_groups[0]["lr"] if own is None else own(self.optimizer)
            return rate
        return self.blocks if search.of == "blocks" else float(method.fields[search.of]) if search.of else 1.0


def placed(method: Registered, recipe: Recipe, found: dict[str, Any]) -> Registered:
    """Return a method at positions in the ranges of its fields."""
    space = registry.searches(method)
    plain = {name: _value(space[name], at, 1.0) for name, at in found.items() if not space[name].of}
    method = registry.with_fields(method, plain)
    counted = {
        name: _value(space[name], at, recipe.unit(method, name, space[name]), method.fields[name])
        for name, at in found.items()
        if space[name].of
    }
    return registry.with_fields(method, counted)


def positions(method: Registered, recipe: Recipe) -> dict[str, Any]:
    """Return where in their ranges a method's fields are, the inverse of `placed`; none for those that are nowhere."""
    found = {}
    for name, search in registry.searches(method).items():
        value = method.fields[name]
        if search.choices:
            found[name] = value
        elif value is None and search.of == "rate":
            found[name] = getattr(method.value, f"{name}_of_recipe", 1.0)
        elif value is not None and search.of:
            # An integer is rounded up, so that it comes from the middle of what is rounded to it.
            found[name] = (value - isinstance(value, int) / 2) / recipe.unit(method, name, search)
        elif value is not None:
            found[name] = value if search.below is None else search.below - value
    return found


def _value(search: Search, at: Any, unit: float, like: Any = None) -> Any:
    """Return the value of a field at a position in its range."""
    if search.choices or isinstance(at, int):
        return at
    if isinstance(like, int):
        return max(1, math.ceil(at * unit))
    # Three digits are all that a search can tell apart, and can be read.
    value = float(f"{at * unit:.3g}")
    return value if search.below is None else round(search.below - value, 12)


def _inside(search: Search, at: Any) -> bool:
    return at in search.choices if search.choices else search.low <= at <= search.high


def _suggest(suggestion: Any, name: str, search: Search, value: Any) -> Any:
    if search.choices:
        return suggestion.suggest_categorical(name, search.choices)
    if isinstance(value, int) and not search.of:
        return suggestion.suggest_int(name, int(search.low), int(search.high), log=search.log)
    return suggestion.suggest_float(name, search.low, search.high, log=search.log)


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
