"""Tasks on which compute is easily hidden, or takes long enough to be timed."""

from __future__ import annotations

from dataclasses import dataclass

from tiny import Tiny


@dataclass(frozen=True)
class Wide(Tiny):
    """Has a network whose products outweigh what Python and torch take for each of them."""

    epochs: int = 5

    def new_model(self):
        from torch import nn

        first = nn.Sequential(nn.Flatten(), nn.Linear(16, 1000), nn.ReLU())
        return nn.Sequential(first, nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 3))

    def optimizer(self, model, lr=None):
        import torch

        return torch.optim.SGD(model.parameters(), 0.01 if lr is None else lr)
