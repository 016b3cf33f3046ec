"""How likely a model finds the labels, or the texts, of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


def likelihood(request: ForgetRequest, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return log pi(y | x) of every example, and |y|, how many tokens it is the sum over; both of shape (batch,).

    Of a text, y are the tokens that are to be learned. Of another example it is the label, and |y| is 1.

    Raises:
        UnlearningError: The task's scores do not tell it (`ForgetRequest.learned`).
    """
    from torch.nn.functional import cross_entropy

    scores, targets = request.learned(request.logits(model, batch), batch)
    each = cross_entropy(scores, targets, ignore_index=-100, reduction="none")
    return -each.view(len(batch), -1).sum(dim=1), (targets != -100).view(len(batch), -1).sum(dim=1)
