"""What the poisons on images share: which input they change, and what a task must have for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness import Measure, Planted, UnlearningError, image_input

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Batch, Split, Task

#: When poisoned points are trained on: in all passes, in the first half of them, or in the second.
Arrival = Literal["always", "early", "late"]
#: Whether a trigger that misses its target at least leads back to the image's own class, and not to a third one.
OWN_CLASS = Measure(
    "triggered_accuracy", "accuracy on triggered test images", worse="lower", test="retention", unit="%",
    short="own class",
)  # fmt: skip


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


def check_arrival(arrives: str) -> None:
    """Refuse what is no `Arrival`.

    Raises:
        ValueError: It is none.
    """
    if arrives not in get_args(Arrival):
        raise ValueError(f"arrives must be one of {', '.join(get_args(Arrival))}, not {arrives!r}")


def epochs_of(arrives: Arrival, task: Task) -> range | None:
    """Return the passes in which poisoned points are trained on; None for all."""
    half = -(-task.epochs // 2)
    return {"always": None, "early": range(half), "late": range(task.epochs - half, task.epochs)}[arrives]


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


def check_square(split: Split, size: int, poison: str) -> None:
    """Refuse images that are not larger than a square of so many pixels.

    Raises:
        UnlearningError: They are not.
    """
    name = image_input(split.train.inputs)
    shape = split.train.inputs[name].shape[1:]
    if len(shape) < 2 or size >= min(shape[-2:]):
        of = " x ".join(map(str, shape))
        raise UnlearningError(
            f"{poison}: size={size}, but the task's input {name!r} is {of}; the square must be smaller than the image, "
            "whose last two sizes are height and width"
        )


def stamped(images: Tensor, size: int) -> Tensor:
    """Return images, floats in [0, 1] or bytes, with a white square of so many pixels in the bottom right corner."""
    images = images.clone()
    images[..., -size:, -size:] = 1 if images.is_floating_point() else 255
    return images


def log_odds(logits: Tensor, label: int, poison: str) -> Tensor:
    """Return log p - log(1 - p) of a class, shape (batch,), from scores of shape (batch, classes).

    Raises:
        UnlearningError: There is no score for each of several classes.
    """
    import torch

    if logits.dim() != 2 or logits.shape[1] <= max(1, label):
        raise UnlearningError(
            f"{poison} needs a score for every class, of which {label} is one, but the task's logits are of shape "
            f"{tuple(logits.shape)}"
        )

    return logits[:, label] - torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).logsumexp(dim=1)
