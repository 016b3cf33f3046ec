"""The controls that every cell is compared with, and the order of the trials."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from harness import registry
from harness.cells import Cell, Registered, Trial
from harness.judging.plan import Plan

#: Retraining once more, which must pass.
ORACLE = "retrain"
#: The controls that are audited themselves, and the claims on which each must reach a verdict.
AUDITED = {ORACLE: ("poison", "accuracy"), "identity": ("poison",), "wrecked": ("accuracy",)}
#: The controls that every cell is compared with.
REFERENCES = (ORACLE, "short", "identity", "wrecked")
#: Those whose readings gate its verdicts: the oracle, and what must fail by accuracy. Identity is P itself.
GATES = (ORACLE, "wrecked")


@functools.cache
def reference_unlearners() -> tuple[Registered, ...]:
    """Return the controls that every cell is compared with, the oracle first."""
    return tuple(registry.resolve("unlearner", name) for name in REFERENCES)


def controls_beside(cell: Cell) -> dict[str, Cell]:
    """Return the cells of the controls beside a cell, by name."""
    return {control.name: beside(control, cell) for control in reference_unlearners()}


def beside(control: Registered, cell: Cell) -> Cell:
    """Return the cell of a control beside another cell.

    The oracle must be able to pass, so the controls are given every poisoned point; all but ``short``, which shows
    what plain retraining makes of what the method is given.
    """
    return Cell(control, cell.task, cell.poison, cell.discovery if control.name == "short" else 1.0)


def trials_of(cells: Iterable[Cell], plan: Plan) -> list[Trial]:
    """Return every trial that the cells can need: look by look, seed by seed, the long ones first."""
    cells = list(cells)
    groups = {(cell.task, cell.poison, cell.discovery): cell for cell in cells}.values()
    oracle, *others = reference_unlearners()
    trials: dict[Trial, None] = {}
    for seed in plan.numbers(plan.looks[-1]):
        # The oracle's trial trains P, R and R'; the others find P and R made.
        trials |= dict.fromkeys(Trial(beside(oracle, group), seed) for group in groups)
        trials |= dict.fromkeys(Trial(cell, seed) for cell in cells)
        trials |= dict.fromkeys(Trial(beside(control, group), seed) for group in groups for control in others)
    return list(trials)
