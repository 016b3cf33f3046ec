"""Trainings side by side, and steps that are recorded: with recordings that are plain calls, so on any machine."""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import dataclass, replace

import numpy
import pytest
import torch
from tape import Calls
from torch import nn

from harness import registry
from harness.api import Batch
from harness.training import engine
from harness.training.data import Data, digest
from harness.training.engine import CannotRecord, Randomness, StepsNotRecorded, Training, run
from harness.training.loop import Job, train, train_all
from harness.training.meter import Meter, count_again, counted


@dataclass(frozen=True)
class Restless:
    """A task that draws random numbers in every step: by dropout, by augmentation, and from Python and numpy."""

    epochs: int = 4
    batch_size: int = 8

    def new_model(self):
        return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

    def logits(self, model, batch):
        return model(batch.inputs["x"])

    def criterion(self, logits, batch):
        return nn.functional.cross_entropy(logits, batch.labels)

    def optimizer(self, model, lr=None):
        return torch.optim.SGD(model.parameters(), lr or 0.1, momentum=0.9)

    def schedule(self, optimizer, steps):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def augment(self, batch):
        shift = random.random() + numpy.random.rand() + torch.randn(len(batch), 1)
        return replace(batch, inputs={"x": batch.inputs["x"] + 0.1 * shift})


class Adaptive(Restless):
    def optimizer(self, model, lr=None):
        return torch.optim.AdamW(model.parameters(), lr or 0.01)


class Cyclic(Restless):
    def schedule(self, optimizer, steps):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)  # turns the momentum, too


class Foreign(Restless):
    class Descent(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.sub_(group["lr"] * parameter.grad)

    def optimizer(self, model, lr=None):
        return self.Descent(model.parameters())


def examples(n: int = 43) -> Data:
    generator = torch.Generator().manual_seed(1)
    return Data({"x": torch.randn(n, 4, generator=generator)}, torch.randint(3, (n,), generator=generator))


def jobs(data: Data, k: int) -> list[Job]:
    """Trainings that differ in seed, in what they keep (and so in the length of passes), and in where they stop."""
    keep = [torch.arange(len(data)) >= 7 * (i % 3) for i in range(k)]
    return [Job(data, kept, seed=i // 2, stop=2 if i == 3 else None) for i, kept in enumerate(keep)]


def weights(trained) -> list[tuple[str, int]]:
    return [(digest(fitting.model.state_dict()), fitting.examples) for fitting in trained]


@pytest.fixture
def recording(monkeypatch):
    """Have every training recorded, as if it were on a GPU."""
    calls = Calls()
    monkeypatch.setattr("harness.training.loop.recorder", lambda device: calls)
    return calls


CPU = torch.device("cpu")
DIGITS = registry.resolve("task", "digits-cnn:epochs=2").value


@pytest.mark.parametrize(
    ("task", "recorded"),
    [(Restless(), False), (Restless(), True), (Adaptive(), False), (DIGITS, False), (DIGITS, True)],
    ids=lambda value: type(value).__name__ if not isinstance(value, bool) else "recorded" if value else "called",
)  # torch's Adam has no steps to record on a CPU
def test_together_as_alone(task, recorded, request):
    calls = request.getfixturevalue("recording") if recorded else None
    data = task.load(None).train if hasattr(task, "load") else examples()
    wanted = jobs(data, 5)
    alone = weights(train_all(task, [job])[0] for job in wanted)
    assert len(set(alone)) == len(alone)
    state = torch.get_rng_state(), random.getstate()
    if calls:
        calls.recorded.clear()
    assert weights(train_all(task, wanted)) == alone
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == random.getstate()
    if calls:  # all five while all are left; a short last batch, and who is left when others have ended, apart
        assert calls.recorded.count(5) == 1
        assert set(calls.recorded) <= {1, 2, 3, 4, 5}
        assert len(calls.recorded) <= 10


def test_recorded_steps_are_the_steps(recording):
    task, data = Restless(), examples()
    job = jobs(data, 1)[0]
    recorded = train_all(task, [job])[0].model.state_dict()
    assert recording.recorded == [1, 1]  # whole batches, and the short one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.training.loop.recorder", lambda device: None)
        called = train_all(task, [job])[0].model.state_dict()
    for name, tensor in called.items():
        torch.testing.assert_close(recorded[name], tensor, msg=name)


def test_passes_are_told_in_order(recording):
    told = []
    two = [
        Job(
            examples(), torch.ones(43, dtype=torch.bool), seed, lambda _, done, of, seed=seed: told.append((seed, done))
        )
        for seed in (1, 2)
    ]
    train_all(Restless(), two)
    assert told == [(seed, done) for done in range(5) for seed in (1, 2)]


@pytest.mark.parametrize(
    ("task", "why"), [(Foreign(), "optimiser Descent cannot be recorded"), (Cyclic(), "more than the learning rate")]
)
def test_what_cannot_be_recorded_is_called(task, why, recording):
    job = jobs(examples(), 1)[0]
    with pytest.warns(StepsNotRecorded, match=why):
        (found,) = train_all(task, [job])
    assert not recording.recorded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.training.loop.recorder", lambda device: None)
        (called,) = train_all(task, [job])
    assert found.examples == called.examples
    for name, tensor in called.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor, msg=name)


def test_a_recording_that_fails_costs_no_step(monkeypatch):
    """What was trained until then stays, and the step that was to be recorded is called."""

    def record(steps):
        raise CannotRecord("a tensor is made on the CPU")

    task, job = Restless(), jobs(examples(), 1)[0]
    called = train(task, job.data, job.keep, job.seed)[0].state_dict()
    monkeypatch.setattr("harness.training.loop.recorder", lambda device: record)
    with pytest.warns(StepsNotRecorded, match="without CUDA graphs, which is slower: a tensor is made on the CPU"):
        found = train_all(task, [job])[0].model.state_dict()
    for name, tensor in called.items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def test_inputs_are_copied_to_where_the_recording_reads_them():
    """Items of one form share their place, and plain values are part of the form."""
    parameter = nn.Parameter(torch.zeros(2))
    calls, seen = Calls(), []

    def loss(item):
        factor, batch = item
        seen.append((factor, batch.inputs["x"].data_ptr()))
        return factor * (batch.inputs["x"] * parameter).sum()

    data = Data({"x": torch.arange(28.0).view(14, 2)}, torch.zeros(14, dtype=torch.int64))
    items = [(1.0 if i < 8 else 2.0, data.batch(torch.tensor([i]))) for i in range(14)]
    run([Training(torch.optim.SGD([parameter], 0.1), iter(items), loss)], calls)
    expected = sum((factor * batch.inputs["x"][0] for factor, batch in items), torch.zeros(2))
    torch.testing.assert_close(parameter.detach(), -0.1 * expected)
    assert len({place for _, place in seen[engine.WARM : 8]}) == 1
    assert len({place for _, place in seen[8 + engine.WARM :]}) == 1
    assert calls.recorded == [1, 1]


def test_items_come_apart_and_together():
    batch = Batch({"a": torch.ones(2, 3), "b": torch.zeros(2)}, torch.tensor([0, 1]), torch.tensor([5, 6]))
    item = ("max", (batch, torch.tensor(0.5)), None)
    form, tensors = engine.taken_apart(item, CPU)
    again = engine.put_together(form, iter(tensors))
    assert again[0] == "max"
    assert again[2] is None
    assert torch.equal(again[1][0].inputs["a"], batch.inputs["a"])
    assert torch.equal(again[1][0].index, batch.index)
    assert engine.taken_apart(copy.deepcopy(item), CPU)[0] == form
    assert engine.taken_apart(("min", *item[1:]), CPU)[0] != form


def test_meters_count_what_is_replayed():
    model = nn.Linear(2, 2)
    with Meter(model) as meter:
        before = counted()
        model(torch.ones(3, 2)).sum().backward()
        after = counted()
        count_again(before, after)
    assert meter.examples == pytest.approx(6)
    assert meter.flops == 2 * (after[0].flops - before[0].flops) > 0
    with Meter(model, operations=False) as meter:
        count_again([replace_flops(counted()[0], 0)], [replace_flops(counted()[0], 7)])
    assert meter.flops == 0


def replace_flops(counts, flops):
    return counts._replace(flops=flops)


def test_a_recording_that_fails_is_not_counted(monkeypatch):
    """The hooks that count have run when a recording fails, and run again when the step is made."""

    def record(steps):
        for _, step in steps:
            step()
        raise CannotRecord("it fails at the end")

    model = nn.Linear(2, 1)
    items = [torch.ones(3, 2)] * 6
    with Meter(model) as meter, pytest.warns(StepsNotRecorded):
        run([Training(torch.optim.SGD(model.parameters(), 0.1), iter(items), lambda x: model(x).sum())], record)
    assert meter.examples == pytest.approx(18)
    assert meter.steps == 6


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"x": torch.ones(1)}, "holds a dict"),
        ((torch.ones(1, device="meta"), 1), "a tensor on the META"),
    ],
)
def test_items_that_no_graph_can_be_given_are_trained_on(item, why):
    parameter, seen = nn.Parameter(torch.zeros(1)), []
    training = Training(
        torch.optim.SGD([parameter], 0.1), iter([item] * 6), lambda x: seen.append(x) or parameter.sum()
    )
    calls = Calls()
    with pytest.warns(StepsNotRecorded, match=why):
        run([training], calls)
    assert seen == [item] * 6
    assert not calls.recorded


def test_items_of_ever_other_forms_do_not_fill_the_memory():
    parameter, calls = nn.Parameter(torch.zeros(1)), Calls()
    items = [float(i // (engine.WARM + 1)) for i in range((engine.WARM + 1) * (engine.GRAPHS + 2))]
    training = Training(torch.optim.SGD([parameter], 0.1), iter(items), lambda factor: factor * parameter.sum())
    with pytest.warns(StepsNotRecorded, match="more than 64 forms"):
        run([training], calls)
    assert len(calls.recorded) == engine.GRAPHS
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.1 * sum(items)]))


@pytest.mark.parametrize(
    "draw", [random.random, numpy.random.rand, lambda: torch.rand(1)], ids=["python", "numpy", "torch"]
)
def test_random_numbers_of_the_cpu_are_noticed_and_put_back(draw):
    randomness = Randomness(CPU)
    before = engine.host_state()
    with randomness:
        own = engine.host_state()
        with pytest.raises(CannotRecord, match="random numbers on the CPU"), engine.recording():
            draw()
        assert not engine._differs(own, engine.host_state())
        with pytest.raises(ZeroDivisionError), engine.recording():
            draw() and 1 / 0
        assert not engine._differs(own, engine.host_state())
        with engine.recording():
            pass
        draw()
        assert engine._differs(own, engine.host_state())
    assert not engine._differs(before, engine.host_state())


def test_an_optimiser_that_has_made_steps_is_not_recorded():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    with pytest.warns(StepsNotRecorded, match="has made steps"):
        run([Training(optimizer, iter([1.0] * 5), lambda factor: factor * parameter.sum())], Calls())


def test_nothing_is_said_on_a_cpu():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_all(Foreign(), jobs(examples(), 2))


def test_a_task_may_be_compiled(monkeypatch):
    """What is trained is the model, and no wrapper of it."""
    wrapped = []

    def compiled(model, dynamic):
        assert dynamic is False
        wrapped.append(model)
        return lambda x: model(x)

    @dataclass(frozen=True)
    class Compiled(Restless):
        compiled: bool = True

    job = jobs(examples(), 1)[0]
    wanted = weights(train_all(Restless(), [job]))
    monkeypatch.setattr(torch, "compile", compiled)
    trained = train_all(Compiled(), [job])
    assert weights(trained) == wanted
    assert wrapped == [trained[0].model]
