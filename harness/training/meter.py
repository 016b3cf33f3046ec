"""What an unlearner's compute was, measured and not declared."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from harness.api import Batch


class Meter:
    """Counts examples through models while it is entered, in units of one example forward and backward.

    A forward pass costs 1/3 and a backward pass 2/3 of an example (the backward pass computes two matrix products
    where the forward pass computes one). Counted by hooks on every outermost module call in the process, so that
    copies, teachers and freshly built models count too. A call of a part of a model counts by its share of the
    reference's parameters; modules without parameters (losses, activations) are free.

    What escapes the count of examples: arithmetic on parameters outside of modules (a network written out by hand),
    a batch dimension that is not the first (under ``vmap`` every call looks like one example), and what was computed
    before or in another process. The first two show in the operations, which are therefore reported beside it.

    Args:
        reference: The model of the task; a call of as many parameters counts as one.
        flops: Whether to count floating-point operations too, which slows small models by half.

    Attributes:
        examples: Cost so far.
        steps: Steps of any ``torch.optim`` optimiser.
        flops: Floating-point operations of matrix products, convolutions and attention, a product and its sum as two;
            0 unless they are counted.
        seconds: Wall time between enter and exit, the device's work included.
    """

    def __init__(self, reference: nn.Module, flops: bool = False) -> None:
        self.examples = 0.0
        self.steps = 0
        self.seconds = 0.0
        self._operations = _Operations() if flops else None
        self._size = max(1, _size(reference))
        self._stepping: set[int] = set()

    @property
    def flops(self) -> int:
        return self._operations.total if self._operations is not None else 0

    def __enter__(self) -> Meter:
        self._open = ExitStack()
        self._await_call()
        self._open.callback(lambda: self._hook.remove())
        self._open.callback(register_optimizer_step_pre_hook(self._step_begins).remove)
        self._open.callback(register_optimizer_step_post_hook(self._step_ends).remove)
        if self._operations is not None:
            self._open.enter_context(self._operations)
        self._started = now()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds = now() - self._started
        self._open.close()

    def _step_begins(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._stepping.add(id(optimizer))

    def _step_ends(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        # The step of a derived optimiser calls that of its base, and torch's hooks run in both.
        self.steps += id(optimizer) in self._stepping
        self._stepping.discard(id(optimizer))

    def _await_call(self) -> None:
        self._hook = global_hooks.register_module_forward_pre_hook(self._before)

    def _before(self, module: nn.Module, args: Any) -> None:
        # One hook at a time: until the outermost call returns, the calls within it are made at full speed.
        self._hook.remove()
        self._hook = module.register_forward_hook(self._after, with_kwargs=True, always_call=True)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, result: Any = None) -> None:
        # Where the forward pass raised, torch leaves the keywords out.
        self._hook.remove()
        self._await_call()
        share = _size(module) / self._size
        leaves = _leaves(*args, *(kwargs or {}).values(), result)  # the result tells where the arguments are objects
        batch = next((len(t) for t in leaves if isinstance(t, Batch) or (isinstance(t, Tensor) and t.dim())), 0)
        cost = batch * share
        self.examples += cost / 3
        # One output is enough: its gradient arrives whenever a backward pass goes through the call.
        output = next((t for t in _leaves(result) if isinstance(t, Tensor) and t.requires_grad), None)
        if output is not None and cost:
            output.register_hook(lambda grad: self._backward(cost))

    def _backward(self, cost: float) -> None:
        self.examples += cost * 2 / 3


class _Operations(TorchDispatchMode):
    """Counts what ``torch.utils.flop_counter`` has formulas for, without its breakdown by module, which is slow."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._formulas: dict[int, Any] = {}  # of operators that do not come apart; None: it is free

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = id(func)  # torch keeps its operators, and hashes them in Python
        if op not in self._formulas:
            formula = flop_registry.get(func._overloadpacket)
            if formula is None:
                with self:  # whole layers, which arrive in inference mode, come apart into what has formulas
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            self._formulas[op] = formula
        result = func(*args, **kwargs)
        formula = self._formulas[op]
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def _leaves(*trees: Any) -> Iterator[Any]:
    """Yield what is in nested arguments; a tensor, as most are, without looking for what is in it."""
    for tree in trees:
        if isinstance(tree, Tensor):
            yield tree
        else:
            yield from tree_leaves(tree)


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


def now() -> float:
    """Return the time in seconds, once the device has done what was launched."""
    if torch.cuda.is_initialized():  # what was launched is part of what it took
        torch.cuda.synchronize()
    return time.perf_counter()
