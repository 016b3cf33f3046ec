"""Gradient matching: images whose training moves a model as training on others would.

Source: Geiping et al., "Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching" (arXiv 2009.02276);
`poisons.targeted` has the reference code and the deviations from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import Batch, UnlearningError, main_input
from poisons._crafting import descended
from poisons._points import with_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor, nn

    from harness import Task

#: Poison images whose gradient is matched at once, as in the reference code.
BATCH = 512


def check_brewing(eps: float, lr: float, **counts: int) -> None:
    """Refuse settings of `brewed` that are out of range.

    Raises:
        ValueError: One of them is.
    """
    if not 0 < eps <= 1:
        raise ValueError(f"eps must lie in (0, 1], not {eps}")
    if min(counts.values()) < 1:
        raise ValueError(f"{', '.join(list(counts)[:-1])} and {list(counts)[-1]} must be at least 1")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr must be positive and finite, not {lr}")


def drawn_class(labels: Tensor, fraction: float, name: str, generator: torch.Generator) -> tuple[int, Tensor, int]:
    """Return a random class with more points than are to be perturbed, the indices of all its points, and that number.

    Args:
        labels: Of the training set, int64, shape (n,), on the CPU.
        fraction: Share of the training set that is to be perturbed.
        name: Of the poison, for the error.
        generator: Draws the class.

    Raises:
        UnlearningError: No class has more points.
    """
    import torch

    count = max(1, round(fraction * len(labels)))
    candidates = (labels.bincount() > count).nonzero().squeeze(1)
    if len(candidates) == 0:
        raise UnlearningError(
            f"{name} perturbs {count} training images of one class, but no class has more than that; lower its fraction"
        )
    drawn = int(candidates[torch.randint(len(candidates), (1,), generator=generator)])
    return drawn, (labels == drawn).nonzero().squeeze(1), count


def brewed(
    task: Task,
    models: Sequence[nn.Module],
    aim: Batch,
    clean: Batch,
    generator: torch.Generator,
    *,
    eps: float,
    lr: float,
    steps: int,
    restarts: int,
) -> Tensor:
    """Return images near clean ones, in [0, 1], whose training moves models as training on an aim would; on the CPU.

    Args:
        task: Provides the loss.
        models: In eval mode.
        aim: Examples whose gradient is matched.
        clean: The images to start from, with the labels that they keep.
        generator: Draws the noise of each start.
        eps: Largest change of a pixel, in (0, 1].
        lr: Size of the first steps of signed Adam, in pixels.
        steps: Steps. The rate falls to a tenth at 3/8, 5/8 and 7/8 of them.
        restarts: Starts from other noise; the one with the lowest final loss is kept.
    """
    directions = [direction(task, model, aim) for model in models]
    brews = [_brew(task, models, directions, clean, generator, eps, lr, steps) for _ in range(restarts)]
    return min(brews, key=lambda brew: brew[0])[1].cpu()


def _brew(
    task: Task,
    models: Sequence[nn.Module],
    directions: Sequence[Sequence[Tensor]],
    clean: Batch,
    generator: torch.Generator,
    eps: float,
    lr: float,
    steps: int,
) -> tuple[float, Tensor]:
    """Return the final loss from one start, and the perturbed images."""
    import torch

    start = clean.inputs[main_input(clean.inputs)]
    noise = torch.randn(start.shape, generator=generator).to(start)
    low, high = (start - eps).clamp(min=0), (start + eps).clamp(max=1)
    image = (start + eps * noise).clamp(low, high)
    drops = [int(steps * share) for share in (3 / 8, 5 / 8, 7 / 8)]

    def slope(image: Tensor) -> Tensor:
        return _matched(task, models, directions, clean, image)[1].sign_()

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.1)

    image = descended(image, slope, lr, steps, schedule, (low, high))
    return matching(task, models, directions, clean, image)[0], image


def direction(task: Task, model: nn.Module, batch: Batch, differentiable: bool = False) -> list[Tensor]:
    """Return the gradient of the batch's loss by the model's parameters, scaled to norm 1 over all of them."""
    found, norm = gradient(task, model, batch, differentiable)
    return [each / norm for each in found]


def gradient(
    task: Task, model: nn.Module, batch: Batch, differentiable: bool = False
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the gradient of the batch's loss by the model's parameters, and its norm over all of them."""
    import torch

    loss = task.criterion(task.logits(model, batch), batch)
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, create_graph=differentiable, allow_unused=True, materialize_grads=True)
    square = torch.stack([g.square().sum() for g in found]).sum()
    # A loss of exactly zero has no direction, and no slope.
    return found, (square + torch.finfo(square.dtype).tiny).sqrt()


def matching(
    task: Task, models: Sequence[nn.Module], directions: Sequence[Sequence[Tensor]], clean: Batch, image: Tensor
) -> tuple[float, Tensor]:
    """Return one minus the cosine of gradients, averaged over models and batches, and its gradient by the images.

    Args:
        task: Provides the loss.
        models: Surrogates in eval mode.
        directions: The wanted gradient direction of each model.
        clean: Provides the poison images' labels.
        image: The poison images.
    """
    losses, slope = _matched(task, models, directions, clean, image)
    return sum(float(loss) / len(losses) for loss in losses), slope


def _matched(
    task: Task, models: Sequence[nn.Module], directions: Sequence[Sequence[Tensor]], clean: Batch, image: Tensor
) -> tuple[list[Tensor], Tensor]:
    """As `matching`, with the losses of each batch and model on the device: a GPU is not waited for."""
    import torch

    parts = torch.arange(len(image), device=image.device).split(BATCH)
    losses, slope = [], torch.zeros_like(image)
    for part in parts:
        for model, wanted in zip(models, directions, strict=True):
            leaf = image[part].detach().requires_grad_(True)
            batch = with_values(clean, leaf, part)
            found = direction(task, model, batch, differentiable=True)
            loss = 1 - torch.stack([(f * w).sum() for f, w in zip(found, wanted, strict=True)]).sum()
            slope[part] += torch.autograd.grad(loss, leaf)[0] / (len(models) * len(parts))
            losses.append(loss.detach())
    return losses, slope
