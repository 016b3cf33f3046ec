"""What the methods share that train: the optimiser, and descent at a falling rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from unlearners._budget import retained

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import ForgetRequest
    from unlearners._trained import Trained

Item = TypeVar("Item")


def optimizer_of(request: ForgetRequest, model: nn.Module, method: Trained) -> torch.optim.Optimizer:
    """Return the optimiser that a method asks for, at its initial rate, over what the recipe's own one trains."""
    from torch.optim import SGD, Adam

    recipe = request.optimizer(model, method.lr)
    if method.lr is None:
        for group in recipe.param_groups:
            group["lr"] *= method.lr_of_recipe * method.lr_scale(recipe)
    if method.optimizer == "recipe":
        return recipe
    groups = [{"params": group["params"], "lr": group["lr"]} for group in recipe.param_groups]
    return Adam(groups) if method.optimizer == "adam" else SGD(groups, momentum=0.9)


def falling(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a rate that falls linearly towards zero.

    A constant rate wastes much of a short training: on digits, with a tenth of the training, it costs four points of
    accuracy.
    """
    from torch.optim.lr_scheduler import LinearLR

    return LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=max(1, steps))


def descend(
    request: ForgetRequest,
    model: nn.Module,
    batches: Iterable[Item],
    steps: int,
    method: Trained,
    loss: Callable[[Item], Tensor],
    before_step: Callable[[], None] = lambda: None,
    schedule: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] = falling,
) -> nn.Module:
    """Descend on a loss with the method's optimiser.

    Args:
        request: Provides the recipe's optimiser.
        model: The model; changed in place and returned.
        batches: What ``loss`` is called with, one per step, as in `harness.descend`.
        steps: Number of batches.
        method: Provides the optimiser and the rate of the first step.
        loss: The loss of a batch, a scalar.
        before_step: Called between the backward pass and the step.
        schedule: From the optimiser and the steps to the course of the rate.
    """
    import harness

    optimizer = optimizer_of(request, model, method)
    harness.descend(optimizer, batches, loss, schedule(optimizer, steps), before_step)
    return model


def train_on_retained(
    request: ForgetRequest, model: nn.Module, method: Trained, before_step: Callable[[], None] = lambda: None
) -> nn.Module:
    """Train on the retain set for the method's epochs; if it has none, until the budget is spent."""
    batches = retained(request, method)
    return descend(request, model, batches, len(batches), method, lambda batch: request.loss(model, batch), before_step)
