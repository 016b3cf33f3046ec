"""Normalisation as a layer, so that whoever calls a model by itself gives it pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Of CIFAR-10's training images, by channel.
MEAN = (0.4914, 0.4822, 0.4465)
SD = (0.2470, 0.2435, 0.2616)


class Normalise(nn.Module):
    """Subtract the mean of each channel and divide by its standard deviation; nothing in it is learned or stored.

    Args:
        memory_format: Order in memory of what it returns.
    """

    def __init__(self, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.memory_format = memory_format
        for name, of_channels in (("mean", MEAN), ("sd", SD)):  # no part of what is stored
            self.register_buffer(name, torch.tensor(of_channels).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return images of mean 0 and standard deviation 1 from pixels in [0, 1], shape (batch, 3, height, width)."""
        pixels = (images - self.get_buffer("mean")) / self.get_buffer("sd")
        return pixels.contiguous(memory_format=self.memory_format)
