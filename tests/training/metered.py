"""What tests of the meter share: a small network, and what a piece of work on it costs."""

import pytest
import torch
from torch import nn

from harness.training.meter import Meter

N = 6  # examples in a batch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return self.net(batch.inputs["x"])


def cost(net, work):
    with Meter(net) as meter:
        work()
    return pytest.approx(meter.examples, rel=1e-12, abs=1e-12)


def train_step(net, x, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(net.parameters(), 0.1)
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()
