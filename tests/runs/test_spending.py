"""Methods that spend more than they say fail the budget audit, however well they forget."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from harness import audit
from harness.training.loop import fit


def retraining_in_disguise(model, request):
    """Gradual alignment of the parameters, it says; in truth it trains from scratch for as long as the recipe does."""
    fresh = request.new_model()
    fit(request, fresh, request.batches("retain", epochs=request.epochs))
    model.load_state_dict(fresh.state_dict())
    return model


def own_loader(model, request):
    """Take the data out of the request and go over them by a loader of its own."""
    data = TensorDataset(request.retain.inputs["image"], request.retain.labels)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(4):
        for images, labels in DataLoader(data, batch_size=32, shuffle=True, generator=request.generator):
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def deep_copy(model, request):
    """Train a copy, of which nobody was told, and hand that back."""
    hidden = copy.deepcopy(model)
    optimizer = request.optimizer(hidden, lr=0.05)
    for batch in request.batches("retain", epochs=4):
        optimizer.zero_grad()
        cross_entropy(hidden(batch.inputs["image"]), batch.labels).backward()
        optimizer.step()
    return hidden


def honest(model, request):
    """Train for as long as it may."""
    optimizer = request.optimizer(model, lr=0.05)
    for batch in request.batches("retain", examples=request.affordable()):
        optimizer.zero_grad()
        request.loss(model, batch).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize(
    ("method", "fraction"), [(retraining_in_disguise, 1.0), (own_loader, 0.4), (deep_copy, 0.4), (honest, 0.1)]
)
def test_what_was_spent_is_what_is_judged(method, fraction, tmp_path):
    verdicts = audit(method, task="tiny:Tiny", poison="backdoor:size=1", seeds=3, store=tmp_path)
    (cost,) = [verdict for verdict in verdicts if verdict.measure.name == "cost"]
    assert cost.estimate == pytest.approx(fraction)
    assert cost.outcome == ("PASS" if fraction <= 0.1 else "FAIL")
    assert cost.details["flops_of_retraining"] == pytest.approx(fraction, rel=0.05)


def test_small_batches_show_in_steps(tmp_path):
    def small_batches(model, request):
        optimizer = request.optimizer(model, lr=0.001)
        for batch in request.batches("retain", batch_size=1, examples=request.affordable()):
            optimizer.zero_grad()
            request.loss(model, batch).backward()
            optimizer.step()
        return model

    verdicts = audit(small_batches, task="tiny:Tiny", poison="backdoor:size=1", seeds=3, store=tmp_path)
    (cost,) = [verdict for verdict in verdicts if verdict.measure.name == "cost"]
    assert cost.estimate == pytest.approx(0.1)  # by examples and operations; CPU time may tell
    assert cost.details["steps_of_retraining"] == pytest.approx(216 / 70)
