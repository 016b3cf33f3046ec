"""How far a model is from its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import UnlearningError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from harness import Batch


def divergence(teacher: Tensor, student: Tensor, temperature: float, batch: Batch) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Of a causal language model it is the mean over all tokens that follow another, as the recipe's own loss is. So is
    the divergence in the code of UNDO's authors (``forward_kl_loss_fn``), for T = 1. SCRUB's code knows no sequences.

    Args:
        teacher: Class scores, shape (batch, classes), or (batch, vocabulary, positions) with padding at the end.
        student: Class scores of the same shape.
        temperature: T, > 0.
        batch: What was scored.

    Raises:
        UnlearningError: There is one score for each example, whose softmax is always 1.
    """
    import torch
    from torch.nn.functional import kl_div, log_softmax

    if student.dim() < 2 or student.shape[1] < 2:
        raise UnlearningError(
            f"this method compares what two models say of every class, and the task has logits of shape "
            f"{tuple(student.shape)}, one score for each example; use another method"
        )
    soft, hard = log_softmax(student / temperature, dim=1), log_softmax(teacher / temperature, dim=1)
    if student.dim() == 2:
        return temperature**2 * kl_div(soft, hard, reduction="batchmean", log_target=True)
    each = kl_div(soft, hard, reduction="none", log_target=True).sum(dim=1)
    positions = torch.arange(each.shape[1], device=each.device)
    # The last score of a text is that of no token.
    follow = positions < (scored(batch, each.shape[1], each.device) - 1).clamp_min(1)[:, None]
    return temperature**2 * each.where(follow, 0).sum() / follow.sum()


def scored(batch: Batch, positions: int, device: torch.device) -> Tensor:
    """Return how many positions of each text are no padding, which stands at the end, int64, shape (batch,).

    What is scored of a text, a question behind it included, is shorter than of the longest one by the difference of
    their lengths.

    Args:
        batch: The texts; without a ``"length"`` all are as long.
        positions: Of the longest text.
        device: Where it is returned.
    """
    import torch

    length = batch.inputs.get("length", torch.ones(len(batch), dtype=torch.int64, device=device))
    longest = length.max() if batch.longest is None else batch.longest
    return positions - (longest - length)
