"""A run's cells over one store: which trials they still need, and what they conclude."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from statistics import fmean
from typing import Any

from harness.api import REMAINING, Cell, DeviceLost, Reading, Trial, declares
from harness.judging.claims import CLAIMS, INFORMING, Criterion, Limits, Walk
from harness.judging.judge import DOSES, Judgement, doses, judge
from harness.judging.plan import LOOKS, Plan
from harness.judging.record import budget_verdict, verdict_of
from harness.judging.verdict import Evidence, Verdict
from harness.store.artefacts import Busy, patiently
from harness.studies.controls import GATES, controls_beside, trials_of
from harness.studies.executors import Executor
from harness.trials.lab import TrialResult

#: A set statistic of the retrained model beyond this, where its law is N(0, 1), says that the scorer is wrong.
NULL_LIMIT = 5.0


class Status(Enum):
    """What is known of a trial."""

    DONE = "done"
    NEEDED = "needed"
    AHEAD = "ahead"  # whether it is needed depends on trials that are still being computed
    NOT_NEEDED = "not needed"


@dataclass
class _Progress:
    """How far a cell has come: seeds that are certainly needed, and its judgements so far."""

    horizon: int = LOOKS[0]
    judgements: dict[str, Judgement] = field(default_factory=dict)
    closed: bool = False
    error: Exception | None = None


class Study:
    """Cells that are audited together, over one lab.

    Args:
        cells: What is audited.
        lab: Runs trials: a lab, or a cluster of them.
        plan: When evidence is looked at.
        tolerance: Fraction of a poison's effect that still passes, in [0, 1).
    """

    def __init__(self, cells: Sequence[Cell], lab: Executor, plan: Plan, tolerance: float) -> None:
        self.cells = tuple(cells)
        self.lab = lab
        lab.will_need(self.cells)
        self.plan = plan
        self.tolerance = tolerance
        self._results: dict[Trial, TrialResult] = {}
        self._errors: dict[Trial, Exception] = {}
        self._relearned: dict[Trial, dict[str, Reading]] = {}
        self._heuristics: dict[tuple[Cell, int], list[dict[str, dict[str, Reading]]]] = {}
        self._said_beside: dict[Cell, dict[str, dict[str, Any]]] = {}
        self._progress = {cell: _Progress() for cell in self.cells}
        # What stands beside a cell, by name, and for what cells the trials of one stand: looked up for every trial.
        self._beside: dict[Cell, dict[str, Cell]] = {}
        self._served: dict[Cell, list[Cell]] = {}
        for cell in self.cells:
            for each in dict.fromkeys((cell, *controls_beside(cell).values())):
                self._beside[each] = controls_beside(each)
                self._served.setdefault(each, []).append(cell)

    @cached_property
    def trials(self) -> list[Trial]:
        """Every trial that the cells can need, in the order in which they are worked on."""
        return trials_of(self.cells, self.plan)

    def status(self, trial: Trial) -> Status:
        """Say whether a trial is done, or needed, as far as the store tells."""
        if trial in self._results or trial in self._errors:
            return Status.DONE
        open_cells = False
        for cell in self._served.get(trial.cell, ()):
            progress = self._update(cell)
            if trial.seed in self.plan.numbers(progress.horizon) and progress.error is None:
                return Status.NEEDED
            open_cells = open_cells or not progress.closed
        return Status.AHEAD if open_cells else Status.NOT_NEEDED

    def work(self, trial: Trial) -> Status:
        """Work until the trial is done or known not to be needed.

        What is being made by another process is not waited for while anything else is left: first other trials
        that are needed, then trials that may be.
        """
        pause = 0.01
        while True:
            status = self.status(trial)
            if status in (Status.DONE, Status.NOT_NEEDED):
                return status
            if self._advance(trial):
                pause = 0.01
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.2)

    def result(self, trial: Trial) -> TrialResult | None:
        """Return what a finished trial shows; None if its unlearner raised."""
        return self._results.get(trial)

    def error(self, trial: Trial) -> Exception | None:
        """Return what the trial's unlearner raised in this process, if it did."""
        return self._errors.get(trial)

    def verdict(self, cell: Cell, measure: str) -> Verdict:
        """Return the verdict of one audit, computing what is missing.

        Args:
            cell: One of the study's cells.
            measure: ``"poison"``, ``"accuracy"``, ``"cost"``, ``"relearning"``, or one of `INFORMING`. These are
                judged on the seeds that the others used, and relearning on a walk through the plan of its own.

        Raises:
            Exception: What the cell's unlearner raised.
        """
        self._close(cell)
        progress = self._progress[cell]
        if measure == "cost":
            costs = [self._results[Trial(cell, seed)].cost for seed in self.plan.numbers(self._seeds_used(cell))]
            return budget_verdict(cell, costs, self.lab.budget, self.plan)
        if measure == "relearning":
            return self._relearning_verdict(cell)
        if measure in INFORMING:
            claim, read = (
                CLAIMS[measure].criterion(cell, Limits(self.tolerance, self.lab.budget)),
                self._seeds_used(cell),
            )
            judgement = judge(claim, self._evidence(cell, measure, read), self.plan.to_the_end)  # its seeds are there
        else:
            claim, judgement = claims_of(cell, self.tolerance)[measure], progress.judgements[measure]
            read = judgement.seeds
        return self._told(cell, measure, read, claim, judgement)

    def evidence(self, cell: Cell, n: int) -> dict[str, Evidence]:
        """Return the evidence of the first ``n`` seeds by measure, whether or not a verdict needs them all.

        Raises:
            Exception: What an unlearner raised.
        """
        for trial in (Trial(each, seed) for seed in self.plan.numbers(n) for each in (cell, *self._gates(cell))):
            self._finish(trial)
        return {measure: self._evidence(cell, measure, n) for measure in claims_of(cell, self.tolerance)}

    def references(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """Return the controls beside a cell, on the seeds its verdicts used, as plain values.

        Told of every poisoned point, but for ``short``, which is told of what the cell's method is. By control:
        ``poison`` and ``accuracy`` outcomes with their ``seeds``, the mean ``accuracy_difference`` from
        retraining in shares of 1, its ``cost``, and ``gain``: the cell's accuracy above it. Under ``"dose"`` what is
        said of mixtures of P and R, by their share of P.
        """
        if cell not in self._said_beside:
            self._said_beside[cell] = self._stand_beside(cell)
        return self._said_beside[cell]

    def _stand_beside(self, cell: Cell) -> dict[str, dict[str, Any]]:
        self._close(cell)
        n = self._seeds_used(cell)
        claim = claims_of(cell, self.tolerance)["poison"]
        said = doses(claim, self._evidence(cell, "poison", n), self.plan)
        found: dict[str, dict[str, Any]] = {
            "dose": {f"{share:g}": outcome.value for share, outcome in zip(DOSES, said, strict=True)}
        }
        for name, reference in self._beside[cell].items():
            trials = [Trial(reference, seed) for seed in self.plan.numbers(n)]
            for trial in trials:
                self.work(trial)
            results = [self._results[trial] for trial in trials if trial in self._results]
            if len(results) < n:
                continue
            entry: dict[str, Any] = {"cost": fmean(r.cost["unlearn_fraction"] for r in results)}
            for measure, of_control in claims_of(reference, self.tolerance).items():
                judgement = judge(of_control, self._evidence(reference, measure, n), self._plan_of(reference))
                entry[measure] = judgement.outcome.value
                entry["seeds"] = max(entry.get("seeds", 0), judgement.seeds)
            own = [r.readings["accuracy"]["U"].value for r in results]
            retrained = [r.readings["accuracy"]["R"].value for r in results]
            method = [self._results[Trial(cell, seed)].readings["accuracy"]["U"].value for seed in self.plan.numbers(n)]
            entry["accuracy_difference"] = fmean(own) - fmean(retrained)
            entry["gain"] = fmean(method) - fmean(own)
            found[name] = entry
        return found

    def _advance(self, first: Trial) -> bool:
        """Run one trial that nobody else is busy with, the most urgent first; say whether there was one."""
        for wanted in (Status.NEEDED, Status.AHEAD):
            for trial in (first, *self.trials):
                if self.status(trial) is wanted and self._run(trial):
                    return True
        return False

    def _run(self, trial: Trial) -> bool:
        try:
            self._results[trial] = self.lab.run(trial)
        except Busy:
            return False
        except DeviceLost:  # no fault of the method
            raise
        except Exception as error:  # of a plugin, as a rule: its audits raise it again, everything else goes on
            self._errors[trial] = error
        return True

    def _close(self, cell: Cell) -> None:
        """Compute until every claim of a cell is judged for good."""
        while not self._update(cell).closed:
            for seed in self.plan.numbers(self._progress[cell].horizon):
                for each in (cell, *self._gates(cell)):
                    self.work(Trial(each, seed))
        error = self._progress[cell].error
        if error is not None:
            raise error

    def _update(self, cell: Cell) -> _Progress:
        """Judge a cell as far as finished trials allow, and move its horizon from look to look."""
        progress = self._progress[cell]
        gates = self._gates(cell)
        while not progress.closed:
            for seed in self.plan.numbers(progress.horizon):
                for trial in (Trial(each, seed) for each in (cell, *gates)):
                    if trial in self._errors:
                        progress.closed, progress.error = True, self._errors[trial]
                        return progress
                    if trial not in self._results:
                        return progress
            for measure, claim in claims_of(cell, self.tolerance).items():
                known = progress.judgements.get(measure)
                if known is None or not known.final:
                    evidence = self._evidence(cell, measure, progress.horizon)
                    progress.judgements[measure] = judge(claim, evidence, self._plan_of(cell))
            if all(judgement.final for judgement in progress.judgements.values()):
                progress.closed = True
            else:
                progress.horizon = next(n for n in self.plan.looks if n > progress.horizon)
        return progress

    def _plan_of(self, cell: Cell) -> Plan:
        """Return the plan by which a cell is judged: controls are not given up."""
        return self.plan.to_the_end if declares(cell.unlearner.value, "control") else self.plan

    def _gates(self, cell: Cell) -> list[Cell]:
        return [self._beside[cell][name] for name in GATES]

    def _evidence(self, cell: Cell, measure: str, n: int) -> Evidence:
        own = self._readings(cell, measure, n)
        oracle, wrecked = (
            tuple(by_arm["U"].value for by_arm in self._readings(gate, measure, n)) for gate in self._gates(cell)
        )
        poisoned, retrained, unlearned = (tuple(by_arm[arm].value for by_arm in own) for arm in ("P", "R", "U"))
        resolution = max(reading.resolution for by_arm in own for reading in by_arm.values())
        unusable = tuple(
            next((by_arm[arm].unusable for arm in "PRU" if by_arm[arm].unusable), _null_fails(cell, by_arm["R"]))
            for by_arm in own
        )
        remaining = tuple(by_arm[REMAINING].value for by_arm in own if REMAINING in by_arm)
        return Evidence(poisoned, retrained, unlearned, oracle, wrecked, unusable, resolution, remaining)

    def _readings(self, cell: Cell, measure: str, n: int) -> list[Mapping[str, Reading]]:
        """Return what a measure reads on a cell's first seeds, by arm; its trials are done."""
        trials = [Trial(cell, seed) for seed in self.plan.numbers(n)]
        if measure == "relearning":
            while missing := [trial for trial in trials if trial not in self._relearned]:
                for trial in missing:  # all are asked for before one is waited for: a cluster makes them side by side
                    with contextlib.suppress(Busy):
                        self._relearned[trial] = self.lab.relearned(trial)
                if any(trial not in self._relearned for trial in missing):
                    time.sleep(0.1)
            return [self._relearned[trial] for trial in trials]
        if measure in INFORMING:
            if (cell, n) not in self._heuristics:
                self._heuristics[cell, n] = patiently(functools.partial(self.lab.heuristics, trials))
            return [of[measure] for of in self._heuristics[cell, n]]
        return [self._results[trial].readings[measure] for trial in trials]

    def _seeds_used(self, cell: Cell) -> int:
        return max(judgement.looked for judgement in self._progress[cell].judgements.values())

    def _relearning_verdict(self, cell: Cell) -> Verdict:
        poison = cell.poison.value.measure
        measure = replace(poison, name=f"{poison.name}_relearned", title=f"{poison.title}, relearned", exact_null=False)
        claim = Criterion(measure, self.tolerance)
        for n in self.plan.looks:
            for trial in (Trial(each, seed) for seed in self.plan.numbers(n) for each in (cell, *self._gates(cell))):
                self._finish(trial)
            judgement = judge(claim, self._evidence(cell, "relearning", n), self._plan_of(cell))
            if judgement.final:
                break
        return self._told(cell, "relearning", n, claim, judgement)

    def _told(self, cell: Cell, measure: str, read: int, claim: Criterion, judgement: Judgement) -> Verdict:
        """Return the verdict of a judgement of so many seeds as were read: heuristics are read on all at once."""
        n = judgement.seeds
        evidence, readings = self._evidence(cell, measure, read).first(n), self._readings(cell, measure, read)[:n]
        partly = evidence.remaining and claim.measure.test == "retention"
        told = self._evidence(cell, "poison", self._seeds_used(cell)) if partly else None
        return verdict_of(cell, claim, judgement, evidence, readings, self.plan, told)

    def _finish(self, trial: Trial) -> None:
        """Run a trial whether or not a verdict needs it.

        Raises:
            Exception: What its unlearner raised.
        """
        while trial not in self._results and trial not in self._errors:
            if not self._run(trial):
                time.sleep(0.1)
        if trial in self._errors:
            raise self._errors[trial]


def _null_fails(cell: Cell, retrained: Reading) -> str:
    """Return the reason against judging where a law that is exact does not hold for the retrained model."""
    t = retrained.details.get("T")
    exact = cell.poison.value.measure.exact_null
    return "null-not-exact" if exact and t is not None and abs(t) > NULL_LIMIT else ""


def claims_of(cell: Cell, tolerance: float) -> dict[str, Criterion]:
    """Return what is tested of a cell along the plan, by claim: its poison, and accuracy unless that is the poison."""
    limits = Limits(tolerance, 0.0)
    claims = {name: claim for name, claim in CLAIMS.items() if claim.walk is Walk.CELL and claim.applies(cell)}
    return {name: claim.criterion(cell, limits) for name, claim in claims.items()}
