"""The training loop that P, R and the controls share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.training.data import Batches, Data
from harness.training.isolation import isolated_rng
from harness.training.seeds import derive

if TYPE_CHECKING:
    from harness.api import Batch, ForgetRequest, Recipe, Task


#: Called with (model, passes done, passes in all).
OnEpoch = Callable[[nn.Module, int, int], None]


def fit(
    recipe: Recipe | ForgetRequest,
    model: nn.Module,
    batches: Batches | Sequence[Batch],
    on_epoch: OnEpoch | None = None,
    stop: int | None = None,
) -> int:
    """Train a model in place by a recipe's loss, optimiser and schedule.

    Args:
        recipe: A task, or a request, which hands on its task's recipe.
        model: The model, on the device of the batches.
        batches: What to train on; its length is the length of the learning-rate schedule.
        on_epoch: Called after every pass; needs `Batches`.
        stop: Break off after so many passes, on the schedule of them all; needs `Batches`.

    Returns:
        Examples seen, each forward and backward.
    """
    optimizer = recipe.optimizer(model)
    schedule = recipe.schedule(optimizer, len(batches))
    model.train()
    ends = batches.ends if isinstance(batches, Batches) else []
    examples = done = 0
    for step, batch in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        recipe.criterion(recipe.logits(model, batch), batch).backward()
        optimizer.step()
        schedule.step()
        examples += len(batch)
        if isinstance(batches, Batches) and step == ends[done]:
            done += 1
            if on_epoch is not None:
                on_epoch(model, done, batches.epochs)
            if done == stop:
                break
    return examples


def train(
    task: Task, data: Data, keep: Tensor, seed: int, on_epoch: OnEpoch | None = None, stop: int | None = None
) -> tuple[nn.Module, int]:
    """Train a new model of a task on ``data[keep]``, on the device of the data; ``keep`` may differ by pass.

    Initialisation and order follow from the seed alone: trainings of one seed that differ in what they keep share
    both, as common random numbers. One that stops early is the other's state at that epoch.

    Returns:
        The model and the examples it saw.
    """
    with isolated_rng(derive("initialisation", seed)):
        model = task.new_model().to(data.device)
        order = torch.Generator().manual_seed(derive("order", seed))
        batches = Batches(data, task.batch_size, task.epochs, order, keep, augment=getattr(task, "augment", None))
        if on_epoch is not None:
            on_epoch(model, 0, task.epochs)
        return model, fit(task, model, batches, on_epoch, stop) if stop != 0 else 0


def is_finite(model: nn.Module) -> bool:
    """Return whether every floating-point and complex parameter and buffer is finite."""
    return all(map(is_finite_tensor, model.state_dict().values()))


def is_finite_tensor(tensor: Tensor) -> bool:
    """Return whether every value of a tensor is finite, as those of integers are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # torch does not ask every type of a byte; a float holds all their values.
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())
