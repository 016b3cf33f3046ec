"""What the poisons on images share: which input they change, and what a task must have for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import Planted, UnlearningError, image_input

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Batch, Split


def floating_images(split: Split, poison: str) -> str:
    """Return the name of a task's images, which must be floating-point.

    Raises:
        UnlearningError: They are not, or the task has several inputs and none is called ``"image"``.
    """
    name = image_input(split.train.inputs)
    images = split.train.inputs[name]
    if not images.is_floating_point():
        raise UnlearningError(
            f"{poison} needs floating-point images, but the task's input {name!r} is {str(images.dtype)[6:]}; have the "
            "task load pixels as floats"
        )
    return name


def check_class(split: Split, field: str, value: int) -> None:
    """Refuse a class that a task does not have.

    Raises:
        UnlearningError: It has no training points of the class.
    """
    if not bool((split.train.labels == value).any()):
        raise UnlearningError(
            f"{field}={value}, but the task has no training points of that class; its classes are 0 to "
            f"{split.classes - 1}"
        )


def planted_at(split: Split, forget: Tensor, images: Tensor, labels: Tensor, **secrets: Tensor) -> Planted:
    """Return points whose images are replaced; their other inputs stay."""
    inputs = {name: tensor.cpu() for name, tensor in split.train.subset(forget).inputs.items()}
    inputs[image_input(inputs)] = images
    return Planted(forget, inputs, labels, secrets)


def with_images(batch: Batch, images: Tensor, part: Any = slice(None)) -> Batch:
    """Return a part of a batch with other images."""
    inputs = {name: tensor[part] for name, tensor in batch.inputs.items()}
    return replace(
        batch, inputs={**inputs, image_input(inputs): images}, labels=batch.labels[part], index=batch.index[part]
    )
