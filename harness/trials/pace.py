"""How fast a task trains on this device, and which group size trains fastest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.training.clock import now
from harness.training.data import BUCKETS, Batches
from harness.training.engine import WARM, run
from harness.training.graphs import recorder
from harness.training.isolation import isolated_rng
from harness.training.loop import Fitting

if TYPE_CHECKING:
    from harness.api import Task
    from harness.training.data import Data
    from harness.training.engine import Record

#: Group sizes to try, in order. Stop at the first that does not train at least FASTER times as fast as the one before.
SIZES, FASTER = (1, 2, 4, 8, 16, 32), 1.1
#: Warm-up steps, and timed steps, by kind of device. On a GPU the last warm-up steps are recorded. On a CPU few are
#: enough: steps are slow, and the first is only a little slower.
BEFORE, TIMED = {"cuda": WARM + 2, "cpu": 1}, {"cuda": 10, "cpu": 3}
#: Part of the free memory that a group may need.
MEMORY = 0.7


@dataclass(frozen=True)
class Pace:
    """How fast a task trains.

    Attributes:
        group: Group size: the fastest that was tried, or the one that was asked for.
        seconds: Of a group's step, divided by the number of models.
        alone: Seconds of one step of one model by itself, recorded where steps are.
        unrecorded: Seconds of one unrecorded step of one model.
        gpu: Bytes of GPU memory that the group fills, about, and bytes that the GPU has; zeros on a CPU.
    """

    group: int
    seconds: float
    alone: float
    unrecorded: float
    gpu: tuple[int, int] = (0, 0)


def pace_of(task: Task, data: Data, group: int | None = None, share: float = 1.0) -> Pace:
    """Time a few steps after a warm-up, on a GPU in groups of growing size.

    Args:
        task: The task.
        data: Its training set, on the device.
        group: Group size. None: on a GPU, find the fastest; on a CPU, and for texts, whose batches differ in length, 1.
        share: Share of the free GPU memory that this process may use.
    """
    record = recorder(data.device)
    unrecorded = step_seconds(task, data, 1, None)
    if record is None:
        return Pace(group or 1, unrecorded, unrecorded, unrecorded)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    best, fastest = 1, step_seconds(task, data, 1, record)
    alone = fastest
    of_data = sum(tensor.numel() * tensor.element_size() for tensor in data.inputs.values())  # P has its own
    each = torch.cuda.max_memory_allocated() - before + of_data
    free, whole = torch.cuda.mem_get_info()
    if group is not None or data.lengths is not None:
        size = group or 1
        seconds = alone if size == 1 else step_seconds(task, data, size, record) / size
        return Pace(size, seconds, alone, unrecorded, (size * each, whole))
    for size in SIZES[1:]:
        if size * each > MEMORY * share * free:
            break
        seconds = step_seconds(task, data, size, record) / size
        if seconds * FASTER > fastest:
            break
        best, fastest = size, seconds
    return Pace(best, fastest, alone, unrecorded, (best * each, whole))


def own_cost(task: Any, data: Data) -> tuple[float, int]:
    """Return what a task's own training loop takes, from a training on a tenth of the data.

    Returns:
        Seconds, about: ten times that of the tenth. Bytes of the stored model, which may be more with all of the data.
    """
    few = data.part(0.1, torch.Generator().manual_seed(0))
    with isolated_rng(0):
        began = now()
        model = task.train(few, 0)
        seconds = (now() - began) * len(data) / len(few)
        return seconds, sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def step_seconds(task: Task, data: Data, k: int, record: Record | None) -> float:
    """Return how many seconds one step of a group of ``k`` new models takes, after a warm-up.

    Args:
        task: The task.
        data: Its training set, on the device.
        k: Number of models.
        record: As in `harness.training.engine.run`.
    """
    # Texts have as many graphs as lengths.
    forms = BUCKETS if record is not None and data.lengths is not None else 1
    before, timed = (forms * steps[data.device.type] for steps in (BEFORE, TIMED))
    examples = (before + timed) * task.batch_size
    everything = torch.ones(len(data), dtype=torch.bool)
    marks: list[float] = []

    def marked(items: Iterator[Any]) -> Iterator[Any]:
        for step, item in enumerate(items):
            if step == before:
                marks.append(now())
            yield item
        marks.append(now())

    with isolated_rng(0):
        fittings = []
        for _ in range(k):
            model, order = task.new_model().to(data.device), torch.Generator().manual_seed(0)
            epochs = -(-examples // len(data))
            hooks = {name: getattr(task, name, None) for name in ("augment", "from_host")}
            batches = Batches(data, task.batch_size, epochs, order, everything, examples, **hooks)
            fittings.append(Fitting(task, model, batches))
        first = fittings[0].training
        first.items = marked(first.items)
        run([fitting.training for fitting in fittings], record)
    return (marks[-1] - marks[0]) / max(1, first.steps - before)
