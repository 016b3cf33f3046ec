"""How fast a task trains on this device, and how many of its models are best trained side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.training.clock import now
from harness.training.engine import WARM, Training, run
from harness.training.graphs import recorder
from harness.training.isolation import isolated_rng

if TYPE_CHECKING:
    from torch import Tensor

    from harness.api import Task
    from harness.training.data import Data
    from harness.training.engine import Record

#: Sizes of groups that are tried, while each trains at least so much faster than the one before.
SIZES, FASTER = (1, 2, 4, 8, 16, 32), 1.1
#: Steps that are made before the clock runs, the last of them by the recorded graph, and steps that are timed; by kind
#: of device: a step on a CPU takes long, and its first one is little longer.
BEFORE, TIMED = {"cuda": WARM + 2, "cpu": 1}, {"cuda": 10, "cpu": 3}
#: Part of the free memory that a group may fill.
MEMORY = 0.7


@dataclass(frozen=True)
class Pace:
    """How fast a task trains.

    Attributes:
        together: Models that are best trained side by side.
        called: Seconds of one model's step that is called, as steps of methods are that cannot be recorded.
        together_seconds: Seconds of one model's step in a group of that size.
    """

    together: int
    called: float
    together_seconds: float


def pace_of(task: Task, data: Data, most: int | None = None, share: float = 1.0) -> Pace:
    """Measure how fast a task trains: a few steps, after a warm-up, by groups of growing size.

    Args:
        task: The task.
        data: Its training set, on the device.
        most: Size of groups; None for the best one: on a CPU 1.
        share: Part of the device's memory that this process may fill.
    """
    record = recorder(data.device)
    called = step_seconds(task, data, 1, None)
    if record is None:
        return Pace(most or 1, called, called)
    if most is not None:
        return Pace(most, called, step_seconds(task, data, most, record) / most)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    best, fastest = 1, step_seconds(task, data, 1, record)
    each = torch.cuda.max_memory_allocated() - before
    free, _ = torch.cuda.mem_get_info()
    for size in SIZES[1:]:
        if size * each > MEMORY * share * free:
            break
        seconds = step_seconds(task, data, size, record) / size
        if seconds * FASTER > fastest:
            break
        best, fastest = size, seconds
    return Pace(best, called, fastest)


def step_seconds(task: Task, data: Data, k: int, record: Record | None) -> float:
    """Return the seconds of a step of ``k`` new models side by side, after a warm-up.

    Args:
        task: The task.
        data: Its training set, on the device; every step is on its first batch.
        k: Number of models.
        record: As in `harness.training.engine.run`.
    """
    marks: list[float] = []
    index = torch.arange(min(task.batch_size, len(data)), device=data.device)
    with isolated_rng(0):
        run([_training(task, data, index, marks if i == 0 else None) for i in range(k)], record)
    return (marks[1] - marks[0]) / TIMED[data.device.type]


def _training(task: Task, data: Data, index: Tensor, marks: list[float] | None) -> Training:
    model = task.new_model().to(data.device).train()
    optimizer = task.optimizer(model)
    augment: Any = getattr(task, "augment", None) or (lambda batch: batch)

    def loss(index: Tensor) -> Tensor:
        batch = augment(data.batch(index))
        return task.criterion(task.logits(model, batch), batch)

    before, timed = (steps[data.device.type] for steps in (BEFORE, TIMED))

    def items() -> Iterator[Tensor]:
        yield from itertools.repeat(index, before)
        if marks is not None:
            marks.append(now())
        yield from itertools.repeat(index, timed)
        if marks is not None:
            marks.append(now())

    return Training(optimizer, items(), loss, task.schedule(optimizer, before + timed))
