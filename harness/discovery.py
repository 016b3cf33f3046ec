"""Partial discovery: which of the poisoned points the unlearner is told of.

Whoever finds that data were poisoned rarely finds every poisoned point. What was not found stays in the retain set.
Source: Goel et al., "Corrective Machine Unlearning" (arXiv 2402.14015), which varies the share that is known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.seeds import derive


def handed_over(points: int, discovery: float, seed: int) -> Tensor:
    """Return the ascending positions, among so many planted points, of those that the unlearner is told of.

    A share in (0, 1] of them, rounded, at least one. The draw follows from the seed: a larger share holds a smaller
    one, and poisons of one size share it.
    """
    order = torch.randperm(points, generator=torch.Generator().manual_seed(derive("discovery", seed)))
    return order[: max(1, round(discovery * points))].sort().values
