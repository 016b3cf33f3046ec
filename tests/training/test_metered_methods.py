"""Whatever a method does is charged for: its steps, its teachers, its copies."""

import copy

import pytest
import torch
from metered import N, Net, train_step
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from harness.training.meter import Meter

FORWARD, BACKWARD = N / 3, N * 2 / 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x():
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(1))


# ---- what a method may do


def with_a_teacher(net, x):
    teacher = copy.deepcopy(net).eval()
    for _ in range(3):
        with torch.no_grad():
            target = teacher(x)
        (net(x) - target).square().sum().backward()


def with_a_remembered_teacher(net, x):
    with torch.no_grad():
        target = copy.deepcopy(net).eval()(x)
    for _ in range(3):
        (net(x) - target).square().sum().backward()


def with_fisher_information(net, x):
    for row in x:
        torch.autograd.grad(net(row[None]).square().sum(), list(net.parameters()))


def with_a_copy(net, x):
    train_step(copy.deepcopy(net), x)


def with_a_new_model(net, x):
    other = Net()
    other.load_state_dict(net.state_dict())
    train_step(other, x)


def with_a_loader(net, x):
    for (rows,) in DataLoader(TensorDataset(x), batch_size=4, shuffle=True):
        train_step(net, rows)


def with_its_parts(net, x):
    net.head(net.body(x)).square().sum().backward()


def with_functions(net, x):
    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    torch.func.functional_call(net, weights, (x,)).square().sum().backward()


def with_gradients_of_functions(net, x):
    weights = {name: p.detach() for name, p in net.named_parameters()}
    torch.func.grad(lambda w: torch.func.functional_call(net, w, (x,)).square().sum())(weights)


def with_checkpoints(net, x):
    checkpoint(net.body, x.requires_grad_(), use_reentrant=False).square().sum().backward()


BODY = (4 * 5 + 5) / (4 * 5 + 5 + 5 * 3 + 3)


@pytest.mark.parametrize(
    ("work", "examples"),
    [
        (train_step, N),
        (with_a_teacher, 3 * (N + FORWARD)),
        (with_a_remembered_teacher, 3 * N + FORWARD),
        (with_fisher_information, N),
        (with_a_copy, N),
        (with_a_new_model, N),
        (with_a_loader, N),
        (with_its_parts, N),
        (with_functions, N),
        (with_gradients_of_functions, N),
        (with_checkpoints, N * BODY),  # what is computed again shows in operations
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_a_method_does_is_charged_in_examples_and_in_operations(net, x, work, examples):
    with FlopCounterMode(display=False) as reference:
        work(copy.deepcopy(net), x.clone())
    with Meter(net) as meter:
        work(net, x)
    assert meter.examples == pytest.approx(examples, rel=1e-12)
    assert meter.flops == reference.get_total_flops() > 0


# ---- steps


@pytest.mark.parametrize(
    "name",
    ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD", "RMSprop", "Rprop", "LBFGS"],
)
def test_steps_of_every_optimiser_count(net, x, name):
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.01)

    def loss():
        optimizer.zero_grad()
        value = net(x).square().sum()
        value.backward()
        return value

    with Meter(net) as meter:
        for _ in range(3):
            optimizer.step(loss)
    assert meter.steps == 3


def test_steps_of_several_optimisers_add_up(net, x):
    one, other = torch.optim.SGD(net.body.parameters(), 0.1), torch.optim.Adam(net.head.parameters())
    with Meter(net) as meter:
        for _ in range(3):
            train_step(net, x, one)
        train_step(net, x, other)
        train_step(copy.deepcopy(net), x)  # an optimiser that is made on the way
    assert meter.steps == 5


def test_steps_count_once_under_a_schedule(net, x):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
    with Meter(net) as meter:
        for _ in range(3):
            train_step(net, x, optimizer)
            schedule.step()
    assert meter.steps == 3


def test_steps_of_a_derived_optimiser_count_once(net, x):
    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    torch.optim.SGD(net.parameters(), 0.1)
    with Meter(net) as meter:
        train_step(net, x, Mine(net.parameters(), 0.1))
    assert meter.steps == 1


def test_steps_after_one_that_raised_count(net, x):
    def broken():
        raise ZeroDivisionError

    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with Meter(net) as meter:
        with pytest.raises(ZeroDivisionError):
            optimizer.step(broken)
        train_step(net, x, optimizer)
        train_step(net, x, optimizer)
    assert meter.steps == 2


def test_steps_outside_do_not_count(net, x):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    train_step(net, x, optimizer)
    with Meter(net) as meter:
        net(x).sum().backward()
    train_step(net, x, optimizer)
    assert meter.steps == 0
