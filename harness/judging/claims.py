"""What an audit claims of a cell: one record per claim, in one table.

A claim is a column of the tables, an argument of ``@pytest.mark.audit`` and an entry of an expectations file. To add
one, add its record here, the test that requires it in ``test_suites``, and, if it reads something new, that reading in
`harness.trials`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from harness.api import Measure
from harness.cells import Cell, asks, traces_of


@dataclass(frozen=True)
class Limits:
    """What a run tolerates, beside the margins that tasks declare.

    Attributes:
        tolerance: Fraction of a poison's effect that still passes, in [0, 1).
        budget: Compute that a method may use, as a fraction of retraining, > 0.
    """

    tolerance: float
    budget: float


@dataclass(frozen=True)
class Criterion:
    """What is tested: a measure within a margin of retraining.

    Attributes:
        measure: The measure.
        margin: Retention: largest fraction of the poison's effect that may be left, in [0, 1). Non-inferiority:
            largest loss against retraining, in the measure's unit. Budget: largest fraction of retraining. Not-a-number
            for an exact null, which has none.
        judged: Number of criteria of the cell that are tested, over which the error rate of FAIL is split.
        trace: Where a reading has its value: in the trace of that name, or itself if that is ``""``.
    """

    measure: Measure
    margin: float
    judged: int = 1
    trace: str = ""

    @property
    def exact(self) -> bool:
        """Whether it is an exact null: it has no margin, and a PASS of it has no p-value."""
        return self.measure.test == "exact-null"


class Source(Enum):
    """Where the numbers of a claim come from."""

    TRIAL = "every trial reads them"
    COST = "the cost of every trial"
    RELEARNED = "models that are trained on"
    METRICS = "the usual metrics, read of several trials together"


class Walk(Enum):
    """How a claim moves through the seed plan."""

    CELL = "its looks decide how many seeds the cell takes"
    ALONE = "it takes the seeds that it needs itself"
    AFTER = "it is judged on the seeds that the cell took"


@dataclass(frozen=True)
class Claim:
    """What an audit claims of a cell.

    Attributes:
        name: As in ``@pytest.mark.audit(name)``, in results and in expectations.
        title: Title of its column in every table.
        measures: The measures of a cell that are judged, by `Criterion.trace`, the main one first; all must pass.
        margin: The margin of a cell, under the limits of the run.
        source: Where its numbers come from.
        walk: How it moves through the seed plan.
        gates: Whether a verdict other than the required one turns the run red. The others inform.
        mark: The pytest mark that selects it; ``""`` if it always runs.
        applies: Whether it is judged on a cell at all.
        passes, fails: What a PASS and a FAIL mean, as a phrase after the name of a method. ``{}`` stands for poisons.
    """

    name: str
    title: str
    measures: Callable[[Cell], Mapping[str, Measure]]
    margin: Callable[[Cell, Limits], float]
    source: Source
    walk: Walk
    gates: bool = True
    mark: str = ""
    applies: Callable[[Cell], bool] = lambda cell: True
    passes: str = ""
    fails: str = ""

    def criteria(self, cell: Cell, limits: Limits) -> tuple[Criterion, ...]:
        """Return what is tested of a cell: a criterion for each of its measures, of which all must pass."""
        together = walking(cell) if self.walk is Walk.CELL else [self]
        judged = sum(len(claim.measures(cell)) for claim in together)
        margin = self.margin(cell, limits)
        return tuple(
            Criterion(measure, math.nan if measure.test == "exact-null" else margin, judged, trace)
            for trace, measure in self.measures(cell).items()
        )


#: Utility: test accuracy, judged by non-inferiority to retraining within the task's margin.
ACCURACY = Measure("accuracy", "test accuracy", worse="lower", test="non-inferiority", unit="%")
#: Compute that an unlearner used, as a fraction of retraining; a bound, without a test.
COST = Measure("cost", "compute, of retraining", worse="higher", test="budget", unit="%")
#: Agreement with a retrained model may be a point lower than that of another retrained model.
AGREEMENT_MARGIN = 0.01
#: The perplexity of kept texts may be 5 % above that of a retrained model; in nats per token.
PERPLEXITY_MARGIN = math.log(1.05)


def _tolerance(cell: Cell, limits: Limits) -> float:
    return limits.tolerance


def _utility_margin(cell: Cell, limits: Limits) -> float:
    margin: float = cell.task.value.utility_margin
    return margin


def _alone(measure: Measure) -> Callable[[Cell], dict[str, Measure]]:
    return lambda cell: {"": measure}


def _poison_measures(cell: Cell) -> dict[str, Measure]:
    main, *further = traces_of(cell.poison)
    return {"": main} | {each.name: each for each in further}


def _relearned_measures(cell: Cell) -> dict[str, Measure]:
    """Return the traces that are judged by retention: a model that was trained on the poison is not independent."""
    return {
        trace: replace(of, name=f"{of.name}_relearned", title=f"{of.title}, relearned", exact_null=False)
        for trace, of in _poison_measures(cell).items()
        if of.test == "retention"
    }


def _can_relearn(cell: Cell) -> bool:
    return bool(_relearned_measures(cell))


def _judges_accuracy(cell: Cell) -> bool:
    """Accuracy is no claim of its own if it is what the poison is measured by."""
    return all(measure.name != ACCURACY.name for measure in traces_of(cell.poison))


def _continues_texts(cell: Cell) -> bool:
    """What a model remembers of texts word by word is read of causal language models."""
    return bool(getattr(cell.task.value, "causal", False))


def _answers_questions(cell: Cell) -> bool:
    """Answers can be read if the poison knows what to ask such a model."""
    return _continues_texts(cell) and asks(cell.poison)


def _metric(
    name: str,
    measure: Measure,
    margin: Callable[[Cell, Limits], float] = _tolerance,
    applies: Callable[[Cell], bool] = lambda cell: True,
) -> Claim:
    """Return the claim of a usual metric, which informs and does not gate."""
    read = (Source.METRICS, Walk.AFTER)
    return Claim(name, name, _alone(measure), margin, *read, gates=False, mark="heuristic", applies=applies)


#: At most the tolerated fraction of the poison's effect is left.
POISON = Claim(
    "poison", "poison left", _poison_measures, _tolerance, Source.TRIAL, Walk.CELL,
    passes="removes {}", fails="leaves {} in the model",
)  # fmt: skip
#: Accuracy is kept within the task's margin.
UTILITY = Claim(
    "accuracy", "accuracy", _alone(ACCURACY), _utility_margin, Source.TRIAL, Walk.CELL,
    applies=_judges_accuracy, fails="costs more accuracy than is allowed ({})",
)  # fmt: skip

_TABLE = (
    POISON,
    UTILITY,
    Claim(
        "cost", "cost", _alone(COST), lambda cell, limits: limits.budget, Source.COST, Walk.AFTER,
        fails="uses more compute than its budget ({})",
    ),
    Claim(
        "relearning", "left, relearned", _relearned_measures, _tolerance, Source.RELEARNED, Walk.ALONE,
        mark="relearning", applies=_can_relearn, passes="keeps {} away", fails="only hides {}, which comes back",
    ),
    _metric(
        "membership",
        Measure("membership_auc", "membership inference by loss (AUC)", worse="higher", test="retention"),
    ),
    _metric(
        "likelihood",
        Measure("likelihood_auc", "membership inference by likelihood ratio (AUC)", worse="higher", test="retention"),
    ),
    _metric(
        "forget-accuracy",
        Measure(
            "forget_accuracy", "accuracy on the poisoned points as labelled", worse="higher", test="retention", unit="%"
        ),
    ),
    _metric(
        "agreement",
        Measure("agreement", "agreement with a retrained model", worse="lower", test="non-inferiority", unit="%"),
        lambda cell, limits: AGREEMENT_MARGIN,
    ),
    _metric(
        "retain-accuracy",
        Measure("retain_accuracy", "accuracy on the kept points", worse="lower", test="non-inferiority", unit="%"),
        _utility_margin,
    ),
    _metric(
        "memorisation",
        Measure("memorisation_accuracy", "tokens of the poisoned texts that are predicted", worse="higher",
                test="retention", unit="%"),
        applies=_continues_texts,
    ),
    _metric(
        "extraction",
        Measure("extraction_likelihood", "word sequences of the poisoned texts that are given away", worse="higher",
                test="retention", unit="%"),
        applies=_continues_texts,
    ),
    _metric(
        "verbatim",
        Measure("verbatim", "tokens of the poisoned texts that are written when the beginning is shown", worse="higher",
                test="retention", unit="%"),
        applies=_continues_texts,
    ),
    _metric(
        "truth-ratio",
        Measure("truth_ratio", "likeness of the planted answer and others (truth ratio)", worse="lower",
                test="retention"),
        applies=_answers_questions,
    ),
    _metric(
        "forget-quality",
        Measure("forget_quality", "p-value of a test against a retrained model (forget quality)", worse="lower",
                test="retention"),
        applies=_continues_texts,
    ),
    _metric(
        "leakage",
        Measure("leakage", "probability that one of eight sampled answers is the planted one", worse="higher",
                test="retention", unit="%"),
        applies=_answers_questions,
    ),
    _metric(
        "perplexity",
        Measure("log_perplexity", "log-perplexity of the kept texts, nats per token", worse="higher",
                test="non-inferiority"),
        lambda cell, limits: PERPLEXITY_MARGIN,
        applies=_continues_texts,
    ),
)  # fmt: skip

#: Every claim by name, in the order of columns.
CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _TABLE}
#: Names of the claims that gate, and of those that inform.
GATING = tuple(name for name, claim in CLAIMS.items() if claim.gates)
INFORMING = tuple(name for name, claim in CLAIMS.items() if not claim.gates)


def walking(cell: Cell) -> list[Claim]:
    """Return the claims of a cell whose looks decide how many seeds it takes."""
    return [claim for claim in CLAIMS.values() if claim.walk is Walk.CELL and claim.applies(cell)]
