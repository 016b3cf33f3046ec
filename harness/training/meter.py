"""What an unlearner's compute was, measured and not declared."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.modules import module as global_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from harness.api import Batch
from harness.training.clock import now, worked
from harness.training.operations import Operations

#: How many values are looked at for the tensors in nested arguments.
WALK = 1000
_PLAIN = (str, bytes, int, float, complex, type(None), type, nn.Module, FunctionType, MethodType, ModuleType)


class Meter:
    """Counts examples through models while it is entered, in units of one example forward and backward.

    A forward pass costs 1/3 and a backward pass 2/3 of an example (the backward pass computes two matrix products
    where the forward pass computes one). Counted by hooks on every outermost module call in the process, so that
    copies, teachers and freshly built models count too. A call of a part of a model counts by its share of the
    reference's parameters; modules without parameters (losses, activations) are free. A forward pass that a gradient
    goes through pays for one more, by which torch's checkpointing (not the reentrant one) computes in the backward pass
    what it did not keep. This shows in operations and CPU time alone, of unlearning and of retraining.

    What escapes the count of examples: arithmetic outside of modules (a network written out by hand), a batch dimension
    that is not the first (under ``vmap`` every call looks like one example), a loop within one call, and what was
    computed before or in another process. All but the last show in the operations; what another process computes, or
    numpy, shows in CPU time.

    Args:
        reference: The model of the task; a call of as many parameters counts as one.
        operations: Whether floating-point operations are counted; if not, ``flops`` stays 0.

    Attributes:
        examples: Cost so far.
        steps: Steps of any ``torch.optim`` optimiser.
        seconds: Wall time between enter and exit, the device's work included.
        cpu_seconds: CPU time of the process and its children between enter and exit; on a GPU, ``seconds``.
    """

    def __init__(self, reference: nn.Module, operations: bool = True) -> None:
        self.examples = 0.0
        self.steps = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._operations = Operations()
        self._counts_operations = operations
        self._size = max(1, _size(reference))
        self._on_gpu = any(parameter.is_cuda for parameter in reference.parameters())
        self._stepping: set[int] = set()
        self._repeatable = 0.0  # forward passes that checkpointing may make once more, in examples

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products, convolutions and attention, a product and its sum as two."""
        return self._operations.total

    def add_flops(self, flops: int) -> None:
        """Count so many operations more."""
        if self._counts_operations:
            self._operations.total += flops

    def __enter__(self) -> Meter:
        self._open = ExitStack()
        if not _meters:
            _await_call()
        _meters.append(self)
        self._open.callback(self._leave)
        self._open.callback(register_optimizer_step_pre_hook(self._step_begins).remove)
        self._open.callback(register_optimizer_step_post_hook(self._step_ends).remove)
        if self._counts_operations:
            self._open.enter_context(self._operations)
        self._started, self._worked = now(), worked(self._on_gpu)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.seconds, self.cpu_seconds = now() - self._started, worked(self._on_gpu) - self._worked
        finally:  # the method's time may run out just now
            self._open.close()

    def _leave(self) -> None:
        _meters.remove(self)
        if not _meters:
            _hook.remove()

    def _step_begins(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._stepping.add(id(optimizer))

    def _step_ends(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        # The step of a derived optimiser calls that of its base, and torch's hooks run in both.
        self.steps += id(optimizer) in self._stepping
        self._stepping.discard(id(optimizer))

    def _forward(self, cost: float, learned: bool, again: bool) -> None:
        if again:
            free = min(cost, self._repeatable)
            self._repeatable -= free
            cost -= free
        elif learned:
            self._repeatable += cost
        self.examples += cost / 3

    def _backward(self, cost: float) -> None:
        self.examples += cost * 2 / 3


_meters: list[Meter] = []  # those that are entered
#: The one hook of them all: on whatever is called next, or on what is running. If each had its own, one would be taken
#: away while torch goes through those of a forward pass that raised, and that would be the error.
_hook: RemovableHandle


def _await_call() -> None:
    global _hook
    _hook = global_hooks.register_module_forward_pre_hook(_before)


def _before(module: nn.Module, args: Any) -> None:
    global _hook
    if torch._C._is_tracing():
        return  # sizes would become part of the trace
    if args and module._modules and _batch(args) is None:
        return  # what it was given tells no batch: the calls within it do
    # One hook at a time: until the outermost call returns, the calls within it are made at full speed.
    _hook.remove()
    _hook = module.register_forward_hook(_after, with_kwargs=True, always_call=True)


def _after(module: nn.Module, args: Any, kwargs: Any, result: Any = None) -> None:
    # Where the forward pass raised, torch leaves the keywords out.
    _hook.remove()
    _await_call()
    size = (_batch((*args, *(kwargs or {}).values(), result)) or 0) * _size(module)  # the result tells what they hide
    costs = [(each, size / each._size) for each in _meters]
    # A backward pass may go through one output and not another, such as scores beside a loss that is not used.
    outputs = [t for t in _leaves(result) if isinstance(t, Tensor) and t.requires_grad] if size else []
    again = _computed_again()
    for each, cost in costs:
        each._forward(cost, bool(outputs), again)

    def backward(grad: object) -> None:
        for each, cost in costs:
            each._backward(cost)

    if len(outputs) == 1:  # in half the time
        outputs[0].register_hook(backward)
    elif outputs:
        register_multi_grad_hook(outputs, backward, mode="any")


def _computed_again() -> bool:
    """Return whether this is torch's checkpointing, which computes in a backward pass what was not kept."""
    if torch._C._current_graph_task_id() == -1:  # no backward pass: nobody pays for the walk
        return False
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "unpack_hook" and frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
    return False


class Counts(NamedTuple):
    """What a meter counts."""

    examples: float
    steps: int
    flops: int


def counted() -> list[Counts]:
    """Return what each meter that is entered has counted so far."""
    return [Counts(each.examples, each.steps, each.flops) for each in _meters]


def count_back(before: Sequence[Counts]) -> None:
    """Have the meters that are entered forget what they counted since."""
    count_again(counted(), before)


def count_again(before: Sequence[Counts], after: Sequence[Counts]) -> None:
    """Have the meters that are entered count once more what they counted meanwhile.

    Whoever replays a step runs none of the hooks by which it is counted.
    """
    for each, first, last in zip(_meters, before, after, strict=True):
        each.examples += last.examples - first.examples
        each.steps += last.steps - first.steps
        each.add_flops(last.flops - first.flops)


def _batch(values: tuple[Any, ...]) -> int | None:
    """Return the first dimension of the first tensor that has one; None if none has."""
    return next((len(each) for each in _leaves(*values) if isinstance(each, Batch) or each.dim()), None)


def _leaves(*trees: Any) -> Iterator[Any]:
    """Yield the tensors and batches in nested arguments, in order: in containers, dataclasses and other objects.

    The walk is bounded, and ends at modules, whose tensors are weights.
    """
    left = list(reversed(trees))
    for _ in range(WALK):
        if not left:
            return
        each = left.pop()
        if isinstance(each, Tensor | Batch):
            yield each
        elif isinstance(each, Mapping):
            left.extend(_reversed(each.values()))
        elif isinstance(each, list | tuple | set | frozenset):
            left.extend(_reversed(each))
        elif not isinstance(each, _PLAIN):
            left.extend(_reversed(_attributes(each)))


def _reversed(values: Iterable[Any]) -> list[Any]:
    return list(islice(values, WALK))[::-1]


def _attributes(value: object) -> Iterator[Any]:
    """Yield what an object consists of: the values of its attributes."""
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield getattr(value, name)


def _size(module: nn.Module) -> int:
    """Return the number of a module's parameters: the sum over ``parameters()``, in a third of the time."""
    sizes: dict[int, int] = {}  # by identity: some are shared
    modules: list[nn.Module | None] = [module]
    for each in modules:
        if each is not None:
            modules.extend(each._modules.values())
            for parameter in each._parameters.values():
                if parameter is not None:
                    sizes[id(parameter)] = parameter.numel()
    return sum(sizes.values())
