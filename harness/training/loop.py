"""The training loop that P, R and the controls share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from harness.api import UnlearningError
from harness.conventions import has_own_loop
from harness.training.data import Batches, Data
from harness.training.engine import Training, run
from harness.training.graphs import recorder
from harness.training.isolation import isolated_rng
from harness.training.seeds import derive

if TYPE_CHECKING:
    from harness.api import Batch, Recipe, Task
    from harness.request import ForgetRequest


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
        batches: What to train on. The learning-rate schedule has one step per batch.
        on_epoch: Called after every epoch; only with `Batches`.
        stop: Stop after so many epochs, only with `Batches`. The schedule still covers all epochs.

    Returns:
        The number of examples trained on.
    """
    return Fitting(recipe, model, batches, on_epoch, stop).finish()


def descend(
    optimizer: torch.optim.Optimizer,
    items: Iterable[Item],
    loss: Callable[[Item], Tensor],
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> None:
    """Take one optimiser step on each item.

    On a GPU, a step is recorded once per item shape and then replayed (`docs/gpu.md`). So everything that changes
    between steps must be in the item.

    Args:
        optimizer: Of the model's parameters, set to the first learning rate.
        items: Tensors and batches on the device, alone or in tuples with plain values.
        loss: Takes an item and returns a scalar loss.
        schedule: Sets the learning rate of the next step; called after every step. None keeps the rate constant.
        before_step: Called between the backward pass and the optimiser's step.
    """
    training = Training(optimizer, iter(items), loss, schedule, before_step)
    run([training], recorder(training.device))


class Fitting:
    """Training by a recipe, prepared for `harness.training.engine.run`, alone or in a group.

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
        if isinstance(batches, Batches):  # fetching and augmenting the batch are part of the recorded step
            self._ends, self._epochs = batches.ends, batches.epochs
            items, at = batches.items(), batches.at
            if stop is not None:
                items = itertools.islice(items, self._ends[stop - 1] if stop else 0)
        optimizer = recipe.optimizer(model)
        schedule = recipe.schedule(optimizer, len(batches))
        # Models of one architecture share compiled code. Trained, and stored, is the model, not its wrapper.
        forward: Any = torch.compile(model, dynamic=False) if getattr(recipe, "compiled", False) else model

        def loss(item: Any) -> Tensor:
            batch = at(item)
            return recipe.criterion(recipe.logits(forward, batch), batch)

        self.training = Training(optimizer, items, loss, schedule, after=self._after)

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return self.training.steps

    def finish(self) -> int:
        """Train to the end with the process's random numbers; return the number of examples trained on."""
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
        keep: Mask of the examples to train on; one mask, or one per epoch.
        seed: Fixes initialisation, order, and all random numbers of the training.
        on_epoch: Called before the first epoch and after every epoch.
        stop: Stop after so many epochs. The schedule still covers all epochs. None: do not stop early.
    """

    data: Data
    keep: Tensor
    seed: int
    on_epoch: OnEpoch | None = None
    stop: int | None = None

    def begin(self, task: Task) -> Fitting:
        """Initialise the model, and return its training, not yet started."""
        with isolated_rng(derive("initialisation", self.seed)):
            model = task.new_model().to(self.data.device)
            order = torch.Generator().manual_seed(derive("order", self.seed))
            hooks = {name: getattr(task, name, None) for name in ("augment", "from_host")}
            batches = Batches(self.data, task.batch_size, task.epochs, order, self.keep, **hooks)
            if self.on_epoch is not None:
                self.on_epoch(model, 0, task.epochs)
            return Fitting(task, model, batches, self.on_epoch, self.stop)


class Trained(NamedTuple):
    """What a task's own training loop made; nobody counted its examples and steps."""

    model: nn.Module
    examples: int = 0
    steps: int = 0


def _trained_by(task: Any, job: Job) -> Trained:
    """Return the model that a task's own loop makes of a job.

    Raises:
        UnlearningError: The job asks for a checkpoint, or for other points in some of the passes.
    """
    if job.stop is not None:
        raise UnlearningError("a task with a training loop of its own has no checkpoints, which this method needs")
    keep = job.keep.expand(1, -1) if job.keep.dim() == 1 else job.keep
    if not bool((keep == keep[0]).all()):
        raise UnlearningError("a task with a training loop of its own cannot train on some points in some passes alone")
    with isolated_rng(derive("initialisation", job.seed)):
        model = task.train(job.data.subset(keep[0].nonzero().squeeze(1)), derive("training", job.seed))
    if job.on_epoch is not None:
        job.on_epoch(model, 1, 1)
    return Trained(model)


def train_all(task: Task, jobs: Sequence[Job]) -> list[Fitting] | list[Trained]:
    """Train new models of a task side by side; `harness.training.engine.run` says when each is the one trained alone.

    Initialisation and order follow from the seed. Trainings of one seed share both, even if they keep different
    examples (common random numbers). If a training stops early, its model is the one that the full training has at
    that epoch.

    Args:
        task: The task.
        jobs: At least one, their data on one device.
    """
    if has_own_loop(task):
        return [_trained_by(task, job) for job in jobs]
    fittings = [job.begin(task) for job in jobs]
    finish_all(fittings)
    return fittings


def finish_all(fittings: Sequence[Fitting]) -> None:
    """Run prepared trainings to the end, side by side. Each has its own random numbers.

    Args:
        fittings: At least one, all on one device.
    """
    trainings = [fitting.training for fitting in fittings]
    with trainings[0].random if len(trainings) == 1 else nullcontext():
        run(trainings, recorder(trainings[0].device))


def train(
    task: Task, data: Data, keep: Tensor, seed: int, on_epoch: OnEpoch | None = None, stop: int | None = None
) -> tuple[nn.Module, int]:
    """Train one new model of a task, as `train_all` with one `Job`; return it and the examples that it saw."""
    (fitting,) = train_all(task, [Job(data, keep, seed, on_epoch, stop)])
    return fitting.model, fitting.examples


def is_finite(model: nn.Module) -> bool:
    """Return whether every floating-point and complex parameter and buffer is finite."""
    return all(map(is_finite_tensor, model.state_dict().values()))


def is_finite_tensor(tensor: Tensor) -> bool:
    """Return whether every value of a tensor is finite, as those of integers are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # torch does not ask every type of a byte; a float holds all their values.
    return bool((tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all())
