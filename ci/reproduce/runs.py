"""What is to be run, and running it: in an order, from a store, with progress that a person can plan by."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness import registry
from harness.api import DeviceLost, Reading
from harness.cells import Cell, Registered, Trial
from harness.report.words import duration
from harness.statistics.equivalence import FEWEST
from harness.store.artefacts import Busy, patiently
from harness.trials.lab import Lab, TrialResult

EVERY = 15.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Run:
    """One unlearning: a method at one learning rate, for so many epochs, on one poison and seed.

    Attributes:
        method: The method as it was asked for, of which the trial has a setting.
        epochs: Epochs of unlearning.
        lr: Learning rate; None for methods without one.
        trial: The trial.
    """

    method: Registered
    epochs: int
    lr: float | None
    trial: Trial

    def __str__(self) -> str:
        rate = "" if self.lr is None else f" at {self.lr:g}"
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        return f"{self.method.name}{rate}, {epochs}, {self.trial.cell.poison.id}, seed {self.trial.seed}"


def planned(
    task: Registered,
    poisons: Sequence[Registered],
    methods: Sequence[Registered],
    epochs: Sequence[int],
    rates: Sequence[float],
    seeds: int,
) -> list[Run]:
    """Return every run, seed by seed, so that a study that is broken off has fewer seeds and no gaps.

    Retraining for as many epochs as unlearning takes, the paper's "Retrain", is the control ``short``: every run's
    budget is its epochs.
    """
    short = registry.resolve("unlearner", "short")
    runs: dict[tuple[Cell, int, int], Run] = {}
    for seed in range(seeds):
        for poison in poisons:
            for passes in epochs:
                for method in (short, *methods):  # retraining has the recipe's rate and all of the budget
                    tried = [(short, None)] if method == short else settings(method, passes, rates)
                    for setting, rate in tried:
                        cell = Cell(setting, task, poison)
                        run = Run(method, passes, rate, Trial(cell, seed))
                        runs.setdefault((cell, passes, seed), run)
    return list(runs.values())


def settings(method: Registered, epochs: int, rates: Sequence[float]) -> Iterator[tuple[Registered, float | None]]:
    """Yield a method at every rate, for so many epochs; a method without such fields once, as it is."""
    fields = {"epochs": epochs} if "epochs" in method.fields else {}
    if "lr" not in method.fields:
        yield (registry.with_fields(method, fields) if fields else method), None
        return
    for rate in rates:
        yield registry.with_fields(method, {**fields, "lr": rate}), rate


class Work:
    """Works off runs, over a store that other processes may be filling too.

    Args:
        lab: Where models are trained.
        runs: What is to be done.
        say: Called with a line of progress now and then.

    Attributes:
        done: What was done so far, here or earlier, in the order of the runs.
        errors: What unlearners raised, by run.
        trained: Models that were trained or unlearned here for what is done; attackers' surrogates do not count.
    """

    def __init__(self, lab: Lab, runs: Sequence[Run], say: Callable[[str], None]) -> None:
        self._results: dict[Run, TrialResult] = {}
        self.errors: dict[Run, str] = {}
        self.trained: set[tuple[str, str, int]] = set()
        self._lab = lab
        lab.will_need(dict.fromkeys(run.trial.cell for run in runs), self._soon)
        self._runs = runs
        self._say = say
        self._begun = self._said = time.monotonic()
        self._passes = dict.fromkeys(runs, 0.0)
        self._made = 0.0

    @property
    def done(self) -> dict[Run, TrialResult]:
        return {run: self._results[run] for run in self._runs if run in self._results}

    def forecast(self) -> dict[str, Any]:
        """Find out what is missing.

        Returns:
            ``models``: how many; ``trained`` and ``unlearned``: the passes over the data that make them; ``crafted``: a
            trial of each poison and seed that must be crafted first.
        """
        known: set[str] = set()
        unlearned = 0.0
        crafted: dict[Hashable, Trial] = {}
        for run in self._runs:
            self._allow(run)
            try:
                missing = self._lab.missing(run.trial)
            except Busy:  # another process plants it; so it will make what follows
                continue
            for arm, key in missing.items():
                # What crafted poisons will lead to has no key yet: the names of two budgets would be one.
                key = f"{key} {run.epochs}" if arm == "U" else key
                if key not in known:
                    known.add(key)
                    self._passes[run] += run.epochs if arm == "U" else run.trial.cell.task.value.epochs
                    unlearned += run.epochs if arm == "U" else 0
            poison = run.trial.cell.poison
            new = bool(missing) and (poison, run.trial.seed) not in crafted
            if new and getattr(poison.value, "crafted", False) and self._lab.stored(run.trial)[0] is None:
                crafted[poison, run.trial.seed] = run.trial
        trained = sum(self._passes.values()) - unlearned
        return {"models": len(known), "trained": trained, "unlearned": unlearned, "crafted": list(crafted.values())}

    def finish(self, on_seeds: Callable[[int], object] = lambda _: None) -> None:
        """Do all that is not done; what another process is at comes later.

        Args:
            on_seeds: Called with the number of seeds whose runs are all done, whenever there is one more.
        """
        queue = deque(self._runs)
        left = Counter(run.trial.seed for run in queue)
        refused = 0
        while queue:
            run = queue.popleft()
            try:
                self._do(run)
            except Busy:
                queue.append(run)
                refused += 1
                if refused >= len(queue):  # nothing is left to go ahead with
                    time.sleep(0.5)
                    refused = 0
                continue
            refused = 0
            left[run.trial.seed] -= 1
            if left[run.trial.seed] == 0:
                on_seeds(sum(count == 0 for count in left.values()))

    def attacks(self, groups: Iterable[Sequence[Run]]) -> dict[Run, dict[str, dict[str, Reading]]]:
        """Return what attacks on membership read of runs that are done, by attack and arm.

        Args:
            groups: Runs of one setting, seed by seed. A group of fewer than three is left out: the likelihood ratio
                needs the retrained models of other seeds.
        """
        found: dict[Run, dict[str, dict[str, Reading]]] = {}
        for runs in groups:
            if len(runs) >= FEWEST:
                self._allow(runs[0])
                trials = [run.trial for run in runs]
                found |= zip(runs, patiently(partial(self._lab.heuristics, trials)), strict=True)
        return found

    def training(self, trial: Trial, arm: str, done: int, of: int) -> None:
        """Say how far a long training is, as a lab reports it."""
        if arm != "U" and time.monotonic() - self._said >= EVERY:
            names = {"P": "poisoned model", "R": "full retraining"}
            what = f"{names.get(arm, arm)}, {trial.cell.poison.id}, seed {trial.seed}"
            self._line(f"{what}: pass {done} of {of}")

    def _soon(self) -> Iterator[Trial]:
        """Yield the trials that are not done, in order: their models may be trained in one group."""
        return iter(dict.fromkeys(run.trial for run in self._runs if run not in self._results))

    def _do(self, run: Run) -> None:
        self._allow(run)
        try:
            self._results[run] = self._lab.run(run.trial)
        except (Busy, DeviceLost):
            raise
        except Exception as error:  # of a method, as a rule: the others go on, and the tables say what is missing
            self.errors[run] = f"{type(error).__name__}: {error}"
            self._line(f"{run}: {self.errors[run]}")
        else:
            # The trials of ``short`` have one name for all epochs, and one P and R.
            built = self._results[run].cost["built"]
            self.trained |= {(run.trial.id, arm, run.epochs if arm == "U" else 0) for arm in built}
        self._made += self._passes[run]
        last = len(self._results) + len(self.errors) == len(self._runs)
        if run in self._results and (last or time.monotonic() - self._said >= EVERY):
            self._line(f"{run}: {100 * self._results[run].readings['accuracy']['U'].value:.1f} % accuracy")

    def _allow(self, run: Run) -> None:
        # The budget is part of what a model is stored under, and all that ``short`` goes by.
        self._lab.budget = run.epochs / run.trial.cell.task.value.epochs

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        done, left = len(self._results) + len(self.errors), sum(self._passes.values()) - self._made
        to_go = ""
        if self._made and left:
            to_go = f", about {duration((self._said - self._begun) / self._made * left)} to go"
        self._say(f"[{done} of {len(self._runs)}{to_go}] {text}")
