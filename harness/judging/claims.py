"""What is claimed of a cell, and by which measure."""

from __future__ import annotations

from dataclasses import dataclass

from harness.api import Measure

#: Claims whose verdicts turn a run red.
CLAIMS = ("poison", "accuracy", "cost", "relearning")


#: Utility: test accuracy, judged by non-inferiority to retraining within the task's margin.
ACCURACY = Measure("accuracy", "test accuracy", worse="lower", test="non-inferiority", unit="%")


#: Compute that an unlearner used, as a fraction of retraining; a bound, without a test.
COST = Measure("cost", "compute, of retraining", worse="higher", test="budget", unit="%")


#: What the usual metrics measure, by the name that an audit of them claims; `harness.heuristics` computes them.
HEURISTICS = {
    "membership": Measure("membership_auc", "membership inference by loss (AUC)", worse="higher", test="retention"),
    "likelihood": Measure(
        "likelihood_auc", "membership inference by likelihood ratio (AUC)", worse="higher", test="retention"
    ),
    "forget-accuracy": Measure(
        "forget_accuracy", "accuracy on the poisoned points as labelled", worse="higher", test="retention", unit="%"
    ),
    "agreement": Measure(
        "agreement", "agreement with a retrained model", worse="lower", test="non-inferiority", unit="%"
    ),
    "retain-accuracy": Measure(
        "retain_accuracy", "accuracy on the kept points", worse="lower", test="non-inferiority", unit="%"
    ),
}


@dataclass(frozen=True)
class Claim:
    """What an audit asserts: a measure within a margin of retraining.

    Attributes:
        measure: The measure.
        margin: Retention: largest fraction of the poison's effect that may be left, in [0, 1). Non-inferiority:
            largest loss against retraining, in the measure's unit.
        judged: Number of claims in the cell that are tested, over which the error rate of FAIL is split.
    """

    measure: Measure
    margin: float
    judged: int = 1
