"""Influence: one step to where the forget set's influence is undone, by an estimate of the inverse Hessian.

Source: the influence functions of Koh and Liang (arXiv 1703.04730), as the baseline IU of Jia, Liu, Ram et al., "Model
Sparsity Can Simplify Machine Unlearning" (arXiv 2304.04934), equation 1; the inverse is WoodFisher's (Singh and
Alistarh, arXiv 2004.14340). Reference code: OPTML-Group/Unlearn-Sparse at commit 80ba55d, unlearn/Wfisher.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from harness import Search
from unlearners._budget import enough
from unlearners._trained import check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, ForgetRequest


@dataclass(frozen=True)
class Influence:
    """Return ``theta_P + alpha H^-1 v``, where ``v = (n_f / n) (g_f - g_r)``.

    g_f and g_r are the mean gradients of the loss over the n_f points to forget and over the retain set, n counts both.
    Equally weighted points that are removed from a training to an optimum move it by H^-1 v to first order. H^-1 is the
    inverse of the Fisher information, which single retained points update one by one (Sherman and Morrison).

    No training. Costs one pass over each set, and one example for each of the retained points behind H^-1. Holds four
    vectors as large as the model.

    Deviations from the reference code: the points behind H^-1 are drawn at random; there they are the first 1,002 of
    the data set. One at a time, so many take more CPU time than the training of digits-cnn, so the default is 100. If
    the budget does not pay for all of this, at most a third of what is left goes to H^-1, and the rest to a sample for
    g_r. As there, the first gradient stands in for H^-1 times itself, and a divisor is 1,000, however many points
    follow: so H^-1 stays near the identity.

    Not searched. The authors search alpha in [1, 20]; 1 is the step that the theory asks for.

    Attributes:
        alpha: Length of the step, > 0.
        points: Retained points behind H^-1, >= 1.
        batch_size: Examples per batch of g_f and g_r, >= 1; None for the recipe's.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget does not pay for the forget set and two retained points.
    """

    alpha: Annotated[float, Search(0.1, 100.0, log=True)] = 1.0
    points: int = 100
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check(0 < self.alpha < float("inf"), f"alpha must be positive, not {self.alpha}")
        check(self.points >= 1, f"points must be at least 1, not {self.points}")
        check(self.batch_size is None or self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after the step."""
        import torch

        model.eval()
        forget, retain = len(request.forget), len(request.retain)
        left = request.affordable(reserve=forget)
        points = min(self.points, retain, max(1, left // 3, left - retain))
        of_retain = enough(request, max(0, min(retain, left - points)))
        size = self.batch_size
        direction = self._mean(model, request, request.batches("forget", batch_size=size))
        direction -= self._mean(model, request, request.batches("retain", batch_size=size, examples=of_retain))
        direction *= forget / (forget + retain)
        self._times_inverse(direction, model, request, request.batches("retain", batch_size=1, examples=points))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            parts = direction.split([parameter.numel() for parameter in trained])
            for parameter, part in zip(trained, parts, strict=True):
                parameter.add_(part.view_as(parameter), alpha=self.alpha)
        return model

    def _times_inverse(self, vector: Tensor, model: nn.Module, request: ForgetRequest, points: Iterable[Batch]) -> None:
        """Multiply a vector by the inverse of the Fisher information of these points, in place."""
        update = None
        for point in points:
            gradient = self._gradient(model, request, point)
            if update is None:
                update = gradient
                continue
            size = update @ gradient
            vector -= (vector @ gradient) / (1000 + size) * update
            update -= size / (1000 + size) * update

    def _mean(self, model: nn.Module, request: ForgetRequest, batches: Iterable[Batch]) -> Tensor:
        """Return the mean gradient over the points of batches."""
        total: Tensor | float = 0.0
        points = 0
        for batch in batches:
            total = total + len(batch) * self._gradient(model, request, batch)
            points += len(batch)
        return total / points  # type: ignore[return-value] # there is a batch

    def _gradient(self, model: nn.Module, request: ForgetRequest, batch: Batch) -> Tensor:
        """Return the gradient of the mean loss by all weights that can be trained, as one vector."""
        import torch

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(request.loss(model, batch), trained, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.reshape(-1) for gradient in gradients])
