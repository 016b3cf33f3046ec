"""How much noise makes an unlearning certified, and what clips to a norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sigma_for(epsilon: float, delta: float, apart: float, factor: float, push: float, steps: int) -> float:
    """Return the standard deviation of Gaussian noise that makes a walk of noisy steps (epsilon, delta)-unlearning.

    Two walks begin at most ``apart`` from each other. A step multiplies their distance by ``factor``, adds at most
    ``push``, and then noise to every weight. Without noise they would end at most Delta = ``apart`` factor^T + ``push``
    (1 + factor + ... + factor^(T-1)) from each other.

    By privacy amplification by iteration (Feldman, Mironov, Talwar and Thakurta, arXiv 1808.06651; of steps it needs no
    more than the above) the Renyi divergence of order a between the last points is at most a c with c = Delta^2 / (2
    sigma^2 S), where S is the sum of factor^(2 t). So they are (c + 2 sqrt(c log(1 / delta)), delta) close (Bun and
    Steinke, arXiv 1605.02635, proposition 1.3).

    Args:
        epsilon: What is certified, > 0.
        delta: What is certified, in (0, 1).
        apart: >= 0.
        factor: In [0, 1].
        push: >= 0.
        steps: T, >= 1.
    """
    end = apart * factor**steps + push * sum(factor**t for t in range(steps))
    slack = math.log(1 / delta)
    c = (math.sqrt(slack + epsilon) - math.sqrt(slack)) ** 2
    return end / math.sqrt(2 * c * sum(factor ** (2 * t) for t in range(steps)))


def share_of(tensors: Sequence[Tensor], norm: float) -> float:
    """Return what all tensors together must be multiplied by, at most 1, to have at most this norm."""
    total = sum(float(tensor.abs().square().sum()) for tensor in tensors) ** 0.5
    return min(1.0, norm / total) if total else 1.0
