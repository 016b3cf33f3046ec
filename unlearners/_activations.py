"""What a layer of a model returns on the way to its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import UnlearningError
from unlearners._teachers import scored

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


def layer_of(request: ForgetRequest, model: nn.Module, depth: float) -> nn.Module:
    """Return the module of a model's blocks that ends at a depth, or the first one up to which weights are trained.

    Of several modules in a block it is the one with most trained weights: a norm or the scores behind a layer are none.

    Args:
        request: Knows the blocks.
        model: Whose module is returned.
        depth: A share of the blocks, in (0, 1].

    Raises:
        UnlearningError: No weight of the model is trained.
    """
    from torch import nn

    blocks = request.blocks(model)
    for at in range(len(blocks)):
        if at + 1 >= depth * len(blocks) - 1e-9 and any(_trained(each) for each in blocks[: at + 1]):
            # A block of nothing ends where the one before it does.
            block = next(each for each in reversed(blocks[: at + 1]) if any(True for _ in each.parameters()))
            while isinstance(block, nn.ModuleList | nn.ModuleDict):  # has parts, and is never called itself
                block = max(block.children(), key=_trained)
            return block
    raise UnlearningError("this method steers a layer, and no weight of this model is trained")


def activations(request: ForgetRequest, model: nn.Module, layer: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return what a layer returns of a batch, with its gradient, and which of its positions are no padding.

    Returns:
        Shape (batch, positions, features), and a mask of shape (batch, positions). Examples that are no texts have one
        position.

    Raises:
        UnlearningError: The model calls the layer not once, or it returns no tensor.
    """
    import torch

    seen: list[Any] = []
    hook = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        request.logits(model, batch)
    finally:
        hook.remove()
    found = seen[0][0] if seen and isinstance(seen[0], tuple) else (seen or [None])[0]
    if len(seen) != 1 or not isinstance(found, torch.Tensor):
        raise UnlearningError(
            f"this method steers what the layer {type(layer).__name__} returns, but the model calls it {len(seen)} "
            "times on a batch, or it returns no tensor; choose another depth"
        )
    if found.dim() != 3 or "length" not in batch.inputs:
        return found.reshape(len(batch), 1, -1), found.new_ones(len(batch), 1)
    positions = torch.arange(found.shape[1], device=found.device)
    return found, positions < scored(batch, found.shape[1], found.device)[:, None]


def _trained(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
