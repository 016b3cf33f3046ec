"""What the poisons share whose trigger stands in training points that carry the label of a target class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Measure, Reading, UnlearningError, main_input, predicted
from poisons._points import check_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from harness import Data, Split, Task

#: Whether a trigger that misses its target at least leads back to the point's own class, and not to a third one.
OWN_CLASS = Measure(
    "triggered_accuracy", "accuracy on triggered test points", worse="lower", test="retention", unit="%",
    short="own class",
)  # fmt: skip


def check_target(split: Split, target: int, poison: str) -> None:
    """Refuse a target class without training points, or beside which no other class has test points.

    Raises:
        UnlearningError: It is such a class.
    """
    check_class(split, f"{poison}: target", target)
    if not bool((split.test.labels != target).any()):
        raise UnlearningError(f"{poison}: target={target}, but the task has test points of that class alone")


def success(model: nn.Module, task: Task, split: Split, target: int, trigger: Callable[[Tensor], Tensor]) -> Reading:
    """Return the share of triggered test points of other classes that a model puts in the target class.

    The trace `OWN_CLASS` is the share that it puts in their own class.

    Args:
        model: In eval mode.
        task: Provides the scores.
        split: Provides the test points.
        target: The class that the trigger is to lead to.
        trigger: Returns the main input of points, shape (n, ...), with the trigger.
    """
    others = split.test.subset((split.test.labels != target).nonzero().squeeze(1))
    name = main_input(others.inputs)
    others.inputs[name] = trigger(others.inputs[name])
    return success_on(others, model, task, target)


def success_on(others: Data, model: nn.Module, task: Task, target: int) -> Reading:
    """Return the same, of test points of other classes that have the trigger already."""
    import torch

    hits = right = 0
    with torch.no_grad():
        for batch in others.chunks():
            classes = predicted(task, model, batch)
            hits += int((classes == target).sum())
            right += int((classes == batch.labels).sum())
    n = len(others)
    own = Reading(right / n, resolution=0.5 / n)
    return Reading(hits / n, resolution=0.5 / n, traces={OWN_CLASS.name: own})
