"""What the methods share: descent at a falling rate within the budget, and the distance to a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from harness import UnlearningError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Batches, ForgetRequest

Item = TypeVar("Item")


class Rated(Protocol):
    """A method with a learning rate.

    Attributes:
        lr: Initial learning rate; None for its default.
        lr_of_recipe: Its default, as a multiple of the recipe's own rate. A fixed rate would not do: one that suits SGD
            on digits would wreck a language model under AdamW.
    """

    @property
    def lr(self) -> float | None: ...

    lr_of_recipe: ClassVar[float]


def optimizer_of(request: ForgetRequest, model: nn.Module, method: Rated) -> torch.optim.Optimizer:
    """Return the recipe's optimiser at the method's initial rate."""
    if method.lr is not None:
        return request.optimizer(model, lr=method.lr)
    optimizer = request.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] *= method.lr_of_recipe
    return optimizer


def descend(
    request: ForgetRequest,
    model: nn.Module,
    batches: Iterable[Item],
    steps: int,
    method: Rated,
    loss: Callable[[Item], Tensor],
    before_step: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Descend on a loss with the recipe's optimiser, at a rate that falls linearly towards zero.

    The rate falls in every method because a constant rate wastes much of a short training: on digits, with a tenth of
    the training, it costs four points of accuracy.

    Args:
        request: Provides the optimiser.
        model: The model; changed in place and returned.
        batches: What ``loss`` is called with, one per step.
        steps: Number of batches.
        method: Provides the rate of the first step.
        loss: The loss of a batch, a scalar.
        before_step: Called between the backward pass and the step.
    """
    from torch.optim.lr_scheduler import LinearLR

    optimizer = optimizer_of(request, model, method)
    decay = LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=max(1, steps))
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss(batch).backward()
        before_step()
        optimizer.step()
        decay.step()
    return model


def train_on_retained(
    request: ForgetRequest,
    model: nn.Module,
    method: Rated,
    epochs: int | None,
    before_step: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Train on the retain set for ``epochs`` passes; if that is None, until the budget is spent."""
    batches = retained(request, epochs)
    return descend(request, model, batches, len(batches), method, lambda batch: request.loss(model, batch), before_step)


def retained(request: ForgetRequest, epochs: int | None, price: float = 1.0) -> Batches:
    """Return batches of the retain set: ``epochs`` passes, or as many examples as the budget pays for at this price."""
    if epochs is not None:
        return request.batches("retain", epochs)
    return request.batches("retain", examples=affordable(request, price))


def affordable(request: ForgetRequest, price: float = 1.0, reserve: float = 0.0) -> int:
    """Return `ForgetRequest.affordable`, at least one example.

    Raises:
        UnlearningError: The budget does not pay for one example.
    """
    return enough(request, request.affordable(price, reserve))


def enough(request: ForgetRequest, examples: int) -> int:
    """Return the number of examples that a method is going to train on.

    Raises:
        UnlearningError: The number is 0.
    """
    if examples == 0:
        raise UnlearningError(
            f"a budget of {request.budget:g} passes over the retain set pays for no step of this method; raise "
            "--audit-budget, or set the method's epochs"
        )
    return examples


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    For a causal language model, the divergences of all positions are summed: one for every next token.

    Args:
        teacher: Class scores, shape (batch, classes), or (batch, vocabulary, positions).
        student: Class scores of the same shape.
        temperature: T, > 0.

    Raises:
        UnlearningError: There is one score for each example, whose softmax is always 1.
    """
    from torch.nn.functional import kl_div, log_softmax

    if student.dim() < 2 or student.shape[1] < 2:
        raise UnlearningError(
            f"this method compares what two models say of every class, and the task has logits of shape "
            f"{tuple(student.shape)}, one score for each example; use another method"
        )
    soft, hard = log_softmax(student / temperature, dim=1), log_softmax(teacher / temperature, dim=1)
    return temperature**2 * kl_div(soft, hard, reduction="batchmean", log_target=True)


def check(condition: bool, message: str) -> None:
    """Refuse fields that are out of range. Write conditions so that not-a-number fails them.

    Raises:
        ValueError: The condition does not hold.
    """
    if not condition:
        raise ValueError(message)


def check_training(lr: float | None, epochs: int | None) -> None:
    """Refuse a learning rate or a number of passes that is out of range.

    Raises:
        ValueError: One of them is out of range.
    """
    check(lr is None or 0 < lr < float("inf"), f"lr must be positive, not {lr}")
    check(epochs is None or epochs >= 1, f"epochs must be at least 1, not {epochs}")
