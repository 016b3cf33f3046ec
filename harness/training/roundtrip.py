"""Whether a model is what its state dict says: only that is stored, and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.training.isolation import isolated_rng

if TYPE_CHECKING:
    from torch import nn

    from harness.api import Batch, Recipe

#: Examples that both models are asked about.
EXAMPLES = 64
#: Share of the largest score by which both may differ: the same weights in another layout are added in another order.
CLOSE = 1e-4
#: What is said of a model that is more than its state dict, after a verb.
DIFFERS = (
    "a model whose outputs differ from those of a new model with the same state dict; only the state dict is stored, "
    "so keep nothing outside it, such as hooks or non-persistent buffers"
)


def survives(recipe: Recipe, model: nn.Module, batch: Batch) -> bool:
    """Return whether a new model that is given a model's state dict answers a batch as the model does, in eval mode.

    The model stays in the mode that it was in.
    """
    with isolated_rng(0), torch.no_grad():
        fresh = recipe.new_model().to(batch.labels.device)
        fresh.load_state_dict(model.state_dict())
        modes = [(module, module.training) for module in model.modules()]
        live = recipe.logits(model.eval(), batch)
        for module, mode in modes:
            module.training = mode
        stored = recipe.logits(fresh.eval(), batch)
    if not isinstance(live, torch.Tensor) or live.shape != stored.shape:
        return False
    if not live.isnan().equal(stored.isnan()):
        return False
    apart = (live - stored).abs().nan_to_num()
    return bool((apart <= CLOSE * stored.abs().nan_to_num().max()).all())
