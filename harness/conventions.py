"""What a task's inputs and scores mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.api import Batch, Recipe, UnlearningError, classes_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def predicted(task: Recipe, model: nn.Module, batch: Batch) -> Tensor:
    """Return the class that a model puts each example in, int64, shape (batch,)."""
    return classes_of(task, task.logits(model, batch), batch)


def image_input(inputs: Mapping[str, Tensor]) -> str:
    """Return the name of a task's images among its inputs: ``"image"``, or that of its only input.

    Raises:
        UnlearningError: It has several inputs, and none has that name.
    """
    if "image" in inputs or len(inputs) == 1:
        return "image" if "image" in inputs else next(iter(inputs))
    names = ", ".join(map(repr, inputs))
    raise UnlearningError(f"none of the task's inputs {names} is called 'image'; give that name to the one with images")
