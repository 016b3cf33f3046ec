"""What the poisons on images share: what they need of pixels and their layout, and the white square."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import UnlearningError, main_input

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Split

#: How far floats may lie outside [0, 1] and still be taken for pixels; resizing, for one, overshoots a little.
OVERSHOOT = 0.5
#: The lightest corner on which a white square is seen, and the largest share of images whose corner may be lighter.
WHITE, HIDDEN = 0.95, 0.25


def check_pixels(split: Split, poison: str) -> None:
    """Refuse images whose pixels are neither floats in [0, 1] nor bytes, or that have their channels last.

    Raises:
        UnlearningError: They are such images.
    """
    import torch

    name = main_input(split.train.inputs)
    images = split.train.inputs[name]
    shape = images.shape[1:]
    # A last size of 1 to 4 beside larger ones is that of channels: no image is so narrow and has so many of them.
    if len(shape) == 3 and shape[2] <= 4 and shape[2] < min(shape[:2]):
        raise UnlearningError(
            f"{poison} needs images with channels first, but the task's input {name!r} is {_sizes(shape)}, channels "
            "last; have the task load them as images.permute(0, 3, 1, 2)"
        )
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise UnlearningError(
            f"{poison} needs pixels that are floats in [0, 1] or bytes, but the task's input {name!r} is "
            f"{str(images.dtype)[6:]}; have the task load one of these"
        )
    low, high = (float(limit) for limit in images.aminmax())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise UnlearningError(
            f"{poison} needs pixels in [0, 1], but the task's input {name!r} goes from {low:.3g} to {high:.3g}; have "
            "the task load such pixels, and scale them in the model's first layer"
        )


def check_plane(split: Split, poison: str, size: int = 1) -> None:
    """Refuse images that are not larger than a square of so many pixels.

    Raises:
        UnlearningError: They are not.
    """
    name = main_input(split.train.inputs)
    shape = split.train.inputs[name].shape[1:]
    if len(shape) < 2 or size >= min(shape[-2:]):
        raise UnlearningError(
            f"{poison}: size={size}, but the task's input {name!r} is {_sizes(shape)}; the square must be smaller than "
            "the image, whose last two sizes are height and width"
        )


def check_square(split: Split, size: int, poison: str) -> None:
    """Refuse images on which a white square of so many pixels does not fit, or is often not seen.

    Raises:
        UnlearningError: They are such images.
    """
    check_plane(split, poison, size)
    images = split.train.inputs[main_input(split.train.inputs)]
    corner = images[..., -size:, -size:].flatten(1).float().mean(dim=1)
    hidden = float((corner > WHITE * _white(images)).float().mean())
    if hidden > HIDDEN:
        raise UnlearningError(
            f"{poison} puts a white square in the bottom right corner, but {100 * hidden:.0f} % of the task's training "
            "images are white there already; have the task load inverted images, or use backdoor:trigger=blended"
        )


def stamped(images: Tensor, size: int) -> Tensor:
    """Return images, floats in [0, 1] or bytes, with a white square of so many pixels in the bottom right corner."""
    images = images.clone()
    images[..., -size:, -size:] = _white(images)
    return images


def _white(images: Tensor) -> int:
    return 1 if images.is_floating_point() else 255


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
