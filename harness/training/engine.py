"""Run trainings, one or several side by side. On a GPU, one call starts a whole step.

Python starts small kernels more slowly than a GPU finishes them. So a step (fetching the batch, augmentation, forward
and backward pass, optimiser) is recorded once as a graph (`harness.training.graphs`) and then replayed. A graph may
hold one step of each of several models. Together they can keep a GPU busy that one model would leave partly idle.

A graph stores kernels and memory addresses. So each input shape needs its own graph. Before a replay, inputs and
learning rates are copied to the addresses that the graph reads. The schedule still computes learning rates on the CPU.

On a CPU, and when a step cannot be recorded, the same steps run unrecorded.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.api import Batch
from harness.training.meter import Counts, count_again, count_back, counted

#: Unrecorded steps of each form of items: in them optimisers create their state, and libraries choose kernels.
WARM = 3
#: Graphs of one group. Whoever has items of more forms has a new one in each step.
GRAPHS = 64
_END = object()


class StepsNotRecorded(UserWarning):
    """Training on a GPU without CUDA graphs, which is slower."""


class CannotRecord(Exception):  # noqa: N818 - not an error: the steps run unrecorded
    """Steps cannot be recorded. The message is a clause that gives the reason."""


class Graph(Protocol):
    """Steps that were recorded."""

    def replay(self) -> None:
        """Run them again."""


#: Takes steps, each with its random numbers (None: those of the process), and returns a `Graph`. Recording changes no
#: tensor. Raises `CannotRecord`.
Record = Callable[[Sequence[tuple["Randomness | None", Callable[[], None]]]], Graph]


class Randomness:
    """The global random state of one training, kept apart from that of other trainings in the same process.

    Create it where the training's random numbers start. Enter it around all code that draws any.

    Args:
        device: Where the training is.

    Attributes:
        generator: The GPU's, while it is not entered; None on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._host = host_state()
        self._device = device
        self.generator = _default(device).clone_state() if device.type == "cuda" else None

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        before = host_state()
        set_host_state(self._host)
        self._host = before
        if self.generator is not None:  # by reference, which a graph can record
            default = _default(self._device)
            state = default.graphsafe_get_state()
            default.graphsafe_set_state(self.generator)
            self.generator = state


class Training:
    """One training, step by step.

    Args:
        optimizer: Of the model's parameters.
        items: One item per step: a tensor, a batch, or a tuple of these and of plain values.
        loss: Takes an item and returns a scalar.
        schedule: Sets the learning rate of the next step; called after every step. None keeps the rate constant.
        before_step: Called between the backward pass and the optimiser's step.
        after: Called after every step with the number of steps so far and the item.

    Attributes:
        device: Where the parameters are.
        items: As above, from the next one on.
        random: Its random numbers, as they are when it is made.
        steps: Steps so far.
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
        self.device: torch.device = optimizer.param_groups[0]["params"][0].device
        self.items = items
        self.random = Randomness(self.device)
        self.steps = 0
        self._optimizer = optimizer
        self._loss = loss
        self._schedule = schedule
        self._before_step = before_step
        self._after = after
        self._rates: list[Tensor] = []
        self._fixed: list[dict[str, Any]] = []
        self._inputs: dict[Hashable, list[Tensor]] = {}

    def step(self, item: Any) -> None:
        """Make a step of the optimiser."""
        self._optimizer.zero_grad(set_to_none=True)
        self._loss(item).backward()
        self._before_step()
        self._optimizer.step()

    def finish_step(self, item: Any) -> None:
        """Count the step, advance the schedule, and call ``after``."""
        self.steps += 1
        if self._schedule is not None:
            self._schedule.step()
        self._after(self.steps, item)

    def prepare_to_record(self) -> None:
        """Move the learning rates to the device, before the first step.

        Raises:
            CannotRecord: Steps of this optimiser cannot be recorded.
        """
        kind, groups = type(self._optimizer), self._optimizer.param_groups
        weights = [weight for group in groups for weight in group["params"]]
        ours = kind is torch.optim.SGD or all("capturable" in group for group in groups)
        if kind.__module__.partition(".")[0] != "torch" or not ours:
            raise CannotRecord(f"steps of the optimiser {kind.__name__} cannot be recorded")
        if self._optimizer.state or any(weight.is_complex() for weight in weights):
            raise CannotRecord("an optimiser that has made steps, or has complex weights, cannot be recorded")
        for group in groups:
            if kind is torch.optim.SGD:
                group["fused"], group["foreach"] = True, False  # its other kernels read the learning rate on the CPU
            else:
                group["capturable"] = True
        self._rates = [torch.zeros((), device=self.device) for _ in groups]
        self._fixed = [_fixed(group) for group in groups]

    def load(self, form: Hashable, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None]]:
        """Copy the learning rates to where recorded steps read them; the caller copies the item's tensors.

        Args:
            form: Of the item, by `taken_apart`.
            tensors: Those of the item.

        Returns:
            Where to copy them, and a function that runs the step on what is there.

        Raises:
            CannotRecord: The schedule changed a value that is fixed in a graph.
        """
        for group, rate, fixed in zip(self._optimizer.param_groups, self._rates, self._fixed, strict=True):
            if _fixed(group) != fixed:
                raise CannotRecord("the schedule changes more than the learning rate")
            rate.fill_(group["lr"])
        if form not in self._inputs:
            self._inputs[form] = [torch.empty_like(tensor) for tensor in tensors]
        held = self._inputs[form]
        return held, lambda: self._step_at_rates(put_together(form, iter(held)))

    def close(self) -> None:
        """Let go of what a graph held: its memory is freed with it."""
        self._inputs.clear()
        self._after = lambda steps, item: None
        if self._rates:
            self._optimizer.zero_grad(set_to_none=True)

    def _step_at_rates(self, item: Any) -> None:
        """Run a step with the learning rates on the device. This function is recorded."""
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
    """Run trainings side by side until all have ended.

    Each training ends with the weights that it would have alone. Unrecorded steps give them bit for bit. Recorded steps
    do so only if the choice of kernels does not depend on what else the GPU is doing.

    Args:
        trainings: At least one, all on one device. Of several, only their steps may draw global random numbers.
        record: Records steps; None runs them unrecorded.
    """
    launches = _Launches(trainings, record)
    left = list(trainings)
    try:
        while left:
            ready = [(training, item) for training in left if (item := launches.next_usual(training)) is not _END]
            if ready:
                launches.make(ready)
            left = [training for training, _ in ready]
    finally:
        for training in trainings:
            training.close()


class _Launches:
    """Runs steps, recorded or unrecorded.

    Args:
        trainings: All trainings of the group.
        record: As in `run`.
    """

    def __init__(self, trainings: Sequence[Training], record: Record | None) -> None:
        self._several = len(trainings) > 1
        self._record = record
        self._usual: dict[int, Hashable] = {}
        self._warm: Counter[tuple[int, Hashable]] = Counter()
        self._graphs: dict[tuple[Hashable, ...], tuple[Graph, list[Counts], list[Counts]]] = {}
        if record is not None:
            try:
                for training in trainings:
                    training.prepare_to_record()
            except CannotRecord as why:
                self._stop_recording(why)

    def next_usual(self, training: Training) -> Any:
        """Return the next item that has the form of the training's first item, or `_END`. Others before it run alone.

        The short last batch of an epoch comes at a different step in each training. If it were run in the group, every
        combination would need its own graph.
        """
        while (item := next(training.items, _END)) is not _END and self._record is not None:
            try:
                form, _ = taken_apart(item, training.device)
            except CannotRecord as why:
                self._stop_recording(why)
                break
            if self._usual.setdefault(id(training), form) == form:
                break
            self.make([(training, item)])
        return item

    def make(self, ready: Sequence[tuple[Training, Any]]) -> None:
        """Make a step of each training on its item."""
        if self._record is None or not self._replayed(self._record, ready):
            for training, item in ready:
                with training.random if self._several else nullcontext():
                    training.step(item)
        for training, item in ready:
            training.finish_step(item)

    def _replayed(self, record: Record, ready: Sequence[tuple[Training, Any]]) -> bool:
        """Run the steps with a graph; return False if they are to run unrecorded."""
        before = counted()
        try:
            apart = [taken_apart(item, training.device) for training, item in ready]
            key = tuple((id(training), form) for (training, _), (form, _) in zip(ready, apart, strict=True))
            if any(self._warm[each] < WARM for each in key):
                self._warm.update(key)
                return False
            loaded = [training.load(*of) for (training, _), of in zip(ready, apart, strict=True)]
            if inputs := [tensor for _, tensors in apart for tensor in tensors]:
                torch._foreach_copy_([place for places, _ in loaded for place in places], inputs)
            if key in self._graphs:
                graph, first, last = self._graphs[key]
                count_again(first, last)
            else:
                if len(self._graphs) == GRAPHS:
                    raise CannotRecord(f"the items have more than {GRAPHS} forms")
                own = [training.random if self._several else None for training, _ in ready]
                graph = record(list(zip(own, (step for _, step in loaded), strict=True)))
                self._graphs[key] = graph, before, counted()
        except CannotRecord as why:
            count_back(before)
            self._stop_recording(why)
            return False
        graph.replay()
        return True

    def _stop_recording(self, why: CannotRecord) -> None:
        self._record = None
        self._graphs.clear()
        warnings.warn(
            f"training on the GPU without CUDA graphs, which is slower: {why}", StepsNotRecorded, stacklevel=4
        )


@contextmanager
def recording() -> Iterator[None]:
    """Enter this around each step that is recorded, within its random numbers.

    Raises:
        CannotRecord: It draws random numbers on the CPU: a graph would go on using what was drawn once.
    """
    before = host_state()
    try:
        yield
        if _differs(before, host_state()):
            raise CannotRecord("the steps draw random numbers on the CPU")
    except BaseException:
        set_host_state(before)
        raise


def host_state() -> tuple[Any, ...]:
    """Return the state of the CPU's global generators: Python's, torch's and, where it is loaded, numpy's."""
    numpy = sys.modules.get("numpy")
    return random.getstate(), torch.get_rng_state(), numpy.random.get_state() if numpy else None


def set_host_state(state: tuple[Any, ...]) -> None:
    """Restore a state that `host_state` returned."""
    python, of_torch, of_numpy = state
    random.setstate(python)
    torch.set_rng_state(of_torch)
    if of_numpy is not None:
        sys.modules["numpy"].random.set_state(of_numpy)


def _differs(state: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (python, of_torch, of_numpy), (python2, of_torch2, of_numpy2) = state, other
    if python != python2 or not torch.equal(of_torch, of_torch2):
        return True
    if of_numpy is None or of_numpy2 is None:
        return of_numpy is not of_numpy2
    return any((a != b).any() if hasattr(a, "any") else a != b for a, b in zip(of_numpy, of_numpy2, strict=True))


def _default(device: torch.device) -> torch.Generator:
    return torch.cuda.default_generators[device.index or 0]


def _fixed(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a parameter group that are fixed in a graph."""
    return {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}


def taken_apart(item: Any, device: torch.device) -> tuple[Hashable, list[Tensor]]:
    """Return the form of an item, and its tensors. Items of equal form can share a graph.

    Raises:
        CannotRecord: It holds what a graph cannot be given: a tensor elsewhere, or an object.
    """
    if isinstance(item, Tensor):
        if item.device != device:
            raise CannotRecord(f"an item holds a tensor on the {item.device.type.upper()}")
        return (tuple(item.shape), item.dtype), [item]
    if isinstance(item, Batch):
        parts = (*item.inputs.values(), item.labels, item.index, item.longest, item.zero)
        form, tensors = taken_apart(parts, device)
        return ("batch", tuple(item.inputs), form), tensors
    if type(item) is tuple:
        apart = [taken_apart(each, device) for each in item]
        return ("tuple", *(form for form, _ in apart)), [tensor for _, tensors in apart for tensor in tensors]
    if not isinstance(item, str | int | float | frozenset | None):
        raise CannotRecord(f"an item holds a {type(item).__name__}")
    return ("value", item), []


def put_together(form: Any, tensors: Iterator[Tensor]) -> Any:
    """Rebuild an item from its form and its tensors."""
    match form:
        case ("batch", names, parts):
            *inputs, labels, index, longest, zero = put_together(parts, tensors)
            return Batch(dict(zip(names, inputs, strict=True)), labels, index, longest, zero)
        case ("tuple", *parts):
            return tuple(put_together(part, tensors) for part in parts)
        case ("value", value):
            return value
    return next(tensors)
