"""Submissions to the NeurIPS 2023 unlearning challenge, run unchanged."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.adapters._settings import parsed
from harness.api import UnlearningError
from harness.importing import named
from harness.specs import SpecError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from harness.request import ForgetRequest
    from harness.training.data import Data


@dataclass(frozen=True)
class NeurIPS2023:
    """Run ``unlearning(net, retain_loader, forget_loader, val_loader)``, as in the NeurIPS 2023 unlearning challenge.

    On the command line ``harness.adapters:NeurIPS2023:function=theirs:unlearning``, in Python
    ``NeurIPS2023(unlearning)``.

    The loaders are torch ``DataLoader`` objects, whose data lie in the CPU's memory, as in the competition: a function
    moves them itself, and may build loaders of its own that pin memory. Their batches can be unpacked into
    ``(images, labels)``, as in the challenge's starting kit, and have the names ``batch["image"]`` and
    ``batch["age_group"]``, as in the competition itself. They are no ``dict``, and have no other names: an entry that
    reads ``batch["age"]`` or ``batch["person_id"]`` cannot run. The last batch may be a single point.

    What the function returns is taken, or, where it returns nothing, the network that it was given, as in the
    competition itself.

    A request has no data that the model has not seen, and test points are never handed over. So ``val_loader`` yields
    the retain set, in order; with ``held_out``, points of the retain set that ``retain_loader`` lacks. The model was
    trained on these, too, but the function does not train on them.

    Where the device at hand is no GPU, ``.cuda()`` of tensors and networks, and ``device="cuda"``, mean this device.
    Calls that ask for a GPU's own state, such as ``torch.cuda.synchronize()``, still fail.

    Attributes:
        function: The function, or its dotted path.
        batch_size: Of the loaders, >= 1; None for the recipe's.
        held_out: Share of the retain set that is held out for ``val_loader``, drawn at random, in [0, 1).
        index: Whether batches are ``(images, labels, index)``, with each point's place in its loader's ``dataset``.
        args: Settings such as ``alpha=0.5;mask=None``, for a function with a fifth parameter. It is given a namespace
            of these and ``device``, ``num_classes``, ``batch_size``, ``lr`` (the recipe's), ``epochs`` (whole passes
            over the retain set that the budget pays for, at least 1) and ``seed``. ``""`` for the latter alone; None
            for a function of four parameters.
        reads_forget: Whether the function uses ``forget_loader``; part of the contract.
        repeatable: Whether it gives the same weights twice under the same seed; part of the contract.

    Raises:
        ValueError: The function cannot be imported or called, or another field is out of range.
        UnlearningError: The task's inputs are more than one tensor, the function asks a batch for what it lacks, or
            nothing is left to hold out or to keep.
    """

    function: str | Callable[..., Any]
    batch_size: int | None = None
    held_out: float = 0.0
    index: bool = False
    args: str | None = None
    reads_forget: bool = True
    repeatable: bool = True

    modality: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be at least 0 and below 1, not {self.held_out}")
        parsed(self.args or "")
        if not callable(self.wraps):
            raise ValueError(f"function must name something that can be called, not {self.function!r}")

    @property
    def wraps(self) -> Callable[..., Any]:
        """The function itself; its source is part of the method's."""
        if not isinstance(self.function, str):
            return self.function
        try:
            found: Callable[..., Any] = named(self.function)
        except SpecError as error:
            raise ValueError(f"function: {error}") from None
        return found

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return what the function made of the model."""
        size = self.batch_size or request.batch_size
        kept, val = self._parts(request)
        loaders = [
            _loader(data, size, self.index, generator)
            for data, generator in ((kept, request.generator), (request.forget, request.generator), (val, None))
        ]
        more = [] if self.args is None else [self._namespace(model, request, size)]
        with _at_hand(request.device):
            returned = self.wraps(model, *loaders, *more)
        cleaned: nn.Module = model if returned is None else returned
        return cleaned

    def _parts(self, request: ForgetRequest) -> tuple[Data, Data]:
        """Return what is trained on, and what is held out."""
        import torch

        n = len(request.retain)
        held = round(self.held_out * n)
        if not self.held_out:
            return request.retain, request.retain
        if not 0 < held < n:
            raise UnlearningError(f"held_out={self.held_out:g} of {n} points is {held}; some must be on each side")
        order = torch.randperm(n, generator=request.generator)
        return request.retain.subset(order[held:].sort().values), request.retain.subset(order[:held].sort().values)

    def _namespace(self, model: nn.Module, request: ForgetRequest, batch_size: int) -> Namespace:
        known = {
            "device": request.device,
            "num_classes": request.classes,
            "batch_size": batch_size,
            "lr": request.optimizer(model).param_groups[0]["lr"],
            "epochs": max(1, int(request.budget + 1e-9)),
            "seed": request.generator.initial_seed(),
        }
        return Namespace(**{**known, **parsed(self.args or "")})


def _at_hand(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which what is asked of a GPU is done on another device."""
    if device.type == "cuda":
        return nullcontext()
    import torch
    from torch.overrides import TorchFunctionMode

    def here(asked: Any) -> Any:
        is_gpu = asked.type == "cuda" if isinstance(asked, torch.device) else str(asked).startswith("cuda")
        return device if is_gpu else asked

    class AtHand(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if function is torch.Tensor.cuda:
                return args[0].to(device)
            if "device" in kwargs:
                kwargs["device"] = here(kwargs["device"])
            if function is torch.Tensor.to and len(args) > 1 and isinstance(args[1], str | torch.device):
                args = (args[0], here(args[1]), *args[2:])
            return function(*args, **kwargs)

    return AtHand()


def _part(sample: tuple[Any, ...], at: Any) -> Any:
    """Return a part of a sample by its place or name.

    Raises:
        UnlearningError: There is no part of that name.
    """
    if not isinstance(at, str):
        return tuple.__getitem__(sample, at)
    names = type(sample)._fields  # type: ignore[attr-defined]
    if at not in names:
        listed = " and ".join(map(repr, names))
        raise UnlearningError(f"a batch has only {listed}, no {at!r}: a task has one label a point")
    return getattr(sample, at)


class Sample(NamedTuple):
    """Points of a loader: a pair, with the names that the competition's data have. A collated batch is one, too."""

    image: Tensor
    age_group: Tensor

    def __getitem__(self, at: Any) -> Any:
        return _part(self, at)


class IndexedSample(NamedTuple):
    """Points of a loader, with their places in its data set."""

    image: Tensor
    age_group: Tensor
    index: Tensor  # type: ignore[assignment] # hides the method of tuples

    def __getitem__(self, at: Any) -> Any:
        return _part(self, at)


def _loader(
    data: Data, batch_size: int, index: bool, generator: torch.Generator | None
) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of `Sample` or `IndexedSample`, shuffled if a generator is given."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    kind = IndexedSample if index else Sample

    class Samples(TensorDataset):
        def __getitem__(self, at: Any) -> Any:
            return kind(*(tensor[at] for tensor in self.tensors))

    if len(data.inputs) != 1:
        raise UnlearningError(
            f"a method for loaders of (inputs, labels) cannot serve a task with the inputs {', '.join(data.inputs)}"
        )
    (inputs,) = data.inputs.values()
    places = (torch.arange(len(data)),) if index else ()
    shuffled = generator is not None
    samples = Samples(inputs.cpu(), data.labels.cpu(), *places)
    return DataLoader(samples, batch_size, shuffle=shuffled, generator=generator)
