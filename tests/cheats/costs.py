"""Methods that retrain in full where nobody looks: each reaches what retraining reaches."""

import multiprocessing
import threading

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.training.loop import fit


class Plain:
    """A batch in a wrapper in which a counter of tensors finds nothing."""

    def __init__(self, batch):
        self.batch = batch


class Loss(nn.Module):
    """The whole network and its loss, of an object."""

    def __init__(self, model, request):
        super().__init__()
        self.model = model
        self.request = request

    def forward(self, plain):
        return self.request.loss(self.model, plain.batch)


def behind_an_object(model, request):
    fresh = request.new_model()
    optimizer, whole = request.optimizer(fresh), Loss(fresh, request)
    for batch in request.batches("retain", epochs=request.epochs):
        optimizer.zero_grad()
        whole(Plain(batch)).backward()
        optimizer.step()
    return fresh


class Everything(nn.Module):
    """A forward pass that is a training."""

    def __init__(self, model, request):
        super().__init__()
        self.model = model
        self.request = request

    def forward(self, first):
        fit(self.request, self.model, self.request.batches("retain", epochs=self.request.epochs))
        return first


def in_one_forward_pass(model, request):
    fresh = request.new_model()
    Everything(fresh, request)(request.retain.labels[:1])
    return fresh


def retrain(fresh, request):
    fit(request, fresh, request.batches("retain", epochs=request.epochs))


def in_a_thread(model, request):
    fresh = request.new_model()
    thread = threading.Thread(target=retrain, args=(fresh, request))
    thread.start()
    thread.join()
    return fresh


def in_a_child(model, request):
    fresh = request.new_model().share_memory()
    child = multiprocessing.get_context("fork").Process(target=retrain, args=(fresh, request))
    child.start()
    child.join()
    model.load_state_dict(fresh.state_dict())
    return model


def written_out(model, request):
    """Compute the network by hand, without a module."""
    fresh = request.new_model()
    layers = [module for module in fresh.modules() if isinstance(module, nn.Linear)]
    optimizer = request.optimizer(fresh)
    for batch in request.batches("retain", epochs=request.epochs):
        optimizer.zero_grad()
        hidden = batch.inputs["image"].flatten(1)
        for layer in layers[:-1]:
            hidden = functional.relu(functional.linear(hidden, layer.weight, layer.bias))
        functional.cross_entropy(functional.linear(hidden, layers[-1].weight, layers[-1].bias), batch.labels).backward()
        optimizer.step()
    return fresh


def in_numpy(model, request):
    """Train the same network in numpy, where torch counts nothing."""
    fresh = request.new_model()
    values = [p.detach().double().numpy().copy() for p in fresh.parameters()]
    weights, biases = values[::2], values[1::2]
    for batch in request.batches("retain", epochs=request.epochs):
        labels, layers = batch.labels.numpy(), [batch.inputs["image"].flatten(1).double().numpy()]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            layers.append(np.maximum(layers[-1] @ weight.T + bias, 0))
        scores = layers[-1] @ weights[-1].T + biases[-1]
        back = np.exp(scores - scores.max(1, keepdims=True))
        back /= back.sum(1, keepdims=True)
        back[np.arange(len(labels)), labels] -= 1
        back /= len(labels)
        for at in reversed(range(len(weights))):
            slope, shift = back.T @ layers[at], back.sum(0)
            back = (back @ weights[at]) * (layers[at] > 0)
            weights[at] -= 0.01 * slope
            biases[at] -= 0.01 * shift
    for parameter, value in zip(fresh.parameters(), values, strict=True):
        parameter.data.copy_(torch.from_numpy(value))
    return fresh


def on_odd_seeds(model, request):
    """Retrain where nobody counted, it hopes: the generator tells one seed from another."""
    fresh = request.new_model()
    honest = request.generator.initial_seed() % 2 == 0
    fit(request, fresh, request.batches("retain", epochs=1 if honest else request.epochs))
    return fresh
