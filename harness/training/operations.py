"""Floating-point operations, counted where torch computes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils.flop_counter import flop_registry

#: A dispatch key that every call passes below autograd and vmap, in every thread, and none of these operators uses.
_KEY = torch._C.DispatchKey.BackendSelect
_BELOW = torch._C._dispatch_keyset_full_after(_KEY)
#: Both compute nothing beside ``aten::_convolution``: one calls it, and the other is what it calls on a CPU.
_WITHIN = (torch.ops.aten.convolution, torch.ops.aten._slow_conv2d_forward)


class Operations:
    """Counts the floating-point operations of this process while it is entered.

    Counted are the operators that ``torch.utils.flop_counter`` has formulas for: matrix products, convolutions and
    attention, a product and its sum as two. Each of these operators reports what it computes; all others run at full
    speed, which a dispatch mode would not let them do. So it does not matter who calls them: modules, functions,
    backward passes, ``vmap``, traced modules or other threads. Meanwhile `torch.compile` compiles nothing, because
    compiled code does not pass the operators.

    Attributes:
        total: Operations so far.
    """

    def __init__(self) -> None:
        self.total = 0

    def __enter__(self) -> Operations:
        if not _counting:
            _register()
        _counting.append(self)
        self._eager = _eager()
        self._eager.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._eager.__exit__(*exc)
        _counting.remove(self)
        if not _counting:
            _deregister()


_counting: list[Operations] = []
_libraries: dict[str, torch.library.Library] = {}  # by namespace, while anything is counted


class _Inside(threading.local):
    operator = False


_inside = _Inside()


def _register() -> None:
    for packet, formula in list(flop_registry.items()):
        if isinstance(packet, OpOverloadPacket) and packet not in _WITHIN:
            for name in packet.overloads():
                op = getattr(packet, name)
                if op.namespace not in _libraries:
                    _libraries[op.namespace] = torch.library.Library(op.namespace, "IMPL")
                _libraries[op.namespace].impl(op, _reporting(op, formula), _KEY.name, with_keyset=True)


def _deregister() -> None:
    for library in _libraries.values():
        library._destroy()
    _libraries.clear()


def _reporting(op: OpOverload, formula: Callable[..., int]) -> Callable[..., Any]:
    """Return the operator's kernel that reports what it computed."""
    of_shapes = getattr(formula, "__wrapped__", None)  # without the search for tensors in nested arguments

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any, **kwargs: Any) -> Any:
        # Within an operator that is counted as a whole; or sizes would become part of a trace.
        if _inside.operator or torch._C._is_tracing():
            return op.redispatch(keyset & _BELOW, *args, **kwargs)
        _inside.operator = True
        try:
            result = op.redispatch(keyset & _BELOW, *args, **kwargs)
        finally:
            _inside.operator = False
        try:
            if of_shapes is None:
                found = formula(*args, **kwargs, out_val=result)
            else:
                named = {name: _shape(each) for name, each in kwargs.items()} if kwargs else kwargs
                out = tuple(map(_shape, result)) if isinstance(result, tuple) else _shape(result)
                found = of_shapes(*map(_shape, args), **named, out_shape=out)
        except RuntimeError:  # nested tensors have no shape, and are not counted
            found = 0
        for each in _counting:
            each.total += found
        return result

    return kernel


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, Tensor) else value


def _eager() -> AbstractContextManager[Any]:
    """Return the context in which `torch.compile` compiles nothing; torch before 2.6 has none."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance is not None else nullcontext()
