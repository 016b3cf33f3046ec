"""What CFk and EUk share: training only the last blocks of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness import UnlearningError

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@contextmanager
def last_blocks_trained(request: ForgetRequest, model: nn.Module, k: int) -> Iterator[list[nn.Module]]:
    """Freeze all but the last k blocks, their weights and running statistics; unfreeze them at the end.

    Yields:
        The last k blocks, from input to output.

    Raises:
        UnlearningError: The model has fewer than k blocks, or the last k have no weights that can be trained.
    """
    blocks = request.blocks(model)
    if k > len(blocks):
        raise UnlearningError(f"k={k}, but the model has {len(blocks)} blocks; set k to at most that")
    if not any(p.requires_grad for block in blocks[-k:] for p in block.parameters()):
        raise UnlearningError(f"k={k}, but the last {k} blocks have no weights that can be trained; raise k")
    frozen = [p for block in blocks[:-k] for p in block.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    for block in blocks[:-k]:
        block.eval()
    try:
        yield blocks[-k:]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.train()
