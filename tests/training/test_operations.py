"""Retraining in disguise: what hides it from the count of examples does not hide it from that of operations."""

import copy
import threading
from dataclasses import dataclass

import pytest
import torch
from tiny import Tiny
from torch import nn
from torch.nn.functional import cross_entropy, linear, relu
from torch.utils.flop_counter import FlopCounterMode

from harness.training.loop import fit
from harness.training.meter import Meter
from harness.training.operations import Operations

TASK = Tiny()
BATCHES = list(TASK.load(None).train.batches(32, 2, torch.Generator().manual_seed(0)))
EXAMPLES = sum(map(len, BATCHES))


def descend(model, losses):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def loss_of(model, batch):
    return cross_entropy(model(batch.inputs["image"]), batch.labels)


@dataclass
class Answer:
    scores: torch.Tensor


class Task:
    """A plain object that holds no tensor that a walk could find."""

    def __init__(self, batch):
        self.loss = lambda model: loss_of(model, batch)


class Wrapper(nn.Module):
    def __init__(self, model, forward):
        super().__init__()
        self.model, self.how = model, forward

    def forward(self, *args):
        return self.how(self.model, *args)


def as_the_recipe_does(model):
    fit(TASK, model, BATCHES)


def in_a_dataclass(model):
    wrapped = Wrapper(model, lambda net, x: Answer(net(x)))
    descend(model, (cross_entropy(wrapped(b.inputs["image"]).scores, b.labels) for b in BATCHES))


def not_batch_first(model):
    wrapped = Wrapper(model, lambda net, x: net(x[0]))
    descend(model, (cross_entropy(wrapped(b.inputs["image"][None]), b.labels) for b in BATCHES))


def of_an_object(model):
    wrapped = Wrapper(model, lambda net, task: task.loss(net))
    descend(model, (wrapped(Task(batch)) for batch in BATCHES))


def of_a_number(model):
    wrapped = Wrapper(model, lambda net, i: loss_of(net, BATCHES[int(i)]))
    descend(model, (wrapped(torch.tensor(i)) for i in range(len(BATCHES))))


def in_one_call(model):
    Wrapper(model, lambda net, x: (as_the_recipe_does(net), x)[1])(torch.zeros(1, 1))


def written_out(model):
    w, b, v, c = model.parameters()
    scores = lambda batch: linear(relu(linear(batch.inputs["image"].flatten(1), w, b)), v, c)  # noqa: E731
    descend(model, (cross_entropy(scores(batch), batch.labels) for batch in BATCHES))


def compiled(model):
    net = torch.compile(lambda x: model(x))
    descend(model, (cross_entropy(net(b.inputs["image"]), b.labels) for b in BATCHES))


def traced(model):
    net = torch.jit.trace(model, BATCHES[0].inputs["image"])
    descend(net, (cross_entropy(net(b.inputs["image"]), b.labels) for b in BATCHES))


def by_functions(model):
    weights = {name: p.detach() for name, p in model.named_parameters()}
    for batch in BATCHES:

        def loss(w, batch=batch):
            return cross_entropy(torch.func.functional_call(model, w, (batch.inputs["image"],)), batch.labels)

        gradients = torch.func.grad(loss)(weights)
        weights = {name: w - 0.1 * gradients[name] for name, w in weights.items()}


def by_example(model):
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(w, image, label):
        return cross_entropy(torch.func.functional_call(model, w, (image[None],)), label[None])

    for batch in BATCHES:
        torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, batch.inputs["image"], batch.labels)


def in_a_thread(model):
    thread = threading.Thread(target=as_the_recipe_does, args=(model,))
    thread.start()
    thread.join()


@pytest.fixture(scope="module")
def whole():
    with Operations() as operations:
        as_the_recipe_does(TASK.new_model())
    return operations.total


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
@pytest.mark.parametrize(
    ("work", "examples"),
    [
        (as_the_recipe_does, 1),
        (in_a_dataclass, 1),
        (not_batch_first, 1 / 32),
        (of_an_object, 1),
        (of_a_number, 1),
        (in_one_call, 1 / 3 / EXAMPLES),
        (written_out, 0),
        (compiled, None),
        (traced, 1),
        (by_functions, 1),
        (by_example, 1 / 32),
        (in_a_thread, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_retraining_takes_its_operations_however_it_is_written(work, examples, whole):
    model = TASK.new_model()
    with Meter(model) as meter:
        work(model)
    assert 0.98 <= meter.flops / whole <= (1.2 if work is traced else 1.02)  # whatever torch does to check a trace
    if examples is not None:
        assert meter.examples / EXAMPLES == pytest.approx(examples, rel=0.1)


def test_a_method_may_count_operations_of_its_own():
    model = TASK.new_model()
    with Meter(model) as outer, FlopCounterMode(display=False) as torchs, Operations() as inner:
        as_the_recipe_does(model)
    assert outer.flops == inner.total == torchs.get_total_flops() > 0


def test_counting_changes_no_bit():
    one = TASK.new_model()
    other = copy.deepcopy(one)
    as_the_recipe_does(one)
    with Operations():
        as_the_recipe_does(other)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_what_is_compiled_afterwards_is_compiled():
    seen = []
    with Operations():
        pass
    torch.compile(lambda x: x + 1, backend=lambda graph, _: seen.append(graph) or graph.forward)(torch.ones(2))
    assert len(seen) == 1
