"""The meter counts what models compute, whoever built them and however they are called."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from harness import registry
from harness.api import Batch
from harness.compute import Meter

N = 6  # examples in a batch
FORWARD, BACKWARD = N / 3, N * 2 / 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return self.net(batch.inputs["x"])


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x():
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(1))


def cost(net, work):
    with Meter(net) as meter:
        work()
    return pytest.approx(meter.examples, rel=1e-12, abs=1e-12)


def test_nothing_costs_nothing(net):
    assert cost(net, lambda: None) == 0


def test_a_forward_pass_costs_a_third_of_an_example(net, x):
    assert cost(net, lambda: net(x)) == FORWARD


def test_forward_and_backward_cost_an_example(net, x):
    assert cost(net, lambda: net(x).sum().backward()) == N


def test_a_pass_without_gradient_costs_its_third(net, x):
    def teacher():
        with torch.no_grad():
            net(x)

    assert cost(net, teacher) == FORWARD


@pytest.mark.parametrize("build", [copy.deepcopy, lambda net: Net()], ids=["copy", "rebuilt"])
def test_copies_and_rebuilt_models_count(net, x, build):
    assert cost(net, lambda: build(net)(x).sum().backward()) == N


def test_a_model_of_another_size_counts_by_its_size(net, x):
    twice = nn.ModuleList([Net(), Net()])
    twice.forward = lambda x: twice[0](x) + twice[1](x)
    assert cost(net, lambda: twice(x).sum().backward()) == 2 * N


def test_a_part_counts_by_its_share_of_the_parameters(net, x):
    share = (4 * 5 + 5) / (4 * 5 + 5 + 5 * 3 + 3)
    assert cost(net, lambda: net.body(x)) == FORWARD * share
    assert cost(net, lambda: net.head(net.body(x)).sum().backward()) == N


def test_modules_without_parameters_are_free(net, x):
    labels = torch.zeros(N, dtype=torch.int64)
    loss = nn.CrossEntropyLoss()
    assert cost(net, lambda: nn.ReLU()(x)) == 0
    assert cost(net, lambda: loss(net(x), labels).backward()) == N
    assert cost(net, lambda: cross_entropy(net(x), labels).backward()) == N


def test_nested_calls_count_once(net, x):
    assert cost(net, lambda: nn.Sequential(nn.Sequential(net))(x).sum().backward()) == N


def test_every_backward_pass_counts(net, x):
    def work():
        loss = net(x).sum()
        loss.backward(retain_graph=True)
        loss.backward()

    assert cost(net, work) == FORWARD + 2 * BACKWARD


def test_gradients_without_backward_count(net, x):
    assert cost(net, lambda: torch.autograd.grad(net(x).sum(), list(net.parameters()))) == N


def test_two_calls_and_one_backward_pass_count_twice(net, x):
    assert cost(net, lambda: (net(x) + net(x)).sum().backward()) == 2 * N


def test_an_output_that_is_never_used_costs_its_forward_pass(net, x):
    def work():
        net(x)
        net(x).sum().backward()

    assert cost(net, work) == FORWARD + N


def test_the_batch_may_be_a_keyword_or_nested(net, x):
    keyword = Wrapper(net)
    keyword.forward = lambda *, batch: net(batch["x"])
    assert cost(net, lambda: keyword(batch={"x": x}).sum().backward()) == N


def test_the_batch_may_be_an_object(net, x):
    batch = Batch({"x": x}, torch.zeros(N, dtype=torch.int64), torch.arange(N))
    assert cost(net, lambda: Wrapper(net)(batch).sum().backward()) == N


def test_outputs_may_be_nested(net, x):
    dictionary = Wrapper(net)
    dictionary.forward = lambda x: {"logits": [net(x)]}
    assert cost(net, lambda: dictionary(x)["logits"][0].sum().backward()) == N


def test_functional_calls_count(net, x):
    parameters = {name: p.clone() for name, p in net.state_dict().items()}
    assert cost(net, lambda: torch.func.functional_call(net, parameters, (x,))) == FORWARD


def test_an_exception_in_a_forward_pass_leaves_the_depth_right(net, x):
    with Meter(net) as meter:
        with pytest.raises(RuntimeError, match="shape"):
            net(torch.randn(N, 99))
        failed = meter.examples
        net(x).sum().backward()
    assert meter.examples - failed == pytest.approx(N)


def test_an_exception_deep_inside_leaves_the_depth_right(net, x):
    class Broken(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    with Meter(net) as meter:
        with pytest.raises(ZeroDivisionError):
            nn.Sequential(nn.Sequential(net, Broken()))(x)
        failed = meter.examples
        net(x).sum().backward()
    assert meter.examples - failed == pytest.approx(N)


def test_nothing_is_counted_outside(net, x):
    before = net(x).sum()
    with Meter(net) as meter:
        pass
    net(x).sum().backward()
    before.backward()
    assert meter.examples == 0


@pytest.mark.parametrize("error", [None, KeyError])
def test_hooks_are_gone_afterwards(net, error):
    from torch.nn.modules import module

    def hooks():
        return len(module._global_forward_hooks), len(module._global_forward_pre_hooks)

    before = hooks()
    if error is None:
        with Meter(net):
            assert hooks() != before
    else:
        with pytest.raises(error), Meter(net):
            raise error
    assert hooks() == before


def test_seconds_are_those_between_enter_and_exit(net):
    import time

    with Meter(net) as meter:
        time.sleep(0.02)
    assert 0.02 <= meter.seconds < 5


def test_metering_changes_no_result(net, x):
    other = copy.deepcopy(net)
    net(x).square().sum().backward()
    with Meter(other):
        other(x).square().sum().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def test_a_backward_pass_is_two_forward_passes_by_operations():
    """Backward skips the gradient with respect to the first layer's input, hence a little less than 1 to 3."""
    model = registry.resolve("task", "digits-cnn").value.new_model()
    x = torch.randn(8, 1, 8, 8)
    with FlopCounterMode(display=False) as forward:
        model(x)
    with FlopCounterMode(display=False) as both, Meter(model) as meter:
        model(x).sum().backward()
    by_operations = both.get_total_flops() / forward.get_total_flops()
    assert by_operations == pytest.approx(3, rel=0.03)
    assert meter.examples == pytest.approx(8)
