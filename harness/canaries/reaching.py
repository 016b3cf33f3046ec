"""Whether every canary reaches the model: masking, packing, truncation or frozen layers can make it inert."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from harness.api import UnlearningError

if TYPE_CHECKING:
    from torch import Tensor, nn

Example = TypeVar("Example")
#: How many canaries a message names.
NAMED = 5
#: Gradients that agree to this relative precision, in three numbers for each parameter, are taken for the same.
SAME = 1e-6


def reached(model: nn.Module, loss_of: Callable[[nn.Module, Example], Tensor], canaries: Mapping[str, Example]) -> None:
    """Check, before training, that every canary that is in gives the model a gradient of its own.

    A canary without a gradient teaches nothing. Two canaries with the same gradient teach the same: whatever tells them
    apart is cut off or masked, and only one of them may be in. In both cases the model cannot remember the canary, and
    a removal would look clean without having done anything.

    The model, its gradients and all random numbers are left as they were; the model is in eval mode meanwhile.

    Args:
        model: As it is before the first step.
        loss_of: ``(model, example) -> loss``, a scalar: the training loss of this example alone, prepared by the same
            code as in training (tokenised, cut, masked, collated).
        canaries: The examples of the canaries that are in, by id.

    Raises:
        UnlearningError: A canary does not reach the model; one sentence names it and the likely cause.
    """
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise UnlearningError(
            "no canary reaches the model, because all its layers are frozen; unfreeze what is trained"
        )
    causes: dict[str, list[str]] = {}
    prints: dict[str, Tensor] = {}
    with _undisturbed(model), torch.enable_grad():
        for name, example in canaries.items():
            loss = loss_of(model, example)
            cause, print_ = _examined(loss, weights)
            if cause:
                causes.setdefault(cause, []).append(name)
            else:
                prints[name] = print_
    for name, twin in _twins(prints):
        causes.setdefault(f"same gradient as {twin}: truncation or masking hides what differs", []).append(name)
    if causes:
        count = sum(map(len, causes.values()))
        listed = "; ".join(f"{_named(names)}: {cause}" for cause, names in causes.items())
        raise UnlearningError(
            f"{count} of {len(canaries)} canaries would teach the model nothing of their own ({listed}); mend this "
            "before training"
        )


def _examined(loss: Tensor, weights: Sequence[nn.Parameter]) -> tuple[str, Tensor]:
    """Return why a canary's loss teaches nothing, or ``""``, and numbers that tell its gradient from others."""
    import torch

    nothing = torch.zeros(0)
    if loss.dim():
        raise UnlearningError(f"the loss of a canary must be a scalar, not of shape {tuple(loss.shape)}; take its mean")
    if not loss.isfinite():
        return f"its loss is {float(loss.detach())}, as if all its labels were masked", nothing
    if not loss.requires_grad:
        return "its loss depends on no layer that is trained; the others are frozen", nothing
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    gradients = [gradient.detach() for gradient in found if gradient is not None]
    numbers = torch.stack([number for gradient in gradients for number in _numbers(gradient)]).double().cpu()
    if not numbers.isfinite().all():
        return "its gradient is not finite", nothing
    if not any(bool(gradient.any()) for gradient in gradients):
        return "its gradient is 0, as if its labels were masked or its text cut off", nothing
    return "", numbers


def _numbers(gradient: Tensor) -> list[Tensor]:
    """Return three numbers that two different gradients hardly share: the norm, the sum, and a weighted sum."""
    import torch

    flat = (torch.view_as_real(gradient) if gradient.is_complex() else gradient).reshape(-1).float()
    weights = torch.linspace(-1, 1, len(flat), device=flat.device)
    return [flat.norm(), flat.sum(), flat @ weights]


def _twins(prints: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield (canary, an earlier one with the same gradient)."""
    import torch

    seen: dict[str, Tensor] = {}
    for name, numbers in prints.items():
        scale = numbers.abs().max()
        for earlier, others in seen.items():
            if len(others) == len(numbers) and torch.allclose(numbers, others, rtol=SAME, atol=float(scale) * SAME):
                yield name, earlier
                break
        else:
            seen[name] = numbers


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the modes of a model and all random numbers back."""
    import numpy as np
    import torch

    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = {weight.device.index for weight in model.parameters() if weight.device.type == "cuda"}
    model.eval()  # without dropout, the same example has the same gradient
    try:
        with torch.random.fork_rng(sorted(devices)):
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
