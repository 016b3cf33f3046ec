"""What makes the models of a cell unfit to be judged, whatever they show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.api import declares
from harness.cells import Cell
from harness.trials.nearness import copied

if TYPE_CHECKING:
    from harness.trials.lab import TrialResult


def refusal(cell: Cell, seeds: Sequence[int], own: Sequence[TrialResult], second: Sequence[TrialResult] | None) -> str:
    """Return a sentence if a method returned the retrained model, or if seeds have the same model; else ``""``.

    Two seeds have the same model if its bytes are the same; or all seeds, if the same rows are kept and all models
    answer alike: a stored model may hold its seed, and differ by that alone.

    Args:
        cell: What is audited.
        seeds: The seeds.
        own: Its results, seed by seed.
        second: Those of the oracle, whose U is a second retrained model; None if that is what is audited.
    """
    if second is not None:
        near = [[result.nearness for result in of] for of in (own, second)]
        if sentence := copied(f"the unlearner {cell.unlearner.id!r}", seeds, *near):
            return sentence
    if declares(cell.unlearner.value, "control"):  # an untrained model may be the same every time
        return ""
    for arm, who in (("R", f"the task {cell.task.id!r} trained"), ("U", f"the unlearner {cell.unlearner.id!r} made")):
        first: dict[str, int] = {}
        for seed, result in zip(seeds, own, strict=True):
            blob = result.blobs.get(arm)
            if blob is not None and first.setdefault(blob, seed) != seed:
                return (
                    f"{who} the same model for seeds {first[blob]} and {seed}, so seeds say nothing about chance; "
                    "everything random must follow from the seed of the call, or from the global generators, which are "
                    "seeded"
                )
        alike = {result.answers.get(arm, "") for result in own}
        if len(seeds) > 2 and len(alike) == 1 and alike != {""}:
            return (
                f"{who} models that give the same scores on all of the seeds {', '.join(map(str, seeds))}, so seeds "
                "say nothing about chance; with the same rows, everything else must follow from the seed: for example, "
                "train on the rows drawn with replacement, data.sample(frac=1, replace=True, random_state=seed)"
            )
    return ""
