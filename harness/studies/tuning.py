"""Search an unlearner's fields, on seeds that no audit uses: the front of poison left against accuracy, and a default.

Every setting is tried seed by seed on `TUNING_SEEDS`, and given up where it cannot be expected to reach the front. The
finalists, those of the front, are measured again on `FINAL_SEEDS`, which no setting was chosen on before; the default
is chosen there. A front on few seeds is too good: each of its points is the best of many, and so the luckiest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from typing import Any, Literal

from harness import registry
from harness.api import DeviceLost, UnlearningError
from harness.calling import out_of_memory
from harness.cells import Cell, Registered, Trial
from harness.guards.clock import TimedOut
from harness.importing import raised
from harness.judging.yardsticks import YARDSTICKS, beyond
from harness.store.artefacts import Busy, Lock, key_of, patiently
from harness.studies.fronts import UNKNOWN, Score, Tried, choose, finalists, goals, hopeless, score_of, together
from harness.studies.pilot import PILOT_SEED
from harness.studies.ranges import Recipe, distributions, edges, inside, placed, positions
from harness.studies.searches import Journal
from harness.trials.keys import made_by
from harness.trials.lab import Lab, TrialResult

#: What a setting is tried on: far from the seeds of audits, and few, since a search asks for many settings.
TUNING_SEEDS = range(PILOT_SEED, PILOT_SEED + 5)
#: What the finalists are compared on: seeds on which none was chosen.
FINAL_SEEDS = range(PILOT_SEED + 5, PILOT_SEED + 15)
FINALISTS = 10
#: So many settings at first, and one in so many afterwards, are random. So a corner that looks bad beside its
#: neighbours is seen, and a search may be made longer: no setting depends on how many there will be.
RANDOM_FIRST, RANDOM_EVERY = 10, 3
#: A setting that was begun so often and never ended is given up: it kills its process, or asks for too much.
ATTEMPTS = 2
#: Part of a search's key; a new number begins all searches anew, after a change of the rules here or in `fronts`.
RULES = 4

What = Literal["setting", "final"]


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        method: Where the search began.
        task, poisons: What it was searched on and against.
        tried: The settings, in order; those that raised an error and those that were given up among them.
        finals: The finalists as they were measured again, those that raised an error among them.
        chosen: The one to use, of the finalists.
        rule: How it was chosen.
        edges: Fields of it that lie on the edge of their range, with the end: a better setting may lie beyond.
        margin: Accuracy that the task allows to be lost, in shares of 1.
        budget: Fraction of retraining that may be used.
    """

    method: Registered
    task: Registered
    poisons: Sequence[Registered]
    tried: Sequence[Tried]
    finals: Sequence[Tried]
    chosen: Tried
    rule: str
    edges: Mapping[str, str]
    margin: float
    budget: float


@dataclass(frozen=True)
class _Claim:
    """A setting that this process is to measure, and the right to do so."""

    what: What
    number: int
    setting: Registered
    lock: Lock


@dataclass
class _Measured:
    """What a setting did: scores after each seed, why not on all seeds, whether by an error, models by arm, seconds."""

    history: list[dict[str, Score]] = field(default_factory=list)
    built: dict[str, int] = field(default_factory=dict)
    given_up: str = ""
    failed: bool = False
    seconds: float = 0.0


class Stopped(UnlearningError):  # noqa: N818 - it reads as what it is
    """A search cannot go on, for a reason that need not be the method's; the next run tries the setting again."""


class Tuning:
    """The search of one method's fields. Any number of processes may work on it, and each may be killed.

    Which setting comes next is asked of a multi-objective tree-structured Parzen estimator (Optuna), seeded by the
    number of the setting. So one process that is killed and started again tries the same settings as one that is not;
    with several, what a setting is suggested from depends on which are finished.

    Args:
        method: Where the search begins; fields that declare no search stay as they are.
        task: The task.
        poisons: What it is tuned against, all at once.
        lab: Where models are trained.
        settings: How many to try, at least 1. If more were tried already, the first so many count.

    Attributes:
        method, task, poisons, lab, settings: The same.

    Raises:
        UnlearningError: Optuna is not installed, no field declares a search, or the store cannot be written.
    """

    def __init__(
        self, method: Registered, task: Registered, poisons: Sequence[Registered], lab: Lab, settings: int
    ) -> None:
        try:
            optuna = metadata.version("optuna")
        except metadata.PackageNotFoundError:
            raise UnlearningError(
                "tuning needs Optuna, which is not installed: pip install 'pytest-unlearning[tune]'"
            ) from None
        space = registry.searches(method)
        if not space:
            raise UnlearningError(
                f"no field of {method.id!r} has a range to search: annotate one, Annotated[float, Search(...)]"
            )
        if lab.store.files.refusal:
            raise UnlearningError(f"a search is written down, and {lab.store.files.refusal}")
        self.method, self.task, self.poisons, self.settings = method, task, tuple(poisons), settings
        self.lab, self._space, self._recipe = lab, space, Recipe.of(task)
        self._settings: dict[int, Registered] = {}
        self._known: dict[tuple[What, int], Tried] = {}
        self._stopped: Stopped | None = None
        of = {
            **patiently(lambda: lab.bench.on(task)),
            "method": method.identity,
            "poisons": [poison.identity for poison in poisons],
            "ranges": {name: asdict(search) for name, search in space.items()},
            "budget": lab.budget,
            "timeout": lab.bench.timeout,
            "seeds": [[seeds[0], seeds[-1]] for seeds in (TUNING_SEEDS, FINAL_SEEDS)],
            "search": [RULES, optuna],
        }
        self._journal = Journal(lab.store, key_of("search", of | made_by("training", "unlearning", "accuracy")))

    @property
    def margin(self) -> float:
        """Accuracy that the task allows to be lost."""
        margin: float = self.task.value.utility_margin
        return margin

    def step(self) -> Tried | None:
        """Measure what is next, and return it; None if nothing is left to do.

        Waits for other processes only if there is nothing else to do.

        Raises:
            Stopped: Time, memory or the disk did not suffice, now or at an earlier call.
            DeviceLost: The GPU answers no more.
        """
        if self._stopped is not None:
            raise self._stopped
        claim = patiently(self._claim)
        if claim is None:
            return None
        with claim.lock:
            begun = self._journal.begin(claim.what, claim.number)
            try:
                if begun >= ATTEMPTS:
                    why = f"its process died, or time, memory or disk did not suffice, {begun} times"
                    return self._write(claim, _Measured(given_up=why, failed=True))
                return self._write(claim, self._measure(claim))
            except Stopped as error:
                self._stopped = error
                raise
            except Exception:
                raise
            except BaseException:  # somebody ended the run
                self._journal.put_back(claim.what, claim.number)
                raise

    def result(self) -> Tuned:
        """Return what a search found that has come to its end.

        Raises:
            UnlearningError: No setting could be completed.
        """
        tried, finals = self._tried(), self._finals()
        complete = [each for each in finals if not each.given_up]
        if not complete:
            reason = "none of the best could be completed on further seeds"
            if all(each.given_up for each in tried):
                reason = "each of them raised an error or was given up"
            raise UnlearningError(f"no setting of {self.method.id!r} could be completed; {reason}")
        chosen, rule = choose(complete, self.margin, self.lab.budget)
        at = edges(chosen.setting, self._recipe)
        return Tuned(
            self.method, self.task, self.poisons, tried, finals, chosen, rule, at, self.margin, self.lab.budget
        )

    # ---- what is next

    def _claim(self) -> _Claim | None:
        """Return what to do next; None if all is done.

        Raises:
            Busy: All that is left is being done by others.
        """
        with self._journal.alone():
            trials = self._journal.settings()
            for trial in trials:
                if not trial.state.is_finished() and len(trial.params) < len(self._space):
                    self._journal.drop(trial.number)  # nobody is suggesting it: we are alone
            trials = [each for each in trials if each.state.is_finished() or len(each.params) == len(self._space)]
            running = [each for each in trials[: self.settings] if not each.state.is_finished()]
            for trial in running:  # somebody is at it, or was
                if lock := self._journal.take("setting", trial.number):
                    return _Claim("setting", trial.number, self._placed(trial), lock)
            if len(trials) < self.settings:
                trial = self._suggest(len(trials))
                lock = self._journal.take("setting", trial.number)
                assert lock is not None, "nobody else knows of it"
                return _Claim("setting", trial.number, self._placed(trial), lock)
            if running:
                raise Busy
            return self._claim_final()

    def _claim_final(self) -> _Claim | None:
        known = self._journal.notes()
        missing = [each for each in self._finalists() if f"final {each.number}" not in known]
        for each in missing:
            if lock := self._journal.take("final", each.number):
                return _Claim("final", each.number, each.setting, lock)
        if missing:
            raise Busy
        return None

    def _suggest(self, count: int) -> Any:
        from optuna.samplers import RandomSampler, TPESampler

        chance = count < RANDOM_FIRST or count % RANDOM_EVERY == 0
        sampler = RandomSampler(seed=count) if chance else TPESampler(seed=count, n_startup_trials=1)
        begin = None
        if count == 0:
            at = positions(self.method, self._recipe)
            begin = {name: value for name, value in at.items() if inside(self._space[name], value)}
        return self._journal.suggest(sampler, distributions(self.method), begin)

    def _placed(self, trial: Any) -> Registered:
        if trial.number not in self._settings:  # it takes a tenth of a second, and is asked for at every seed
            found = {name: trial.params[name] for name in self._space}
            self._settings[trial.number] = placed(self.method, self._recipe, found)
        return self._settings[trial.number]

    # ---- what is known

    def _tried(self) -> list[Tried]:
        """Return the settings that were tried, in order."""
        trials = [each for each in self._journal.settings() if len(each.params) == len(self._space)]
        return self._read("setting", {each.number: self._placed(each) for each in trials[: self.settings]})

    def _finalists(self) -> list[Tried]:
        complete = [each for each in self._tried() if not each.given_up]
        return finalists(complete, FINALISTS, self.margin, self.lab.budget)

    def _finals(self) -> list[Tried]:
        return self._read("final", {each.number: each.setting for each in self._finalists()})

    def _read(self, what: What, settings: Mapping[int, Registered]) -> list[Tried]:
        if any((what, number) not in self._known for number in settings):
            notes = self._journal.notes()
            for number, setting in settings.items():
                if note := notes.get(f"{what} {number}"):
                    history = [{name: Score(**score) for name, score in scores.items()} for scores in note["history"]]
                    self._known[what, number] = Tried(
                        number, what == "final", setting, history, **{name: note[name] for name in _NOTED}
                    )
        return [self._known[what, number] for number in settings if (what, number) in self._known]

    # ---- one setting

    def _measure(self, claim: _Claim) -> _Measured:
        """Try a setting.

        Raises:
            Stopped, DeviceLost: It could not be tried; that says nothing of it.
        """
        searching = claim.what == "setting"
        seeds = TUNING_SEEDS if searching else FINAL_SEEDS
        started = time.perf_counter()
        found = _Measured()
        try:
            for scores in self._scores(claim.setting, seeds, found.built):
                found.history.append(scores)
                if searching and len(found.history) < len(seeds) and (why := self._hopeless(found.history)):
                    found.given_up = why
                    break
        except DeviceLost:
            raise
        except Exception as error:
            if passes(error):
                raise Stopped(f"the search stopped at {claim.setting.id}: {_said(error)}") from error
            found.given_up, found.failed = _said(error), True
        found.seconds = round(time.perf_counter() - started, 3)
        return found

    def _write(self, claim: _Claim, found: _Measured) -> Tried:
        """Write down what a setting does, for the other processes and the next run."""
        searching = claim.what == "setting"
        kept = found.history if searching else found.history[-1:]
        tried = Tried(
            claim.number, not searching, claim.setting, kept, len(found.history), found.given_up, found.built,
            found.seconds,
        )  # fmt: skip
        plain = [{name: score.plain for name, score in scores.items()} for scores in kept]
        note = {"history": plain, **{name: getattr(tried, name) for name in _NOTED}}
        aims = None
        if searching:  # of a setting that raises late, the early seeds must not attract the sampler
            aims = (UNKNOWN, 1.0) if found.failed else goals(tried.score, self.lab.budget)
        self._journal.note(claim.what, claim.number, note, aims)
        return tried

    def _scores(self, setting: Registered, seeds: Sequence[int], built: dict[str, int]) -> Iterator[dict[str, Score]]:
        """Yield what a setting does to each poison, on the first seed, the first two, and so on."""
        cells = [Cell(setting, self.task, poison) for poison in self.poisons]
        self.lab.will_need(cells)
        results: dict[Cell, list[TrialResult]] = {cell: [] for cell in cells}
        for seed in seeds:
            for cell in cells:
                results[cell].append(result := patiently(partial(self.lab.run, Trial(cell, seed))))
                for arm in result.cost["built"]:
                    built[arm] = built.get(arm, 0) + 1
            yield {cell.poison.id: score_of(cell, results[cell], timed=seed == seeds[-1]) for cell in cells}

    def _hopeless(self, history: Sequence[Mapping[str, Score]]) -> str:
        """Return why a setting is given up after its first seeds; ``""`` if it may yet be on a front.

        It may as long as that holds of one poison, or of all together.
        """
        seeds, budget = len(history), self.lab.budget
        scores, score = history[-1], together(history[-1])
        if dear := beyond(score.shares, budget):
            return f"beyond the budget ({', '.join(YARDSTICKS[name].title for name in dear)})"
        others = [each.history[seeds - 1] for each in self._tried() if len(each.history) >= seeds]
        if not hopeless(score, map(together, others), seeds, budget):
            return ""
        if all(hopeless(scores[name], [other[name] for other in others], seeds, budget) for name in scores):
            return f"far from the front after {seeds} seed{'s' * (seeds > 1)}"
        return ""


_NOTED = ("seeds", "given_up", "built", "seconds")


def tune(
    method: Registered,
    task: Registered,
    poisons: Sequence[Registered],
    lab: Lab,
    settings: int,
    on_setting: Callable[[Tried], None] = lambda _: None,
) -> Tuned:
    """Search in this process until the end; `Tuning` has the arguments, and what may be raised.

    Args:
        method: As there.
        task: As there.
        poisons: As there.
        lab: As there.
        settings: As there.
        on_setting: Called with each setting that this process tried, or measured again.
    """
    tuning = Tuning(method, task, poisons, lab, settings)
    while (tried := tuning.step()) is not None:
        on_setting(tried)
    return tuning.result()


def passes(error: BaseException | None) -> bool:
    """Return whether an error, or what it comes from, may pass: time, memory, or a file that could not be had."""
    while error is not None:
        if isinstance(error, (TimedOut, OSError)) or out_of_memory(error):
            return True
        error = error.__cause__
    return False


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UnlearningError) else raised(error)
