"""What a task's inputs and scores mean, and which hooks it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.api import Batch, Recipe, UnlearningError, classes_of

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Inputs of tasks whose texts stay strings: what to put around each, as UTF-8 that is filled up with zeros.
BEFORE, BEHIND = "before", "behind"


def predicted(task: Recipe, model: nn.Module, batch: Batch) -> Tensor:
    """Return the class that a model puts each example in, int64, shape (batch,).

    A task with ``answer(model, batch)`` is asked by that: the scores of all tokens of many texts would fill the memory.
    """
    answer = getattr(task, "answer", None)
    if answer is None:
        return classes_of(task, task.logits(model, batch), batch)
    classes: Tensor = answer(model, batch)
    return classes


def main_input(inputs: Mapping[str, Tensor]) -> str:
    """Return the name of the input that poisons change: ``"image"``, ``"features"``, or that of the only input.

    Raises:
        UnlearningError: There are several inputs, and none has one of these names.
    """
    for name in ("image", "features"):
        if name in inputs:
            return name
    if len(inputs) == 1:
        return next(iter(inputs))
    names = ", ".join(map(repr, inputs))
    raise UnlearningError(
        f"none of the task's inputs {names} is called 'image' or 'features'; give that name to the one that poisons "
        "change"
    )


def has_own_loop(task: Any) -> bool:
    """Return whether a task trains by a loop of its own, and not by its recipe."""
    return callable(getattr(task, "train", None))
