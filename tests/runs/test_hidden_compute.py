"""Methods that hide what they compute: each is caught by one of the yardsticks, whatever the others say."""

import multiprocessing
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import Tiny
from torch import nn
from torch.nn.functional import cross_entropy, linear, relu

from harness import audit
from harness.report.words import finding
from harness.training.loop import fit


@dataclass
class Answer:
    scores: torch.Tensor


class Answering(nn.Module):
    """Returns a plain dataclass."""

    def __init__(self):
        super().__init__()
        self.body = Tiny().new_model()

    def forward(self, x):
        return Answer(self.body(x))


class Second(nn.Module):
    """Has the examples in the second dimension of its inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 3)

    def forward(self, rows):
        return self.head(self.body(rows))


class Answers(Tiny):
    def new_model(self):
        return Answering()

    def logits(self, model, batch):
        return model(batch.inputs["image"]).scores


class NotBatchFirst(Tiny):
    def new_model(self):
        return Second()

    def logits(self, model, batch):
        return model(batch.inputs["image"].flatten(1)[None])[0]


@dataclass(frozen=True)
class Wide(Tiny):
    """Has a network whose products outweigh what Python and torch take for each of them."""

    epochs: int = 5

    def new_model(self):
        first = nn.Sequential(nn.Flatten(), nn.Linear(16, 1000), nn.ReLU())
        return nn.Sequential(first, nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 3))

    def optimizer(self, model, lr=None):
        return torch.optim.SGD(model.parameters(), 0.01 if lr is None else lr)


class Hooked(nn.Module):
    """Has a forward pass of one's own choice."""

    def __init__(self, model, how):
        super().__init__()
        self.model, self.how = model, how

    def forward(self, *args):
        return self.how(self.model, *args)


def retrained(model, request):
    fresh = request.new_model()
    fit(request, fresh, request.batches("retain", epochs=request.epochs))
    model.load_state_dict(fresh.state_dict())
    return model


def steps(model, request, epochs, loss):
    optimizer = request.optimizer(model, lr=0.05)
    for batch in request.batches("retain", epochs=epochs):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    return model


def three_epochs(model, request):
    return steps(model, request, 3, lambda batch: request.loss(model, batch))


def seven_epochs(model, request):
    return steps(model, request, 7, lambda batch: request.loss(model, batch))


def loss_of_an_object(model, request):
    wrapped = Hooked(model, lambda net, job: request.loss(net, job.batch()))
    return steps(model, request, 10, lambda batch: wrapped(SimpleNamespace(batch=lambda: batch)))


def scalar_argument(model, request):
    batches = list(request.batches("retain", epochs=10))
    wrapped = Hooked(model, lambda net, i: request.loss(net, batches[int(i)]))
    optimizer = request.optimizer(model, lr=0.05)
    for i in range(len(batches)):
        optimizer.zero_grad()
        wrapped(torch.tensor(i)).backward()
        optimizer.step()
    return model


def loop_in_one_call(model, request):
    return Hooked(model, lambda net, x: retrained(net, request))(torch.zeros(1, 1))


def written_out(model, request):
    w, b, v, c = model.parameters()
    scores = lambda batch: linear(relu(linear(batch.inputs["image"].flatten(1), w, b)), v, c)  # noqa: E731
    return steps(model, request, 10, lambda batch: cross_entropy(scores(batch), batch.labels))


def compiled(model, request):
    network = torch.compile(lambda x: model(x))
    return steps(model, request, 10, lambda batch: cross_entropy(network(batch.inputs["image"]), batch.labels))


def in_a_thread(model, request):
    thread = threading.Thread(target=retrained, args=(model, request))
    thread.start()
    thread.join()
    return model


def not_on_every_seed(model, request):
    return written_out(model, request) if request.generator.initial_seed() % 2 else model


def cost_of(method, task, store):
    verdicts = audit(method, task=task, poison="backdoor:size=1", seeds=3, store=store)
    return next(verdict for verdict in verdicts if verdict.measure.name == "cost")


@pytest.mark.parametrize(
    ("method", "task", "share", "by"),
    [
        (three_epochs, "tiny:Tiny", 0.3, "examples"),
        (three_epochs, f"{__name__}:Answers", 0.3, "examples"),
        (seven_epochs, f"{__name__}:NotBatchFirst", 0.7, "operations"),
        (loss_of_an_object, "tiny:Tiny", 1, "examples"),
        (scalar_argument, "tiny:Tiny", 1, "examples"),
        (loop_in_one_call, "tiny:Tiny", 1, "operations"),
        (written_out, "tiny:Tiny", 1, "operations"),
        (compiled, "tiny:Tiny", 1, "examples"),
        (in_a_thread, "tiny:Tiny", 1, "examples"),
        (not_on_every_seed, "tiny:Tiny", 1, "operations"),
    ],
)
def test_what_is_hidden_from_one_count_shows_in_another(method, task, share, by, tmp_path):
    cost = cost_of(method, task, tmp_path)
    assert (cost.outcome, cost.reason) == ("FAIL", "over-budget")
    assert cost.estimate == pytest.approx(share, rel=0.03)
    said = finding(cost)
    assert f"{100 * share:.0f} % of the {by} of retraining" in said
    assert ("15 % are allowed" in said) == (by == "operations")


# ---- CPU time


def by_hand(images, labels, weights, epochs):
    """Train the wide network in numpy, which no count of torch's sees."""
    w, b, v, c, u, d = (np.array(each) for each in weights)
    for _ in range(epochs):
        for start in range(0, len(images), 32):
            x, y = images[start : start + 32], np.eye(3, dtype=np.float32)[labels[start : start + 32]]
            h = np.maximum(x @ w.T + b, 0)
            g = np.maximum(h @ v.T + c, 0)
            z = np.exp(g @ u.T + d)
            e = (z / z.sum(1, keepdims=True) - y) / len(x)
            eg = (e @ u) * (g > 0)
            eh = (eg @ v) * (h > 0)
            for weight, error, below in ((u, e, g), (v, eg, h), (w, eh, x)):
                weight -= 0.01 * error.T @ below
            for bias, error in ((d, e), (c, eg), (b, eh)):
                bias -= 0.01 * error.sum(0)
    return [w, b, v, c, u, d]


def job(model, request):
    images = request.retain.inputs["image"].flatten(1).numpy()
    return images, request.retain.labels.numpy(), [p.detach().numpy() for p in model.parameters()], request.epochs


def put(model, weights):
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))
    return model


def in_numpy(model, request):
    return put(model, by_hand(*job(model, request)))


def in_a_forked_child(model, request):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(by_hand(*job(model, request))))
    child.start()
    weights = ours.recv()
    child.join()
    return put(model, weights)


@pytest.mark.parametrize("method", [in_numpy, in_a_forked_child])
def test_what_no_count_sees_takes_cpu_time(method, tmp_path):
    cost = cost_of(method, f"{__name__}:Wide", tmp_path)
    assert cost.estimate == 0
    assert (cost.outcome, cost.reason) == ("FAIL", "over-budget")
    assert cost.details["cpu_seconds_of_retraining"] > 0.5
    assert "of the CPU time of retraining. The budget is 10 %; by CPU time, 40 % are allowed." in finding(cost)


# ---- a task of which the meter does not see everything


def test_a_budget_is_not_kept_where_retraining_itself_is_not_measured(tmp_path):
    def honest(model, request):
        return steps(model, request, 1, lambda batch: request.loss(model, batch))

    cost = cost_of(honest, f"{__name__}:NotBatchFirst", tmp_path)
    assert (cost.outcome, cost.reason) == ("INCONCLUSIVE", "unmetered")
    assert 0 < cost.details["retraining_measured"] < 0.6
    assert f"the meter finds {100 * cost.details['retraining_measured']:.0f} % of retraining's own" in finding(cost)
