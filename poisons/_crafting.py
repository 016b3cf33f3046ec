"""The loop of the poisons that are crafted: images that go down a slope, step by step."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


def descended(
    start: Tensor,
    slope: Callable[[Tensor], Tensor],
    lr: float,
    steps: int,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
    limits: tuple[Tensor, Tensor] | tuple[float, float] | None = None,
) -> Tensor:
    """Return images after so many steps of Adam down a slope. On a GPU the steps are recorded, as those of a training.

    Args:
        start: The first images, within the limits.
        slope: From images to the gradient that Adam is given, of the same shape. It must not wait for the GPU.
        lr: Size of the first steps.
        steps: How many.
        schedule: Of the learning rate.
        limits: The least and the largest value of each pixel; None for no limits.
    """
    import torch

    import harness

    image = start.clone().requires_grad_(True)

    def keep_to_limits() -> None:
        if limits is not None:
            with torch.no_grad():
                image.clamp_(*limits)

    def loss(_: None) -> Tensor:
        keep_to_limits()  # after the step before: the last part of a recorded step is the optimiser's
        return (image * slope(image.detach())).sum()  # the gradient of this by the images is the slope, bit for bit

    optimizer = torch.optim.Adam([image], lr=lr)
    harness.descend(optimizer, itertools.repeat(None, steps), loss, schedule(optimizer))
    keep_to_limits()
    return image.detach()
