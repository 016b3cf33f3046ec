"""Problems that are small enough to compute by hand, and the computations, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from harness import Batch, ForgetRequest
from harness.training.data import Data

# ---- recipes

#: Fields of a method that takes the recipe's batches and optimiser, as the computations here do.
PLAIN: dict[str, Any] = {"batch_size": None, "optimizer": "recipe"}


class Linear:
    """Two classes, three inputs, no bias, plain SGD."""

    epochs = 4

    def __init__(self, batch_size=100):
        self.batch_size = batch_size

    def new_model(self):
        return nn.Linear(3, 2, bias=False).double()

    def logits(self, model, batch):
        return model(batch.inputs["x"])

    def criterion(self, logits, batch):
        return nn.functional.cross_entropy(logits, batch.labels)

    def optimizer(self, model, lr=None):
        return torch.optim.SGD(model.parameters(), 0.1 if lr is None else lr)

    def schedule(self, optimizer, steps):
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def blocks(self, model):
        return [model]


class Layers(Linear):
    """Three linear layers, each of them a block; serves batches of one."""

    def new_model(self):
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)).double()

    def blocks(self, model):
        return list(model.children())


class Normalised(Linear):
    """Three blocks: two linear layers with batch normalisation, and a linear head."""

    def new_model(self):
        first, second = (nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3)) for _ in range(2))
        return nn.Sequential(first, second, nn.Linear(3, 2, bias=False)).double()

    def blocks(self, model):
        return list(model.children())


@dataclass(frozen=True)
class Call:
    """One call of a model by a method: the state it was called in, and with what."""

    model: nn.Module
    state: dict[str, Any]
    training: bool
    gradient: bool
    batch: Batch

    @property
    def arrays(self):
        return self.batch.inputs["x"].numpy(), self.batch.labels.numpy()


class Watched:
    """A recipe that notes every call of a model."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.calls = []

    def __getattr__(self, name):
        return getattr(self.recipe, name)

    def logits(self, model, batch):
        self.calls.append(Call(model, state(model), model.training, torch.is_grad_enabled(), batch))
        return self.recipe.logits(model, batch)


# ---- requests


def points(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return Data({"x": x}, torch.randint(0, 2, (n,), generator=generator))


def request_of(recipe, retain, forget, budget=1.0, seed=0, history=None):
    generator = torch.Generator().manual_seed(seed)
    return ForgetRequest(retain, forget, budget, generator, torch.device("cpu"), recipe, history or {})


def a_model(recipe, seed=0):
    """Return a model of a recipe; its running statistics, if it has any, are not those it began with."""
    torch.manual_seed(seed)
    model = recipe.new_model()
    for step in range(3):
        model(points(20, 100 + step).inputs["x"])
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    """Say whether two state dicts are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights(model):
    return model.weight.detach().numpy().copy()


def arrays(data):
    return data.inputs["x"].numpy(), data.labels.numpy()


# ---- by hand


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy_gradient(w, x, y):
    p = softmax(x @ w.T)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y)


def kl_gradient(w, x, teacher, t):
    """Gradient of t^2 KL(softmax(x teacher / t) || softmax(x w / t)), mean over the rows, with respect to w."""
    return t * (softmax(x @ w.T / t) - softmax(x @ teacher.T / t)).T @ x / len(x)


def falling(lr, steps):
    """Return the rate of every step: it falls linearly, and would reach zero after the last one."""
    return [lr * (1 - step / steps) for step in range(steps)]


def start_of(method, model, recipe):
    """Return the state in which a method calls its student first, and a fresh draw of the model."""
    torch.manual_seed(3)
    fresh = state(recipe.new_model())
    watched = Watched(recipe)
    torch.manual_seed(3)
    method(model, request_of(watched, points(7, 1), points(4, 2), budget=4 / 3))
    return next(call.state for call in watched.calls if call.gradient), fresh


# ---- comparing


def close(one, other):
    return np.allclose(one, other, rtol=1e-10, atol=1e-12)


def by_name(method):
    return method.__name__ if isinstance(method, type) else type(method).__name__
