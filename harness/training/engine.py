"""How trainings are driven: step by step, any number side by side, and on a GPU many kernels by one launch.

A GPU is asked for small kernels more slowly than it computes them. So a step (gather, augmentation, forward, loss,
backward, optimiser) is recorded once as a graph (`harness.training.graphs`) and then replayed, and a graph may hold a
step of several models, which together fill a GPU that one leaves idle. What is recorded are kernels and addresses:
each shape of the inputs has a graph of its own, and inputs and learning rates are copied to where the graph reads
them. The schedule goes on computing rates on the host.

On a CPU, and wherever something cannot be recorded, the same steps are called one by one.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.api import Batch
from harness.training.meter import Counts, count_again, counted

#: Steps that are called first: optimisers make their state in the first one, libraries choose kernels and set up.
WARM = 3
_END = object()


class StepsNotRecorded(UserWarning):
    """Steps on a GPU are called one by one, which is slower."""


class Graph(Protocol):
    """Steps that were recorded."""

    def replay(self) -> None:
        """Make them once more."""


class CannotRecord(Exception):  # noqa: N818 - it is called, and goes on
    """Steps cannot be recorded; the text is a clause that says why."""


#: From steps to what replays them; no tensor changes meanwhile. With each step the random numbers that it is made
#: under, None for those of the process. Raises `CannotRecord`.
Record = Callable[[Sequence[tuple["Randomness | None", Callable[[], None]]]], Graph]


class Randomness:
    """The global random numbers as one training sees them that shares a process with others.

    Made where these numbers begin, and entered around all that draws some.

    Args:
        device: Where the training is.
    """

    def __init__(self, device: torch.device) -> None:
        self._host = host_state()
        self.generator: torch.Generator | None = None
        if device.type == "cuda":
            self.generator = _default(device).clone_state()
        self._device = device

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        before = host_state()
        set_host_state(self._host)
        self._host = before
        if self.generator is not None:  # as a pointer, which graphs may record
            default = _default(self._device)
            state = default.graphsafe_get_state()
            default.graphsafe_set_state(self.generator)
            self.generator = state


class Training:
    """One training in hand.

    Args:
        optimizer: Over the model's parameters.
        items: What is trained on, an item for each step: tensors and batches, alone or in tuples with plain values.
        loss: From an item to a scalar.
        schedule: Sets the rate of the next step after each; None for a constant one.
        before_step: Called between the backward pass and the optimiser's step.
        after: Called after each step with the number of steps so far and the item.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        items: Iterator[Any],
        loss: Callable[[Any], Tensor],
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        before_step: Callable[[], None] = lambda: None,
        after: Callable[[int, Any], None] = lambda steps, item: None,
    ) -> None:
        self._optimizer = optimizer
        self._items = items
        self._loss = loss
        self._schedule = schedule
        self._before_step = before_step
        self._after = after
        self.device: torch.device = optimizer.param_groups[0]["params"][0].device
        self.random = Randomness(self.device)
        self.steps = 0
        self._rates: list[Tensor] = []
        self._fixed: list[dict[str, Any]] = []
        self._inputs: dict[Hashable, list[Tensor]] = {}

    def next_item(self) -> Any:
        """Return the next item, or `_END`."""
        return next(self._items, _END)

    def step(self, item: Any) -> None:
        """Make a step of the optimiser."""
        self._optimizer.zero_grad(set_to_none=True)
        self._loss(item).backward()
        self._before_step()
        self._optimizer.step()

    def finish_step(self, item: Any) -> None:
        """Do what follows a step on the host."""
        self.steps += 1
        if self._schedule is not None:
            self._schedule.step()
        self._after(self.steps, item)

    def prepare_to_record(self) -> None:
        """Move the learning rates to the device, before the first step.

        Raises:
            CannotRecord: The optimiser does not allow it.
        """
        kind, groups = type(self._optimizer), self._optimizer.param_groups
        if kind.__module__.partition(".")[0] != "torch" or (
            kind is not torch.optim.SGD and not all("capturable" in group for group in groups)
        ):
            raise CannotRecord(f"steps of the optimiser {kind.__name__} cannot be recorded")
        for group in groups:
            if kind is torch.optim.SGD:
                group["fused"], group["foreach"] = True, False  # its other kernels want the rate on the host
            else:
                group["capturable"] = True
        self._rates = [torch.zeros((), device=self.device) for _ in groups]
        self._fixed = [_fixed(group) for group in groups]

    def call_from_now_on(self) -> None:
        """Be done with recorded steps."""
        self._rates, self._inputs = [], {}

    def held(self, item: Any) -> tuple[Hashable, Callable[[], None]]:
        """Copy an item and the rates to where recorded steps read them.

        Returns:
            What tells this step from others that need a graph of their own, and the step on what was copied.

        Raises:
            CannotRecord: The schedule changed what a graph holds for good.
        """
        for group, rate, fixed in zip(self._optimizer.param_groups, self._rates, self._fixed, strict=True):
            if _fixed(group) != fixed:
                raise CannotRecord("their schedule changes more than the learning rate")
            rate.fill_(group["lr"])
        form, tensors = taken_apart(item)
        if form not in self._inputs:
            self._inputs[form] = [torch.empty_like(tensor) for tensor in tensors]
        held = self._inputs[form]
        for to, tensor in zip(held, tensors, strict=True):
            to.copy_(tensor, non_blocking=True)
        return (id(self), form), lambda: self._step_at_rates(put_together(form, iter(held)))

    def _step_at_rates(self, item: Any) -> None:
        """Make a step at the rates on the device; this is what is recorded."""
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            self.step(item)
        finally:
            for group, on_host in zip(groups, rates, strict=True):
                group["lr"] = on_host


def run(trainings: Sequence[Training], record: Record | None = None) -> None:
    """Make trainings to their end, side by side.

    What becomes of each is what would become of it alone: bit by bit where steps are called, and where the kernels
    that a GPU chooses do not depend on what else it is busy with.

    Args:
        trainings: At least one, all on one device.
        record: Records steps; None to call each.
    """
    launches = _Launches(trainings, record)
    left = list(trainings)
    while left:
        ready = [(training, item) for training in left if (item := launches.next_usual(training)) is not _END]
        if ready:
            launches.make(ready)
        left = [training for training, _ in ready]


class _Launches:
    """Makes steps, by calls or by graphs.

    Args:
        trainings: All that are in hand.
        record: As in `run`.
    """

    def __init__(self, trainings: Sequence[Training], record: Record | None) -> None:
        self._several = len(trainings) > 1
        self._trainings = trainings
        self._record = record
        self._usual: dict[int, Hashable] = {}
        self._graphs: dict[tuple[Hashable, ...], tuple[Graph, list[Counts], list[Counts]]] = {}
        if record is not None:
            try:
                for training in trainings:
                    training.prepare_to_record()
            except CannotRecord as why:
                self._stop_recording(why)

    def next_usual(self, training: Training) -> Any:
        """Return the training's next item of the form of its first, or `_END`. What comes before has its own launch.

        So the last batch of a pass, which is shorter and is not the last one of every training at the same time, does
        not multiply the graphs of several.
        """
        while True:
            with self._alone(training):
                item = training.next_item()
            if item is _END or self._record is None:
                return item
            form = taken_apart(item)[0]
            if self._usual.setdefault(id(training), form) == form:
                return item
            self.make([(training, item)])

    def make(self, ready: Sequence[tuple[Training, Any]]) -> None:
        """Make a step of each training on its item."""
        if self._record is None or any(training.steps < WARM for training, _ in ready) or not self._replayed(ready):
            for training, item in ready:
                with self._alone(training):
                    training.step(item)
        for training, item in ready:
            with self._alone(training):
                training.finish_step(item)

    def _replayed(self, ready: Sequence[tuple[Training, Any]]) -> bool:
        """Make the steps by a graph; say whether that could be done."""
        assert self._record is not None, "asked only where steps are recorded"
        try:
            held = [training.held(item) for training, item in ready]
            key = tuple(of for of, _ in held)
            if key in self._graphs:
                graph, before, after = self._graphs[key]
                count_again(before, after)
            else:
                before = counted()
                own = [training.random if self._several else None for training, _ in ready]
                graph = self._record(list(zip(own, (step for _, step in held), strict=True)))
                self._graphs[key] = graph, before, counted()
        except CannotRecord as why:
            self._stop_recording(why)
            return False
        graph.replay()
        return True

    def _alone(self, training: Training) -> Any:
        return training.random if self._several else nullcontext()

    def _stop_recording(self, why: CannotRecord) -> None:
        self._record = None
        self._graphs.clear()
        for training in self._trainings:
            training.call_from_now_on()
        warnings.warn(f"steps on the GPU are made one by one: {why}", StepsNotRecorded, stacklevel=4)


def host_state() -> tuple[Any, ...]:
    """Return the state of the host's global generators: Python's, torch's and, where it is loaded, numpy's."""
    numpy = sys.modules.get("numpy")
    return random.getstate(), torch.get_rng_state(), numpy.random.get_state() if numpy else None


def set_host_state(state: tuple[Any, ...]) -> None:
    """Set what `host_state` returned."""
    python, of_torch, of_numpy = state
    random.setstate(python)
    torch.set_rng_state(of_torch)
    if of_numpy is not None:
        sys.modules["numpy"].random.set_state(of_numpy)


def _default(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[device.index or 0]


def _fixed(group: dict[str, Any]) -> dict[str, Any]:
    """Return what a graph holds of a group of parameters for good."""
    return {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}


def taken_apart(item: Any) -> tuple[Hashable, list[Tensor]]:
    """Return the form of an item, equal for items of which one graph serves all, and the tensors in it."""
    if isinstance(item, Tensor):
        return (tuple(item.shape), item.dtype), [item]
    if isinstance(item, Batch):
        form, tensors = taken_apart((*item.inputs.values(), item.labels, item.index, item.longest))
        return ("batch", tuple(item.inputs), form), tensors
    if isinstance(item, tuple):
        parts = [taken_apart(each) for each in item]
        return ("tuple", *(form for form, _ in parts)), [tensor for _, tensors in parts for tensor in tensors]
    return ("value", item), []


def put_together(form: Any, tensors: Iterator[Tensor]) -> Any:
    """Return the item of a form that holds these tensors."""
    match form:
        case ("batch", names, parts):
            *inputs, labels, index, longest = put_together(parts, tensors)
            return Batch(dict(zip(names, inputs, strict=True)), labels, index, longest)
        case ("tuple", *parts):
            return tuple(put_together(part, tensors) for part in parts)
        case ("value", value):
            return value
    return next(tensors)
