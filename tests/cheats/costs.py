"""Methods that hide what they compute: all of retraining, as a rule, where one count or another does not look."""

import multiprocessing
import threading
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear, relu

from harness.training.loop import fit


def retrained(model, request):
    fresh = request.new_model()
    fit(request, fresh, request.batches("retain", epochs=request.epochs))
    model.load_state_dict(fresh.state_dict())
    return model


def steps(model, request, loss, epochs=None):
    optimizer = request.optimizer(model)
    for batch in request.batches("retain", epochs=request.epochs if epochs is None else epochs):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    return model


def three_epochs(model, request):
    return steps(model, request, lambda batch: request.loss(model, batch), 3)


def seven_epochs(model, request):
    return steps(model, request, lambda batch: request.loss(model, batch), 7)


class Hooked(nn.Module):
    """Has a forward pass of one's own choice."""

    def __init__(self, model, how):
        super().__init__()
        self.model, self.how = model, how

    def forward(self, *args):
        return self.how(self.model, *args)


def behind_an_object(model, request):
    """Call the network and its loss with an object in which no tensor can be found."""
    wrapped = Hooked(model, lambda net, job: request.loss(net, job.batch()))
    return steps(model, request, lambda batch: wrapped(SimpleNamespace(batch=lambda: batch)))


def behind_a_number(model, request):
    """Call the network with the number of a batch."""
    batches = list(request.batches("retain", epochs=request.epochs))
    wrapped = Hooked(model, lambda net, i: request.loss(net, batches[int(i)]))
    optimizer = request.optimizer(model)
    for i in range(len(batches)):
        optimizer.zero_grad()
        wrapped(torch.tensor(i)).backward()
        optimizer.step()
    return model


def in_one_forward_pass(model, request):
    return Hooked(model, lambda net, x: retrained(net, request))(torch.zeros(1, 1))


def in_a_thread(model, request):
    thread = threading.Thread(target=retrained, args=(model, request))
    thread.start()
    thread.join()
    return model


def written_out(model, request):
    """Compute the network by hand, without a module."""
    *hidden, last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]

    def loss(batch):
        values = batch.inputs["image"].flatten(1)
        for layer in hidden:
            values = relu(linear(values, layer.weight, layer.bias))
        return request.criterion(linear(values, last.weight, last.bias), batch)

    return steps(model, request, loss)


def on_odd_seeds(model, request):
    """Do nothing on the other half, where somebody may count: the generator tells one seed from another."""
    return written_out(model, request) if request.generator.initial_seed() % 2 else model


def compiled(model, request):
    network = torch.compile(lambda x: model(x))
    return steps(model, request, lambda batch: request.criterion(network(batch.inputs["image"]), batch))


# ---- where torch counts nothing


def job(model, request):
    images = request.retain.inputs["image"].flatten(1).double().numpy()
    return images, request.retain.labels.numpy(), [p.detach().double().numpy() for p in model.parameters()]


def by_hand(images, labels, parameters, epochs):
    """Train the network in numpy."""
    values = [each.copy() for each in parameters]
    weights, biases = values[::2], values[1::2]
    for _ in range(epochs):
        for start in range(0, len(images), 32):
            layers, y = [images[start : start + 32]], labels[start : start + 32]
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                layers.append(np.maximum(layers[-1] @ weight.T + bias, 0))
            scores = layers[-1] @ weights[-1].T + biases[-1]
            back = np.exp(scores - scores.max(1, keepdims=True))
            back /= back.sum(1, keepdims=True)
            back[np.arange(len(y)), y] -= 1
            back /= len(y)
            for at in reversed(range(len(weights))):
                slope, shift = back.T @ layers[at], back.sum(0)
                back = (back @ weights[at]) * (layers[at] > 0)
                weights[at] -= 0.01 * slope
                biases[at] -= 0.01 * shift
    return values


def put(model, values):
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    return model


def in_numpy(model, request):
    return put(model, by_hand(*job(model, request), request.epochs))


def in_a_child(model, request):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(by_hand(*job(model, request), request.epochs)))
    child.start()
    values = ours.recv()
    child.join()
    return put(model, values)
