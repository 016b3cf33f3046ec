"""What compute is measured by, beside the examples that the budget is judged on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Yardstick:
    """One measure of compute, as a fraction of retraining's; `harness.trials.lab` measures it.

    Attributes:
        title: What people read.
        flagged: Whether the tables flag a method that uses more than twice its budget by it.
    """

    title: str
    flagged: bool = True


#: By name, as in the ``fractions`` of a trial's cost, in the order in which they are shown.
YARDSTICKS = {
    "steps": Yardstick("optimiser steps", flagged=False),
    "flops": Yardstick("operations"),
    "seconds": Yardstick("seconds"),
}
