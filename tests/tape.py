"""A CUDA graph's stand-in on a CPU: it stores the kernels of a step, and replays them without running any Python.

`harness.training.graphs.CUDAGraphs` stores kernels and addresses. So does a `Tape`, with the operators that torch
dispatches below autograd, backward pass and optimiser included. What CUDA cannot record, a tape refuses by a
`HostWaitError`. What a CUDA graph would not repeat, a tape does not repeat either: a counter, a branch, an attribute
that is set to a new tensor. So whoever trains by a tape as by calls has a step that a graph can hold. What remains to
be seen on a GPU is whether each kernel can be captured, and how fast it is.
"""

from contextlib import nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

#: Operators that read values of a GPU's tensor on the CPU, or whose result has as many elements as the values say.
WAITS = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default,
    aten.repeat_interleave.Tensor, aten.is_nonzero.default,
}  # fmt: skip
#: Functions of tensors whose result is on the CPU.
ON_CPU = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.item}


class Calls:
    """A plainer stand-in: a recording that calls what it recorded, and counts its launches in `recorded`."""

    def __init__(self):
        self.recorded = []

    def __call__(self, steps):
        self.recorded.append(len(steps))

        class Called:
            def replay(self):
                for randomness, step in steps:
                    with randomness or nullcontext():
                        step()

        return Called()


class HostWaitError(Exception):
    """A step does what cannot be recorded: it waits for the GPU, or copies from the CPU."""


class _Functions(TorchFunctionMode):
    """Refuses what torch does for tensors on a CPU without dispatching any operator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in ON_CPU:
            raise HostWaitError(f"Tensor.{func.__name__}() waits for the GPU")
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Runs operators, and notes each with its arguments and results."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in WAITS:
            raise HostWaitError(f"{func} waits for the GPU")
        if func is aten.lift_fresh.default and args[0].numel() and not args[0].is_meta:
            raise HostWaitError("a tensor is made of values on the CPU")
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            raise HostWaitError(f"{func} by a mask waits for the GPU")
        result = func(*args, **kwargs)
        self.notes.append((func, args, kwargs, result))
        return result


class Tape:
    """A `harness.training.engine.Record`, for tests.

    Attributes:
        recorded: The launches that were recorded, each by its number of steps.
        operators: How many operators they hold.
    """

    def __init__(self):
        self.recorded = []
        self.operators = 0

    def __call__(self, steps):
        # torch runs kernels to note them, a graph does not: so the first replay has been made already.
        launch = _Launch()
        for randomness, step in steps:
            notes = []
            with randomness or nullcontext(), _Functions(), _Operators(notes):
                step()
            launch.steps.append((randomness, notes))
            self.operators += len(notes)
        self.recorded.append(len(steps))
        return launch


class _Launch:
    def __init__(self):
        self.steps = []
        self.made = True

    def replay(self):
        if self.made:
            self.made = False
            return
        for randomness, notes in self.steps:
            with randomness or nullcontext(), torch.no_grad():
                for func, args, kwargs, before in notes:
                    _again(func, args, kwargs, before)


def _again(func, args, kwargs, before):
    """Run an operator again; what it returns goes to the addresses where others look for it."""
    given = {each.untyped_storage().data_ptr() for each in _tensors((args, kwargs))}
    for old, new in zip(_tensors(before), _tensors(func(*args, **kwargs)), strict=True):
        if old.untyped_storage().data_ptr() not in given:  # a view, or written in place: it is there already
            old.copy_(new)


def _tensors(tree):
    return [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]
