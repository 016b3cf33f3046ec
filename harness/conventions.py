"""What a task's inputs and scores mean, and which hooks it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.api import Batch, Recipe, UnlearningError, classes_of

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Inputs of tasks whose texts stay strings: what to put around each, as UTF-8 that is filled up with zeros.
BEFORE, BEHIND = "before", "behind"


def predicted(task: Recipe, model: nn.Module, batch: Batch) -> Tensor:
    """Return the class that a model puts each example in, int64, shape (batch,).

    A task with ``answer(model, batch)`` is asked by that. Causal language models are asked about ``batch_size`` texts
    at a time: the scores of all tokens of many texts would fill the memory.
    """
    answer = getattr(task, "answer", None)
    if answer is not None:
        classes: Tensor = answer(model, batch)
        return classes
    if not getattr(task, "causal", False):
        return classes_of(task, task.logits(model, batch), batch)
    import torch

    return torch.cat([classes_of(task, task.logits(model, each), each) for each in parts(batch, task.batch_size)])


def parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the examples of a batch in order, so many at a time."""
    for start in range(0, len(batch), size):
        of = slice(start, start + size)
        inputs = {name: tensor[of] for name, tensor in batch.inputs.items()}
        yield replace(batch, inputs=inputs, labels=batch.labels[of], index=batch.index[of], longest=None)


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
