"""What an unlearner's compute was, measured and not declared."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils._pytree import tree_leaves

from harness.api import Batch


class Meter:
    """Counts examples through models while it is entered, in units of one example forward and backward.

    A forward pass costs 1/3 and a backward pass 2/3 of an example (the backward pass computes two matrix products
    where the forward pass computes one). Counted by hooks on every outermost module call in the process, so that
    copies, teachers and freshly built models count too. A call of a part of a model counts by its share of the
    reference's parameters; modules without parameters (losses, activations) are free.

    What escapes: arithmetic on parameters outside of modules (Fisher matrices by hand, ``torch.func`` on raw
    tensors), and a batch dimension that is not the first.

    Args:
        reference: The model of the task; a call of as many parameters counts as one.

    Attributes:
        examples: Cost so far.
        seconds: Wall time between enter and exit.
    """

    def __init__(self, reference: nn.Module) -> None:
        self.examples = 0.0
        self.seconds = 0.0
        self._size = max(1, sum(p.numel() for p in reference.parameters()))
        self._depth = 0

    def __enter__(self) -> Meter:
        self._started = time.perf_counter()
        self._handles = [
            global_hooks.register_module_forward_pre_hook(self._before),
            global_hooks.register_module_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self.seconds = time.perf_counter() - self._started

    def _before(self, module: nn.Module, args: Any) -> None:
        self._depth += 1

    def _after(self, module: nn.Module, args: Any, kwargs: Any, result: Any = None) -> None:
        # Where the forward pass raised, torch leaves the keywords out.
        self._depth -= 1
        if self._depth:
            return
        share = sum(p.numel() for p in module.parameters()) / self._size
        leaves = tree_leaves((args, kwargs, result))  # the result tells where the arguments are objects
        batch = next((len(t) for t in leaves if isinstance(t, Batch) or (isinstance(t, Tensor) and t.dim())), 0)
        cost = batch * share
        self.examples += cost / 3
        # One output is enough: its gradient arrives whenever a backward pass goes through the call.
        output = next((t for t in tree_leaves(result) if isinstance(t, Tensor) and t.requires_grad), None)
        if output is not None and cost:
            output.register_hook(lambda grad: self._backward(cost))

    def _backward(self, cost: float) -> None:
        self.examples += cost * 2 / 3
