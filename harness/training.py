"""The training loop that P, R and the controls share, and the random state it runs under."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from harness.data import Batches

if TYPE_CHECKING:
    from harness.api import Batch, ForgetRequest, Recipe


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators, and put their states back afterwards."""
    numpy = sys.modules.get("numpy")
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy.random.get_state() if numpy else None
    cuda_state = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy:
        numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if cuda_state:
            torch.cuda.set_rng_state_all(cuda_state)


def fit(
    recipe: Recipe | ForgetRequest,
    model: nn.Module,
    batches: Batches | Sequence[Batch],
    on_epoch: Callable[[int, int], None] | None = None,
) -> int:
    """Train a model in place by a recipe's loss, optimiser and schedule.

    Args:
        recipe: A task, or a request, which hands on its task's recipe.
        model: The model, on the device of the batches.
        batches: What to train on; its length is the length of the learning-rate schedule.
        on_epoch: Called with (passes done, passes in all); needs `Batches`.

    Returns:
        Examples seen, each forward and backward.
    """
    optimizer = recipe.optimizer(model)
    schedule = recipe.schedule(optimizer, len(batches))
    model.train()
    examples = 0
    for step, batch in enumerate(batches, start=1):
        optimizer.zero_grad(set_to_none=True)
        recipe.loss(model, batch).backward()
        optimizer.step()
        schedule.step()
        examples += len(batch)
        if on_epoch is not None and isinstance(batches, Batches) and step % batches.per_epoch == 0:
            on_epoch(step // batches.per_epoch, batches.epochs)
    return examples


def is_finite(model: nn.Module) -> bool:
    """Say whether every floating-point parameter and buffer is finite."""
    return all(bool(t.isfinite().all()) for t in model.state_dict().values() if t.is_floating_point())
