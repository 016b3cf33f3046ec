"""What is read of the models of trials, from the store or from the models themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.api import Reading
from harness.calling import calling
from harness.cells import ARMS, Registered, Trial, asks
from harness.guards.guard import guarded
from harness.store.artefacts import Artefact, Lock
from harness.trials import keys
from harness.trials.bench import Bench
from harness.trials.checks import check_questions, check_reading
from harness.trials.models import Models
from harness.trials.planting import Planting, unchanged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Question
    from harness.training.data import Data
    from harness.trials.metrics import Answers

#: A reading, and the artefact that holds it.
Stored = tuple[Reading, Artefact]


class Readings:
    """Reads models.

    Args:
        bench: Where.
        planting: Plants the poisons.
        models: Makes the models.
    """

    def __init__(self, bench: Bench, planting: Planting, models: Models) -> None:
        self._bench = bench
        self._planting = planting
        self._models = models

    def poison(self, trial: Trial, model: Artefact, lock: Lock | None = None) -> Stored:
        """Return what the poison's measure reads of a model.

        Raises:
            Busy: Another process is reading it.
        """
        poison, task = trial.cell.poison, trial.cell.task

        def probe(net: nn.Module) -> Reading:
            split = self._bench.split(task)
            try:
                planted = self._planting.points(trial).planted
                with unchanged(split, poison), guarded(f"the poison {poison.id!r}"):
                    reading = poison.value.probe(net, planted, task.value, split)
                return check_reading(poison, reading)
            finally:  # it may have done to the model what it likes; who needs that again, reads it again
                self._bench.reload(trial.cell.task, model)

        of = keys.poison(self._bench.on(task), trial, self._planting.of(trial), model)
        return self._reading(trial, model, of, probe, lock)

    def accuracy(self, trial: Trial, model: Artefact, lock: Lock | None = None) -> Stored:
        """Return a model's accuracy on the test points.

        Raises:
            Busy: Another process is reading it.
        """
        task = trial.cell.task

        def measured(net: nn.Module) -> Reading:
            from harness.trials.accuracy import accuracy

            test = self._bench.split(task).test
            with calling(f"the task {task.id!r}"):
                return accuracy(net, task.value, test)

        return self._reading(trial, model, keys.accuracy(self._bench.on(task), model), measured, lock)

    def nearness(self, trial: Trial, model: Artefact, retrained: Sequence[Artefact]) -> dict[str, float]:
        """Return how far a model is from the nearest of several retrained ones, by measure; NaN where one diverged.

        Raises:
            Busy: Another process is computing it.
        """
        found = [self._nearness(trial, model, each) for each in retrained]
        return {measure: min(each[measure] for each in found) for measure in found[0]}

    def _nearness(self, trial: Trial, model: Artefact, retrained: Artefact) -> dict[str, float]:
        task = trial.cell.task

        def make() -> tuple[dict[str, Any], None]:
            from harness.trials.nearness import nearness

            if not (model.info["finite"] and retrained.info["finite"]):
                return {"weights": None, "logits": None}, None
            one, other = (self._bench.model(task, each) for each in (model, retrained))
            with calling(f"the task {task.id!r}"):
                found = nearness(task.value, one, other, self._bench.split(task).test)
            return {name: _plain(value) for name, value in found.items()}, None

        of = keys.nearness(self._bench.on(task), model, retrained)
        return _distances(self._bench.obtain("value", of, make, trial, _distances))

    def answers(self, trial: Trial, model: Artefact) -> str:
        """Return a hash of a model's answers to the test rows and the clean rows in place of which the poison stands.

        Raises:
            Busy: Another process is computing it.
        """
        task = trial.cell.task

        def make() -> tuple[dict[str, Any], None]:
            from harness.training.isolation import isolated_rng
            from harness.trials.sameness import answers

            split, planted = self._bench.split(task), self._planting.points(trial).planted
            source = split.train.subset(planted.forget)
            with isolated_rng(0), calling(f"the task {task.id!r}"):
                return {"answers": answers(task.value, self._bench.model(task, model), split.test, source)}, None

        of = keys.answers(self._bench.on(task), self._planting.of(trial), model)
        return str(self._bench.obtain("value", of, make, trial, lambda found: found.info["answers"]).info["answers"])

    def relearned(self, trial: Trial, arm: str) -> Reading:
        """Return what the poison's measure reads of an arm's model after it was trained on.

        Raises:
            Busy: Another process is reading it.
        """
        task, poison = trial.cell.task, trial.cell.poison

        def again(net: nn.Module) -> Reading:
            from harness.trials.relearning import relearned

            split = self._bench.split(task)
            retain, forget, planted = self._parts(trial)
            probe: Callable[[nn.Module], Reading] = lambda net: check_reading(  # noqa: E731
                poison, poison.value.probe(net, planted, task.value, split)
            )
            with guarded(f"the poison {poison.id!r} or the task {task.id!r}"):
                return relearned(net, task.value, retain, forget, trial.seed, probe)

        model = self._models.of(trial, arm)
        of = keys.relearning(self._bench.on(task), trial, self._planting.of(trial), model)
        return self._reading(trial, model, of, again)[0]

    def heuristics(self, trials: Sequence[Trial]) -> list[dict[str, dict[str, Reading]]]:
        """Return what the usual metrics read of the trials of a cell: for each by heuristic and arm.

        Raises:
            Busy: Another process is computing them.
            ValueError: There are fewer than three trials.
        """
        planted = [self._planting.of(trial) for trial in trials]
        made = [self._models.arms(trial) for trial in trials]
        arms = [{arm: of[arm] for arm in ARMS} for of in made]
        task, poison = trials[0].cell.task, trials[0].cell.poison
        asking = poison if getattr(task.value, "causal", False) and asks(poison) else None

        def make() -> tuple[dict[str, Any], None]:
            from harness.training.isolation import isolated_rng

            with isolated_rng(0):
                found = self._heuristics(task, trials, arms, asking)
            return {
                "readings": [{n: {a: as_plain(r) for a, r in by.items()} for n, by in of.items()} for of in found]
            }, None

        of = keys.heuristics(self._bench.on(task), planted, arms, asking)
        check: Callable[[Artefact], object] = lambda found: heuristics_from_plain(found.info)  # noqa: E731
        return heuristics_from_plain(self._bench.obtain("value", of, make, trials[0], check).info)

    def _heuristics(
        self,
        task: Registered,
        trials: Sequence[Trial],
        arms: Sequence[Mapping[str, Artefact]],
        asking: Registered | None,
    ) -> list[dict[str, dict[str, Reading]]]:
        from harness.trials import metrics, questions

        split, n = self._bench.split(task), len(trials)
        parts = [self._parts(trial) for trial in trials]
        asked = [() if asking is None else self._questions(asking, task, planted) for *_, planted in parts]
        own: list[dict[str, Answers]] = []
        retrained: list[list[Tensor]] = [[] for _ in arms]
        ratios: list[Tensor] = [split.train.labels.new_empty(0) for _ in arms]
        for t, ((retain, forget, _), of) in enumerate(zip(parts, arms, strict=True)):
            answers = {}
            for arm, artefact in of.items():
                model = self._bench.model(task, artefact)
                answers[arm] = metrics.answers(model, task.value, forget, split.test, retain, asked[t])
                if not artefact.info["finite"]:
                    answers[arm] = answers[arm].diverged()
            own.append(answers)
            model = self._bench.model(task, of["R"])
            for (_, each, _), losses in zip(parts, retrained, strict=True):
                losses.append(metrics.asked(model, task.value, each)[0])
            before = (t - 1) % n  # the seed whose next one this is
            ratios[before] = questions.truth_ratios(model, task.value, asked[before])
        return metrics.readings(own, retrained, ratios)

    def _questions(self, poison: Registered, task: Registered, planted: Any) -> Sequence[Question]:
        """Return what a poison asks of a planted set."""
        split = self._bench.split(task)
        with unchanged(split, poison), guarded(f"the poison {poison.id!r}"):
            room = split.train.inputs["tokens"].shape[1] + 1
            return check_questions(poison, poison.value.questions(planted, task.value, split), room)

    def _parts(self, trial: Trial) -> tuple[Data, Data, Any]:
        """Return a trial's retained and its poisoned points, on the device, and what was planted."""
        from harness.training.data import Data

        points = self._planting.points(trial)
        planted, train = points.planted, self._bench.split(trial.cell.task).train
        retain = train.retained_with(planted).subset(points.keep.nonzero().squeeze(1))
        return retain, Data(planted.inputs, planted.labels).to(train.device), planted

    def _reading(
        self,
        trial: Trial,
        model: Artefact,
        of: Mapping[str, Any],
        probe: Callable[[nn.Module], Reading],
        lock: Lock | None = None,
    ) -> Stored:
        def make() -> tuple[dict[str, Any], None]:
            from harness.training.isolation import isolated_rng

            # Classifiers made of NaN still answer; only their weights tell that they diverged.
            reading = Reading(math.nan)
            if model.info["finite"]:
                with isolated_rng(0):
                    reading = probe(self._bench.model(trial.cell.task, model))
            return as_plain(reading), None

        # Equal weights have equal readings, whichever method made them: the blob stands for the model.
        artefact = self._bench.obtain("value", of, make, trial, lambda found: from_plain(found.info), lock)
        return from_plain(artefact.info), artefact


def trace_in(reading: Reading, trace: str) -> Reading:
    """Return a trace's reading of a model, with the details of the model; the reading itself if the name is ``""``.

    A model that diverged has none: what is returned is not-a-number.
    """
    if not trace:
        return reading
    found = reading.traces.get(trace, Reading(math.nan))
    return replace(found, details={**reading.details, **found.details})


def _distances(artefact: Artefact) -> dict[str, float]:
    found = {name: artefact.info[name] for name in ("weights", "logits")}
    if not all(isinstance(each, int | float | None) for each in found.values()):
        raise TypeError("distances must be numbers")
    return {name: math.nan if each is None else float(each) for name, each in found.items()}


def as_plain(reading: Reading) -> dict[str, Any]:
    """Return a reading as plain values."""
    plain: dict[str, Any] = {
        "value": _plain(reading.value),
        "resolution": float(reading.resolution),
        "details": {name: _plain(value) for name, value in reading.details.items()},
        "unusable": reading.unusable,
    }
    traces = {name: as_plain(trace) for name, trace in reading.traces.items()}
    return plain | {"traces": traces} if traces else plain


def from_plain(info: Mapping[str, Any]) -> Reading:
    """Return the reading of plain values.

    Raises:
        KeyError, TypeError, ValueError: They are not those of a reading.
    """
    value = math.nan if info["value"] is None else info["value"]
    details: dict[str, Any] = dict(info["details"])
    if not all(isinstance(number, int | float | None) for number in (value, *details.values())):
        raise TypeError("readings must be numbers")
    traces = {str(name): from_plain(trace) for name, trace in dict(info.get("traces", {})).items()}
    return Reading(value, float(info["resolution"]), details, str(info["unusable"]), traces)


def heuristics_from_plain(info: Mapping[str, Any]) -> list[dict[str, dict[str, Reading]]]:
    """Return, for each trial by heuristic and arm, the readings of plain values.

    Raises:
        KeyError, TypeError, ValueError: They are not those of readings.
    """
    return [
        {name: {arm: from_plain(reading) for arm, reading in dict(by).items()} for name, by in dict(of).items()}
        for of in info["readings"]
    ]


def _plain(value: float) -> float | None:
    """Numbers cross process and file borders as plain floats; what is not finite crosses as null."""
    value = float(value)
    return value if math.isfinite(value) else None
