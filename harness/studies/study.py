"""A run's cells over one store: which trials they still need, and what they conclude."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.api import ContractError, DeviceLost, Reading, declares
from harness.cells import REMAINING, Cell, Trial
from harness.judging.claims import CLAIMS, POISON, UTILITY, Claim, Criterion, Limits, Source, Walk, walking
from harness.judging.intersection import Intersection, judge_all
from harness.judging.judge import DOSES, doses
from harness.judging.plan import LOOKS, Plan
from harness.judging.reasons import Reason
from harness.judging.record import budget_verdict, verdict_of
from harness.judging.verdict import Evidence, Verdict
from harness.store.artefacts import Busy, ask_all, patiently
from harness.studies.controls import GATES, ORACLE, controls_beside, trials_of
from harness.studies.executors import Executor
from harness.studies.refusals import refusal
from harness.trials.readings import trace_in

if TYPE_CHECKING:
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
    """How far a cell has come.

    Attributes:
        horizon: Seeds that are certainly needed.
        judgements: By claim, of those that walk the plan with the cell.
        closed: Whether all of them are final, or an unlearner raised.
        error: What it raised.
    """

    horizon: int = LOOKS[0]
    judgements: dict[str, Intersection] = field(default_factory=dict)
    closed: bool = False
    error: Exception | None = None


class Study:
    """Cells that are audited together, over one lab.

    Args:
        cells: What is audited.
        lab: Runs trials: a lab, or a cluster of them.
        plan: When evidence is looked at.
        tolerance: Fraction of a poison's effect that still passes, in [0, 1).

    Attributes:
        limits: What is tolerated: ``tolerance``, and the budget of the lab.
    """

    def __init__(self, cells: Sequence[Cell], lab: Executor, plan: Plan, tolerance: float) -> None:
        self.cells = tuple(cells)
        self.lab = lab
        lab.will_need(self.cells, lambda: (each for each in self.trials if self.status(each) is Status.NEEDED))
        self.plan = plan
        self.limits = Limits(tolerance, lab.budget)
        self._results: dict[Trial, TrialResult] = {}
        self._errors: dict[Trial, Exception] = {}
        self._relearned: dict[Trial, dict[str, Reading]] = {}
        self._metrics: dict[tuple[Cell, int], list[dict[str, dict[str, Reading]]]] = {}
        self._references: dict[Cell, dict[str, dict[str, Any]]] = {}
        self._progress = {cell: _Progress() for cell in self.cells}
        self._isolated = [cell for cell in self.cells if cell.unlearner.isolated]
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
        """Return whether a trial is done, and if not, whether the trials that are done have made it needed."""
        if self._is_done(trial):
            return Status.DONE
        progress = [self._progress[cell] for cell in self._served.get(trial.cell, ())]
        if any(trial.seed in self.plan.numbers(each.horizon) and each.error is None for each in progress):
            return Status.NEEDED
        return Status.NOT_NEEDED if all(each.closed for each in progress) else Status.AHEAD

    def done_of_needed(self) -> tuple[int, int]:
        """Return how many trials are done, of those that the verdicts certainly need, and how many these are."""
        needed = {trial for cell, at in self._progress.items() for trial in self._trials_behind(cell, at.horizon)}
        return sum(map(self._is_done, needed)), len(needed)

    def work(self, trial: Trial) -> Status:
        """Work until the trial is done or known not to be needed.

        What is being made by another process is not waited for while anything else is left: first other trials
        that are needed, then trials that may be.
        """
        while (status := self.status(trial)) in (Status.NEEDED, Status.AHEAD):
            patiently(functools.partial(self._advance, trial))
        return status

    def result(self, trial: Trial) -> TrialResult | None:
        """Return what a finished trial shows; None if its unlearner raised."""
        return self._results.get(trial)

    def error(self, trial: Trial) -> Exception | None:
        """Return what the trial's unlearner raised in this process, if it did."""
        return self._errors.get(trial)

    def verdict(self, cell: Cell, claim: str) -> Verdict:
        """Return the verdict on one claim, computing what is missing.

        Args:
            cell: One of the study's cells.
            claim: Name of one of `CLAIMS`, which applies to the cell.

        Raises:
            Exception: What the cell's unlearner raised.
        """
        self._close(cell)
        of = CLAIMS[claim]
        if of.source is Source.COST:
            (criterion,) = of.criteria(cell, self.limits)
            costs, oracle = (
                [self._results[Trial(each, seed)].cost for seed in self.plan.numbers(self._seeds_used(cell))]
                for each in (cell, self._beside[cell][ORACLE])
            )
            return budget_verdict(cell, criterion, costs, oracle, self.plan)
        found, read, plan = self._judged(cell, of)
        criterion, n = found.criteria[found.decides], found.seeds
        evidence = self._evidence(cell, of, criterion, read).first(n)
        readings, main = (self._readings(cell, of, each, read)[:n] for each in (criterion, found.criteria[0]))
        partly = evidence.remaining and criterion.measure.test == "retention"
        told = self._evidence(cell, of, criterion, self._seeds_used(cell)) if partly else None
        return verdict_of(cell, found, evidence, readings, main, plan, told)

    def evidence(self, cell: Cell, n: int) -> dict[str, dict[Criterion, Evidence]]:
        """Return the evidence of the first ``n`` seeds by claim and criterion, whether or not a verdict needs it all.

        Raises:
            Exception: What an unlearner raised.
        """
        self._finish(cell, n)
        return {
            claim.name: {
                criterion: self._evidence(cell, claim, criterion, n) for criterion in claim.criteria(cell, self.limits)
            }
            for claim in walking(cell)
        }

    def references(self, cell: Cell) -> dict[str, dict[str, Any]]:
        """Return the controls beside a cell, on the seeds its verdicts used, as plain values.

        They are given every poisoned point, except ``short``, which is given what the cell's method is given. By
        control: the outcome of each claim with the ``seeds`` they took, the mean ``accuracy_difference`` from
        retraining in shares of 1, its ``cost``, and ``gain``: the cell's accuracy above it. ``"dose"`` holds the
        outcomes of mixtures of P and R, by their share of P.
        """
        if cell not in self._references:
            self._close(cell)
            n = self._seeds_used(cell)
            main = POISON.criteria(cell, self.limits)[0]
            outcomes = doses(main, self._evidence(cell, POISON, main, n), self.plan)
            found = {"dose": {f"{share:g}": outcome.value for share, outcome in zip(DOSES, outcomes, strict=True)}}
            beside = {name: self._reference(control, cell, n) for name, control in self._beside[cell].items()}
            self._references[cell] = found | {name: entry for name, entry in beside.items() if entry}
        return self._references[cell]

    def _reference(self, control: Cell, cell: Cell, n: int) -> dict[str, Any]:
        """Return how a control stands beside a cell; nothing if it raised."""
        trials = [Trial(control, seed) for seed in self.plan.numbers(n)]
        for trial in trials:
            self.work(trial)
        results = [self._results[trial] for trial in trials if trial in self._results]
        if len(results) < n:
            return {}
        entry: dict[str, Any] = {"cost": fmean(r.cost["unlearn_fraction"] for r in results)}
        for claim in walking(control):
            judgement = self._judge(control, claim, n, self._plan_of(control))
            entry[claim.name] = judgement.outcome.value
            entry["seeds"] = max(entry.get("seeds", 0), judgement.seeds)
        own, retrained = (fmean(r.readings[UTILITY.name][arm].value for r in results) for arm in "UR")
        methods = (self._results[Trial(cell, seed)] for seed in self.plan.numbers(n))
        entry["accuracy_difference"] = own - retrained
        entry["gain"] = fmean(r.readings[UTILITY.name]["U"].value for r in methods) - own
        return entry

    def _advance(self, first: Trial) -> None:
        """Run one trial, the most urgent first.

        Raises:
            Busy: Other processes are busy with every trial that is left.
        """
        for wanted in (Status.NEEDED, Status.AHEAD):
            for trial in (first, *self.trials):
                if self.status(trial) is wanted:
                    with contextlib.suppress(Busy):
                        return self._run(trial)
        raise Busy(first.id)

    def _is_done(self, trial: Trial) -> bool:
        return trial in self._results or trial in self._errors

    def _run(self, trial: Trial) -> None:
        """Run a trial that is not done, and judge the cells that it stands for as far as they then can be.

        Raises:
            Busy: Another process is busy with it.
        """
        if self._is_done(trial):
            return
        try:
            if self._isolated:
                self._unlearn_first(trial)
            self._results[trial] = self.lab.run(trial)
        except (Busy, DeviceLost):  # no fault of the method
            raise
        except Exception as error:  # of a plugin, as a rule: its audits raise it again, everything else goes on
            self._errors[trial] = error
        for cell in self._served.get(trial.cell, ()):
            self._update(cell)

    def _unlearn_first(self, trial: Trial) -> None:
        """Have the isolated methods make what they will be asked for on a seed, before any trial of it retrains.

        A retrained model that is not there yet cannot be found, whatever a method gets round.

        Raises:
            Busy: Another process is at work on one of them.
        """
        for cell in self._isolated:
            own = Trial(cell, trial.seed)
            if cell.task == trial.cell.task and self.status(own) in (Status.NEEDED, Status.AHEAD):
                try:
                    self.lab.unlearn(own)
                except (Busy, DeviceLost):
                    raise
                except Exception as error:
                    self._errors[own] = error
                    self._update(cell)

    def _finish(self, cell: Cell, n: int) -> None:
        """Run a cell's and its gates' first trials, whether or not a verdict needs them.

        Raises:
            Exception: What an unlearner raised.
        """

        def ask(trial: Trial) -> None:
            self._run(trial)
            if trial in self._errors:
                raise self._errors[trial]

        asks = [functools.partial(ask, trial) for trial in self._trials_behind(cell, n)]
        patiently(lambda: ask_all(asks))

    def _close(self, cell: Cell) -> None:
        """Compute until every claim of a cell that walks the plan is judged for good.

        Raises:
            Exception: What the cell's unlearner raised.
        """
        progress = self._progress[cell]
        while not progress.closed:
            for trial in self._trials_behind(cell, progress.horizon):
                self.work(trial)
        if progress.error is not None:
            raise progress.error

    def _update(self, cell: Cell) -> None:
        """Judge a cell as far as finished trials allow, and move its horizon from look to look."""
        progress = self._progress[cell]
        while not progress.closed:
            for trial in self._trials_behind(cell, progress.horizon):
                if trial in self._errors:
                    progress.closed, progress.error = True, self._errors[trial]
                    return
                if trial not in self._results:
                    return
            if sentence := self._refused(cell, progress.horizon):
                progress.closed, progress.error = True, ContractError(sentence)
                return
            for claim in walking(cell):
                known = progress.judgements.get(claim.name)
                if known is None or not known.final:
                    found = self._judge(cell, claim, progress.horizon, self._plan_of(cell))
                    progress.judgements[claim.name] = found
            if all(judgement.final for judgement in progress.judgements.values()):
                progress.closed = True
            else:
                progress.horizon = next(n for n in self.plan.looks if n > progress.horizon)

    def _refused(self, cell: Cell, n: int) -> str:
        """Return a sentence if what a cell's method returned cannot be judged at all, else ``""``."""
        oracle, seeds = self._gates(cell)[0], self.plan.numbers(n)
        own, second = ([self._results[Trial(of, seed)] for seed in seeds] for of in (cell, oracle))
        return refusal(cell, seeds, own, None if cell.unlearner == oracle.unlearner else second)

    def _trials_behind(self, cell: Cell, n: int) -> list[Trial]:
        """Return the trials of the first ``n`` seeds that a verdict on a cell rests on."""
        return [Trial(each, seed) for seed in self.plan.numbers(n) for each in (cell, *self._gates(cell))]

    def _judge(self, cell: Cell, claim: Claim, n: int, plan: Plan) -> Intersection:
        """Judge all that a claim tests, on a cell's first seeds; its trials are done."""
        criteria = claim.criteria(cell, self.limits)
        return judge_all(criteria, [self._evidence(cell, claim, of, n) for of in criteria], plan)

    def _judged(self, cell: Cell, claim: Claim) -> tuple[Intersection, int, Plan]:
        """Return the judgement of a claim of a closed cell, the number of seeds that were read for it, and its plan.

        The judgement may rest on fewer.
        """
        if claim.walk is Walk.CELL:
            judgement = self._progress[cell].judgements[claim.name]
            return judgement, judgement.looked, self.plan
        if claim.walk is Walk.AFTER:  # its seeds are there: stopping early would save nothing
            n = self._seeds_used(cell)
            return self._judge(cell, claim, n, self.plan.informing), n, self.plan.informing
        for n in self.plan.looks:
            self._finish(cell, n)
            judgement = self._judge(cell, claim, n, self._plan_of(cell))
            if judgement.final:
                break
        return judgement, n, self.plan

    def _plan_of(self, cell: Cell) -> Plan:
        """Return the plan by which a cell is judged: controls do not stop early."""
        return self.plan.to_the_end if declares(cell.unlearner.value, "control") else self.plan

    def _gates(self, cell: Cell) -> list[Cell]:
        return [self._beside[cell][name] for name in GATES]

    def _evidence(self, cell: Cell, claim: Claim, criterion: Criterion, n: int) -> Evidence:
        own = self._readings(cell, claim, criterion, n)
        oracle, wrecked = (
            tuple(by_arm["U"].value for by_arm in self._readings(gate, claim, criterion, n))
            for gate in self._gates(cell)
        )
        poisoned, retrained, unlearned = (tuple(by_arm[arm].value for by_arm in own) for arm in ("P", "R", "U"))
        resolution = max(reading.resolution for by_arm in own for reading in by_arm.values())
        unusable = tuple(
            next((by_arm[arm].unusable for arm in "PRU" if by_arm[arm].unusable), _null_fails(criterion, by_arm["R"]))
            for by_arm in own
        )
        remaining = tuple(by_arm[REMAINING].value for by_arm in own if REMAINING in by_arm)
        return Evidence(poisoned, retrained, unlearned, oracle, wrecked, unusable, resolution, remaining)

    def _readings(self, cell: Cell, claim: Claim, criterion: Criterion, n: int) -> list[dict[str, Reading]]:
        """Return what a criterion of a claim reads on a cell's first seeds, by arm; its trials are done."""
        found = self._read(cell, claim, n)
        return [{arm: trace_in(reading, criterion.trace) for arm, reading in by_arm.items()} for by_arm in found]

    def _read(self, cell: Cell, claim: Claim, n: int) -> list[Mapping[str, Reading]]:
        trials = [Trial(cell, seed) for seed in self.plan.numbers(n)]
        if claim.source is Source.RELEARNED:
            asks = [functools.partial(self._relearn, trial) for trial in trials]
            return list(patiently(lambda: ask_all(asks)))
        if claim.source is Source.METRICS:
            if (cell, n) not in self._metrics:
                self._metrics[cell, n] = patiently(functools.partial(self.lab.heuristics, trials))
            return [of[claim.name] for of in self._metrics[cell, n]]
        return [self._results[trial].readings[claim.name] for trial in trials]

    def _relearn(self, trial: Trial) -> Mapping[str, Reading]:
        if trial not in self._relearned:
            self._relearned[trial] = self.lab.relearned(trial)
        return self._relearned[trial]

    def _seeds_used(self, cell: Cell) -> int:
        return max(judgement.looked for judgement in self._progress[cell].judgements.values())


def _null_fails(criterion: Criterion, retrained: Reading) -> str:
    """Return the reason against judging if a law that is exact does not hold for the retrained model, or ``""``."""
    measure = criterion.measure
    z = retrained.value if measure.test == "exact-null" else retrained.details.get("T") if measure.exact_null else None
    return Reason.NULL_NOT_EXACT if z is not None and abs(z) > NULL_LIMIT else ""
