"""Does the poison come back? Train a model on for a few steps and measure it again.

Methods that hide a poison instead of removing it leave it a few steps away. Sources: the relearning attacks of Hu et
al., "Unlearning or Obfuscating? Jogging the Memory of Unlearned LLMs via Benign Relearning" (arXiv 2406.13356), and the
relearn time of Golatkar et al. (arXiv 1911.04933), here with a fixed number of steps and judged against retraining.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from harness.api import Batch, Reading
from harness.training.data import Data
from harness.training.loop import descend
from harness.training.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Task


#: Draws of the poisoned points that are averaged: a single one says little.
DRAWS = 4


#: Poisoned points that stand in every batch.
POINTS = 5


STEPS = 20


#: Learning rate, as a multiple of the recipe's.
RATE = 0.1


def relearned(
    model: nn.Module, task: Task, retain: Data, forget: Data, seed: int, probe: Callable[[nn.Module], Reading]
) -> Reading:
    """Return what a probe reads after a model was trained on, mean over draws; the model stays as it is.

    In each of `DRAWS` draws a copy makes `STEPS` steps of the recipe's optimiser at a constant rate, on batches of
    retained points among which stand the same `POINTS` poisoned ones. The draw of points and batches follows from the
    seed alone, so that all models of a trial are trained on alike.

    Args:
        model: In eval mode, on the device of the data.
        task: Its recipe.
        retain: What is kept.
        forget: The poisoned points as they were planted.
        seed: Of all that is random.
        probe: Measures a model in eval mode.

    Returns:
        The mean; the details ``retained_alone``, what the probe reads after as many steps on retained points only, and
        ``sd_over_draws``; and the same of every trace.
    """
    drawn = [_after(model, task, retain, forget, derive("relearning", seed, draw), probe) for draw in range(DRAWS)]
    alone = _after(model, task, retain, forget.subset(torch.arange(0)), derive("relearning", seed, 0), probe)
    names = dict.fromkeys(name for each in (*drawn, alone) for name in each.traces)
    lost = Reading(math.nan)  # of a draw that diverged
    traces = {n: _mean([each.traces.get(n, lost) for each in drawn], alone.traces.get(n, lost)) for n in names}
    return replace(_mean(drawn, alone), traces=traces)


def _mean(values: Sequence[Reading], alone: Reading) -> Reading:
    value = fmean(each.value for each in values)
    sd = torch.tensor([each.value for each in values], dtype=torch.float64).std().item()
    unusable = next((each.unusable for each in values if each.unusable), "")
    details = {"retained_alone": alone.value, "sd_over_draws": sd}
    return Reading(value, max(each.resolution for each in values), details, unusable)


def _after(
    model: nn.Module, task: Task, retain: Data, forget: Data, seed: int, probe: Callable[[nn.Module], Reading]
) -> Reading:
    model = copy.deepcopy(model).train()
    optimizer = task.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] *= RATE
    batches = _batches(task, retain, forget, torch.Generator().manual_seed(seed))
    descend(optimizer, batches, lambda batch: task.criterion(task.logits(model, batch), batch))
    return probe(model.eval())


def _batches(task: Task, retain: Data, forget: Data, generator: torch.Generator) -> Iterator[Batch]:
    """Yield batches of the recipe's size in which the same poisoned points stand."""
    points = torch.randperm(len(forget), generator=generator)[:POINTS]
    poisoned = forget.subset(points)
    kept = max(1, task.batch_size - len(points))
    everything = torch.arange(len(poisoned))
    make = getattr(task, "from_host", None) if retain.recorded else None
    for _ in range(STEPS):
        parts = ((retain, torch.randperm(len(retain), generator=generator)[:kept]), (poisoned, everything))
        lengths = [length for data, at in parts if len(at) and (length := data.longest(at)) is not None]
        longest = max(lengths, default=None)
        more = {} if make is None else make(_numbers(parts), longest, retain.device)
        yield _joined(retain.batch(parts[0][1]), poisoned, longest, more)


def _numbers(parts: Sequence[tuple[Data, Tensor]]) -> dict[str, Tensor]:
    """Return the numbers of some examples of each data set, which a task makes further inputs of on the CPU."""
    names = {name for data, _ in parts for name in data.numbers}
    return {
        name: torch.cat(
            [data.numbers.get(name, torch.zeros(len(data), dtype=data.inputs[name].dtype))[at] for data, at in parts]
        )
        for name in names
    }


def _joined(batch: Batch, poisoned: Data, longest: int | None, more: Mapping[str, Tensor]) -> Batch:
    inputs = {name: torch.cat([tensor, poisoned.inputs[name]]) for name, tensor in batch.inputs.items()}
    index = torch.cat([batch.index, batch.index.new_full((len(poisoned),), -1)])
    labels = torch.cat([batch.labels, poisoned.labels])
    return Batch({**inputs, **more}, labels, index, longest, batch.zero & poisoned.zero)
