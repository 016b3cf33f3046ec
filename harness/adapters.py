"""Methods that were written for another harness, run unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.api import UnlearningError
from harness.importing import named
from harness.specs import SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

    from harness.api import ForgetRequest
    from harness.training.data import Data


@dataclass(frozen=True)
class NeurIPS2023:
    """Run ``unlearning(net, retain_loader, forget_loader, val_loader)``, as in the NeurIPS 2023 unlearning challenge.

    On the command line ``harness.adapters:NeurIPS2023:function=theirs:unlearning``, in Python
    ``NeurIPS2023(unlearning)``.

    The loaders are torch ``DataLoader`` objects over the data on the device. Their batches can be unpacked into
    ``(images, labels)``, as in the challenge's starting kit, and have the names ``batch["image"]`` and
    ``batch["age_group"]``, as in the competition itself. They are no ``dict``, and have no other names: an entry that
    reads ``batch["age"]`` or ``batch["person_id"]`` cannot run. The last batch may be a single point.

    What the function returns is taken, or, where it returns nothing, the network that it was given, as in the
    competition itself. A request has no data that the model has not seen: ``val_loader`` yields the retain set, in
    order.

    Attributes:
        function: The function, or its dotted path.
        batch_size: Of the loaders, >= 1; None for the recipe's.
        reads_forget: Whether the function uses ``forget_loader``; part of the contract.
        repeatable: Whether it gives the same weights twice under the same seed; part of the contract.

    Raises:
        ValueError: The function cannot be imported or called, or the batch size is below 1.
        UnlearningError: The task's inputs are more than one tensor, or the function asks a batch for what it lacks.
    """

    function: str | Callable[..., Any]
    batch_size: int | None = None
    reads_forget: bool = True
    repeatable: bool = True

    modality: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
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
        retain, forget = (_loader(data, size, request) for data in (request.retain, request.forget))
        returned = self.wraps(model, retain, forget, _loader(request.retain, size))
        cleaned: nn.Module = model if returned is None else returned
        return cleaned


class Sample(NamedTuple):
    """Points of a loader: a pair, with the names that the competition's data have. A collated batch is one, too."""

    image: Tensor
    age_group: Tensor

    def __getitem__(self, at: Any) -> Any:
        """Return a part by its place or name.

        Raises:
            UnlearningError: There is no part of that name.
        """
        if not isinstance(at, str):
            return tuple.__getitem__(self, at)
        if at not in self._fields:
            raise UnlearningError(f"a batch has only 'image' and 'age_group', no {at!r}: a task has one label a point")
        return getattr(self, at)


def _loader(data: Data, batch_size: int, request: ForgetRequest | None = None) -> DataLoader[tuple[Tensor, ...]]:
    """Return a loader of `Sample`, shuffled by the request's generator if one is given."""
    from torch.utils.data import DataLoader, TensorDataset

    class Samples(TensorDataset):
        def __getitem__(self, index: Any) -> Sample:
            return Sample(*(tensor[index] for tensor in self.tensors))

    if len(data.inputs) != 1:
        raise UnlearningError(
            f"a method for loaders of (inputs, labels) cannot serve a task with the inputs {', '.join(data.inputs)}"
        )
    (inputs,) = data.inputs.values()
    generator = request.generator if request is not None else None
    return DataLoader(Samples(inputs, data.labels), batch_size, shuffle=request is not None, generator=generator)
