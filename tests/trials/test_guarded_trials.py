"""Trials of plugins that keep state, hang, copy, skip, or answer by what is not stored."""

import copy
import time
from dataclasses import replace

import pytest
import torch
from labs import BACKDOOR, GD, IDENTITY, RETRAIN, TINY, lab_in, method, records, trial
from tiny import Tiny
from torch import nn

from harness import audit
from harness.api import ContractError, UnlearningError
from harness.calling import PluginExit
from harness.cells import Cell, Registered, Trial
from harness.guards.clock import TimedOut
from harness.trials.lab import Lab


def on(task):
    """Return the tiny task with another value behind it."""
    return replace(TINY, value=task, id="tiny:other", source="0" * 64)


def descend(model, request):
    optimizer = request.optimizer(model)
    for batch in request.batches("retain"):
        optimizer.zero_grad()
        request.loss(model, batch).backward()
        optimizer.step()
    return model


def test_a_method_that_averages_what_it_saw_before_is_caught_before_it_is_stored(lab):
    seen = []

    def averages(model, request):
        descend(model, request)
        seen.append(copy.deepcopy(model.state_dict()))
        mean = {name: torch.stack([each[name] for each in seen]).mean(0) for name in seen[0]}
        model.load_state_dict(mean)
        return model

    of = method(averages)
    lab.run(trial(of))
    stored = len(records(lab.store.root, "model"))
    with pytest.raises(ContractError, match="other weights for seed 0 after it was asked for seed 1") as raised:
        lab.run(trial(of, seed=1))
    assert raised.value.line == "repeatable"
    assert len(records(lab.store.root, "model")) == stored + 2, "P and R of seed 1, and no U"


def test_the_first_request_is_asked_again_now_and_then(lab):
    asked = []

    def counts(model, request):
        asked.append(request)
        return descend(model, request)

    of = method(counts)
    for seed in range(6):
        lab.run(trial(of, seed=seed))
    assert len(asked) == 6 + 2, "after the first and the fourth other trial"
    draws = method(lambda model, request: asked.append(request) or descend(model, request), "draws")
    draws.value.repeatable = False
    before = len(asked)
    for seed in range(3):
        lab.run(trial(draws, seed=seed))
    assert len(asked) == before + 3


def test_a_task_whose_models_are_more_than_their_state_dicts_is_refused(lab):
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("draw", torch.randn(16, 16), persistent=False)

        def forward(self, x):
            return (x.flatten(1) @ self.draw).relu()

    class Random(Tiny):
        def new_model(self):
            return nn.Sequential(Features(), nn.Linear(16, 3))

        def blocks(self, model):
            return [model]

    with pytest.raises(ContractError, match="the task 'tiny:other' trained a model whose outputs differ"):
        lab.run(Trial(Cell(GD, on(Random()), BACKDOOR), 0))
    assert records(lab.store.root, "model") == []


@pytest.mark.parametrize(
    "hook", [lambda _, args, scores: scores + 1, lambda _, args, scores: scores[:, :2]], ids=["values", "shape"]
)
def test_a_method_whose_model_is_more_than_its_state_dict_is_refused(lab, hook):
    def adds(model, request):
        descend(model, request)
        model[1].register_forward_hook(hook)
        return model

    with pytest.raises(ContractError, match="the unlearner 'method' returned a model whose outputs differ") as raised:
        lab.run(trial(method(adds)))
    assert raised.value.line == "state-dict"


def test_a_method_that_hangs_is_stopped_and_told_how_to_get_longer(tmp_path):
    def hangs(model, request):
        while True:
            time.sleep(0.01)

    with pytest.raises(TimedOut) as raised:
        lab_in(tmp_path, timeout=1).run(trial(method(hangs)))
    assert str(raised.value) == (
        "the unlearner 'method' did not end within 1 seconds on seed 0; if it needs longer, give it more with "
        "--audit-timeout=SECONDS"
    )


@pytest.mark.parametrize("size", [0.001, 0.01])
def test_a_copy_of_the_retrained_model_with_noise_is_no_unlearning(size, tmp_path):
    lab = Lab.open(tmp_path, device="cpu")

    def copies(model, request):
        seed = len(done)
        retrained = lab.model(TINY, lab.models(trial(IDENTITY, seed=seed))["R"])
        model.load_state_dict(retrained.state_dict())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=request.generator) * size * parameter.std())
        done.append(seed)
        return model

    done = []
    for seed in range(3):
        lab.run(trial(IDENTITY, seed=seed))
    copies.repeatable = False  # it takes the models in turn
    with pytest.raises(ContractError, match="too close to the retrained model of seed 0 not to be a copy"):
        audit(copies, task="tiny:Tiny", poison="backdoor", store=tmp_path / "other", seeds=3)


def test_how_near_a_model_is_says_what_it_must(lab):
    near = {name.id: lab.run(trial(name)).nearness["U"] for name in (RETRAIN, IDENTITY, GD)}
    assert near["retrain"]["weights"] > near["gd"]["weights"] > 0.01
    assert all(each["logits"] > 0.01 for each in near.values())


@pytest.mark.parametrize("where", ["load", "files", "new_model", "criterion"])
@pytest.mark.parametrize("ends", [lambda: pytest.skip("no network"), lambda: exit(0)], ids=["skip", "exit"])
def test_a_task_that_skips_is_an_error_wherever_it_is_called(where, ends, lab):
    def stop(*_, **__):
        ends()

    task = type("Skips", (Tiny,), {where: stop})()
    with pytest.raises(UnlearningError, match="the task 'tiny:other' tried to end its own test"):
        lab.run(Trial(Cell(GD, on(task), BACKDOOR), 0))


@pytest.mark.parametrize("where", ["plant", "probe"])
def test_a_poison_that_skips_is_an_error(where, lab):
    def stop(*_, **__):
        pytest.xfail("not today")

    value = type("Skips", (type(BACKDOOR.value),), {where: stop})()
    poison: Registered = replace(BACKDOOR, value=value, id="skips", source="1" * 64)
    with pytest.raises(PluginExit, match=r"the poison .skips. tried to end its own test by pytest\.xfail"):
        lab.run(Trial(Cell(GD, TINY, poison), 0))


def test_a_method_that_looks_into_the_store_is_refused(lab):
    import os

    def looks(model, request):
        os.listdir(lab.store.files.root / "blobs")
        return model

    with pytest.raises(ContractError, match="it must leave the store's and the harness's files alone"):
        lab.run(trial(method(looks)))
