"""The training loop that P, R and the controls share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from harness.training.data import Batches, Data
from harness.training.engine import Training, run
from harness.training.graphs import recorder
from harness.training.isolation import isolated_rng
from harness.training.seeds import derive

if TYPE_CHECKING:
    from harness.api import Batch, ForgetRequest, Recipe, Task


Item = TypeVar("Item")
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
    return Fitting(recipe, model, batches, on_epoch, stop).finish()


def descend(
    optimizer: torch.optim.Optimizer,
    items: Iterable[Item],
    loss: Callable[[Item], Tensor],
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> None:
    """Make a step of an optimiser on the loss of each item.

    On a GPU a step is recorded once for each shape of the items and then replayed (`docs/gpu.md`), so all that changes
    from step to step must be in the item.

    Args:
        optimizer: Over the model's parameters, at its first rate.
        items: Tensors and batches on the device, alone or in tuples with plain values.
        loss: From an item to a scalar.
        schedule: Sets the rate of the next step after each; None for a constant one.
        before_step: Called between the backward pass and the optimiser's step.
    """
    training = Training(optimizer, iter(items), loss, schedule, before_step)
    run([training], recorder(training.device))


class Fitting:
    """A training by a recipe, which `harness.training.engine.run` makes, alone or beside others.

    Args:
        recipe, model, batches, on_epoch, stop: As those of `fit`.

    Attributes:
        training: The training.
        examples: Examples seen so far.
        model: The model.
    """

    def __init__(
        self,
        recipe: Recipe | ForgetRequest,
        model: nn.Module,
        batches: Batches | Sequence[Batch],
        on_epoch: OnEpoch | None = None,
        stop: int | None = None,
    ) -> None:
        self.model = model.train()
        self.examples = self._passes = 0
        self._on_epoch = on_epoch
        self._epochs = 0
        items: Iterator[Any] = iter(batches)
        at: Callable[[Any], Batch] = lambda batch: batch  # noqa: E731
        self._ends: list[int] = []
        if isinstance(batches, Batches):  # what is gathered and augmented within the step is no launch of its own
            self._ends, self._epochs = batches.ends, batches.epochs
            items, at = batches.items(), batches.at
            if stop is not None:
                items = itertools.islice(items, self._ends[stop - 1] if stop else 0)
        optimizer = recipe.optimizer(model)
        schedule = recipe.schedule(optimizer, len(batches))
        # Models of one architecture share what was compiled; what is trained, and stored, is the model itself.
        forward: Any = torch.compile(model, dynamic=False) if getattr(recipe, "compiled", False) else model

        def loss(item: Any) -> Tensor:
            batch = at(item)
            return recipe.criterion(recipe.logits(forward, batch), batch)

        self.training = Training(optimizer, items, loss, schedule, after=self._after)

    def finish(self) -> int:
        """Train to the end, and return the examples seen; random numbers are those of the process."""
        run([self.training], recorder(self.training.device))
        return self.examples

    def _after(self, steps: int, item: Any) -> None:
        self.examples += len(item[0]) if isinstance(item, tuple) else len(item)
        if self._ends and steps == self._ends[self._passes]:
            self._passes += 1
            if self._on_epoch is not None:
                self._on_epoch(self.model, self._passes, self._epochs)


@dataclass(frozen=True)
class Job:
    """A model to be trained by a task's recipe.

    Attributes:
        data: The examples, on the device to train on.
        keep: Mask of those to train on, over the data, or one for each pass.
        seed: Of initialisation and order, and of nothing else.
        on_epoch: Called before the first pass and after each.
        stop: Passes after which it ends, on the schedule of them all; None for all.
    """

    data: Data
    keep: Tensor
    seed: int
    on_epoch: OnEpoch | None = None
    stop: int | None = None

    def begin(self, task: Task) -> Fitting:
        """Initialise the model."""
        with isolated_rng(derive("initialisation", self.seed)):
            model = task.new_model().to(self.data.device)
            order = torch.Generator().manual_seed(derive("order", self.seed))
            augment = getattr(task, "augment", None)
            batches = Batches(self.data, task.batch_size, task.epochs, order, self.keep, augment=augment)
            if self.on_epoch is not None:
                self.on_epoch(model, 0, task.epochs)
            return Fitting(task, model, batches, self.on_epoch, self.stop)


def train_all(task: Task, jobs: Sequence[Job]) -> list[tuple[nn.Module, int]]:
    """Train new models of a task, side by side; each becomes what it would become alone.

    Initialisation and order follow from the seed alone: trainings of one seed that differ in what they keep share
    both, as common random numbers. One that stops early is the other's state at that epoch.

    Args:
        task: The task.
        jobs: At least one, their data on one device.

    Returns:
        For each the model and the examples it saw.
    """
    fittings = [job.begin(task) for job in jobs]
    finish_all(fittings)
    return [(fitting.model, fitting.examples) for fitting in fittings]


def finish_all(fittings: Sequence[Fitting]) -> None:
    """Train to the end, side by side, what was begun; each with its own random numbers.

    Args:
        fittings: At least one, all on one device.
    """
    trainings = [fitting.training for fitting in fittings]
    with trainings[0].random if len(trainings) == 1 else nullcontext():
        run(trainings, recorder(trainings[0].device))


def train(
    task: Task, data: Data, keep: Tensor, seed: int, on_epoch: OnEpoch | None = None, stop: int | None = None
) -> tuple[nn.Module, int]:
    """Train one new model of a task; as `train_all` of one `Job`."""
    return train_all(task, [Job(data, keep, seed, on_epoch, stop)])[0]


def is_finite(model: nn.Module) -> bool:
    """Return whether every floating-point and complex parameter and buffer is finite."""
    return all(map(is_finite_tensor, model.state_dict().values()))


def is_finite_tensor(tensor: Tensor) -> bool:
    """Return whether every value of a tensor is finite, as those of integers are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # torch does not ask every type of a byte; a float holds all their values.
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())
