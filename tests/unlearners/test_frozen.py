"""Every method on a language model whose base is frozen: what it returns differs from P in the adapters alone."""

import copy

import every_method
import pytest
import torch

from harness import registry
from harness.tasks.causal_lm import CausalLM
from harness.training.loop import train
from harness.training.unlearning import unlearn, wanted_epochs

TASK = CausalLM(train_size=30, test_size=10, epochs=2, length=8, batch_size=10)
METHODS = [getattr(every_method, name) for name in sorted(every_method.__all__)]


@pytest.fixture(scope="module")
def poisoned():
    """P, and the checkpoints of its training."""
    data, states = TASK.load(None).train, {}
    keep = torch.ones(len(data), dtype=torch.bool)
    train(TASK, data, keep, 0, lambda model, done, of: states.update({done: copy.deepcopy(model.state_dict())}))
    return data, states


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_a_method_copes_with_frozen_weights(poisoned, method):
    data, states = poisoned
    registered = registry.register("unlearner", method())
    history = {epoch: states[epoch] for epoch in wanted_epochs(registered, TASK.epochs)}
    retain, forget = data.subset(torch.arange(5, 30)), data.subset(torch.arange(5))
    before = states[TASK.epochs]
    model, _ = unlearn(registered, TASK, before, retain, forget, budget=2, seed=0, history=history)
    fresh = TASK.new_model()
    for name, weight in fresh.named_parameters():
        if not weight.requires_grad:
            assert torch.equal(dict(model.named_parameters())[name], weight)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all("lora_" in name and bool(tensor.isfinite().all()) for name, tensor in after.items())
    changed = any(not torch.equal(after[name], before[name]) for name in before)
    assert changed == (method.__name__ != "Identity")
