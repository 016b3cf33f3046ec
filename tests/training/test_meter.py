"""The meter counts what models compute, whoever built them and however they are called."""

import contextlib
import copy

import pytest
import torch
from metered import N, Net, Wrapper, cost, train_step
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from harness import registry
from harness.api import Batch
from harness.training.meter import Meter

FORWARD, BACKWARD = N / 3, N * 2 / 3


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x():
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(1))


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


def test_a_module_that_grows_counts_by_its_new_size(net, x):
    def work():
        grows = nn.Sequential()
        grows(x)  # costs nothing yet
        grows.append(net)
        grows(x).sum().backward()

    assert cost(net, work) == N


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda net: setattr(net.body[0], "more", nn.Parameter(torch.zeros(7))), 25 + 7),
        (lambda net: net.body.insert(0, nn.Linear(4, 4)), 25 + 20),
        (lambda net: net.body.__delitem__(1), 25),
        (lambda net: setattr(net.body, "1", net.body[0]), 25),  # twice the same
        (lambda net: setattr(net.body[0], "bias", None), 20),
        (lambda net: setattr(net.body[0].weight, "data", torch.zeros(50, 4)), 205),
    ],
    ids=["a parameter more", "a layer more", "a layer less", "a shared layer", "a parameter less", "a larger one"],
)
def test_a_module_that_changes_counts_by_its_new_size(net, x, change, part):
    size = 4 * 5 + 5 + 5 * 3 + 3

    def work():
        net.body(x)
        change(net)
        with contextlib.suppress(RuntimeError):  # not every change can still be called
            net.body(x)

    assert cost(net, work) == pytest.approx(FORWARD * (25 + part) / size)


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


@pytest.mark.parametrize("used", [["loss"], ["scores"], ["loss", "scores"]], ids="+".join)
def test_a_backward_pass_counts_once_whichever_outputs_it_goes_through(net, x, used):
    several = Wrapper(net)
    several.forward = lambda x: {"loss": (scores := net(x)).square().mean(), "scores": scores}

    def work():
        outputs = several(x)
        sum(outputs[name].sum() for name in used).backward()

    assert cost(net, work) == N


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


class Breaks(nn.Linear):
    def forward(self, x):
        raise MemoryError("no memory left")


def test_one_meter_within_another_hides_no_error(net, x):
    with Meter(net) as outer, Meter(net) as inner:
        with pytest.raises(MemoryError, match="no memory left"):
            Breaks(4, 5)(x)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            net(torch.randn(N, 99))
    assert outer.examples == inner.examples > 0


def test_each_of_two_meters_counts_by_its_own_model_and_time(net, x):
    with Meter(net) as outer:
        net(x)
        with Meter(net.head) as inner:
            net(x).sum().backward()
        net(x)
    size, head = 4 * 5 + 5 + 5 * 3 + 3, 5 * 3 + 3
    assert outer.examples == pytest.approx(N + 2 * FORWARD)
    assert inner.examples == pytest.approx(N * size / head)


# ---- activations that are not kept


class Checkpointed(nn.Module):
    """Computes its network in a checkpoint, and, where it is computed again, some more passes."""

    def __init__(self, net, again=0):
        super().__init__()
        self.net, self.calls, self.again = net, 0, again

    def forward(self, x):
        return checkpoint(self._computed, x, use_reentrant=False)

    def _computed(self, x):
        self.calls += 1
        with torch.no_grad():
            for _ in range(self.again if self.calls > 1 else 0):
                self.net(x)
        return self.net(x)


def test_what_checkpointing_computes_again_is_paid_for(net, x):
    model = Checkpointed(net)
    with Meter(net) as meter:
        model(x).square().sum().backward()
    assert model.calls == 2
    assert meter.examples == pytest.approx(N)
    # By operations it shows: all is computed again up to the last product, of which no more than its inputs is needed.
    assert meter.flops == 2 * N * (2 * (4 * 5 + 5 * 3) + 5 * 3 + 4 * 5)


def test_more_than_was_paid_for_is_charged_in_a_checkpoint_too(net, x):
    assert cost(net, lambda: Checkpointed(net, again=3)(x).square().sum().backward()) == N + 3 * FORWARD


def test_a_pass_in_a_hook_of_a_backward_pass_is_charged(net, x):
    def work():
        output = net(x)
        output.register_hook(lambda gradient: net(x).detach())
        output.sum().backward()

    assert cost(net, work) == N + FORWARD


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
    from torch.optim import optimizer

    from harness.training import operations

    def hooks():
        return (
            len(module._global_forward_hooks),
            len(module._global_forward_pre_hooks),
            len(optimizer._global_optimizer_post_hooks),
            len(operations._libraries),
        )

    before = hooks()
    if error is None:
        with Meter(net):
            assert hooks() == (before[0], *(n + 1 for n in before[1:]))
            net(torch.ones(N, 4))
            assert hooks() == (before[0], *(n + 1 for n in before[1:]))
    else:
        with pytest.raises(error), Meter(net):
            raise error
    assert hooks() == before


def test_cpu_seconds_are_those_of_work(net):
    import time

    with Meter(net) as meter:
        time.sleep(0.1)
    assert meter.cpu_seconds < 0.05
    with Meter(net) as meter:
        started = time.process_time()
        while time.process_time() < started + 0.1:
            pass
    assert 0.1 <= meter.cpu_seconds < 1


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


# ---- operations


def test_operations_of_a_linear_network_by_hand(net, x):
    with Meter(net) as meter:
        net(x)
    assert meter.flops == 2 * N * (4 * 5 + 5 * 3)
    with Meter(net) as meter:
        net(x).sum().backward()
    # Forward; both weights' gradients; the gradient of what the head was given, but none of the inputs.
    assert meter.flops == 2 * N * (2 * (4 * 5 + 5 * 3) + 5 * 3)


def image_network():
    return registry.resolve("task", "digits-cnn").value.new_model(), torch.randn(8, 1, 8, 8)


def language_network():
    return nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), torch.randn(4, 5, 16)


@pytest.mark.parametrize("make", [image_network, language_network])
@pytest.mark.parametrize("gradient", [True, False])
def test_operations_are_those_of_torchs_own_counter(make, gradient):
    model, x = make()

    def work():
        with torch.set_grad_enabled(gradient):
            output = model(x)
        if gradient:
            output.square().sum().backward()

    with FlopCounterMode(display=False) as reference:
        work()
    with Meter(model) as meter:
        work()
    assert meter.flops == reference.get_total_flops() > 0


@pytest.mark.parametrize("make", [image_network, language_network])
def test_operations_in_inference_mode_count(make):
    model, x = make()
    with torch.inference_mode():
        with FlopCounterMode(display=False) as reference:
            model(x)
        with Meter(model) as meter:
            model(x)
    assert meter.flops == reference.get_total_flops() > 0


def test_operations_on_tensors_of_inference_mode_count_outside_of_it(net, x):
    with torch.inference_mode():
        teacher, inputs = copy.deepcopy(net), x.clone()
    with Meter(net) as meter, torch.no_grad():
        teacher(inputs)
    assert meter.flops == 2 * N * (4 * 5 + 5 * 3)


def test_operations_on_bare_tensors_show_where_examples_do_not(net, x):
    weight = net.head.weight.detach()
    with Meter(net) as meter:
        torch.randn(7, 5) @ weight.T
    assert (meter.examples, meter.flops) == (0, 2 * 7 * 5 * 3)


def test_frozen_layers_show_in_operations_and_not_in_examples(net, x):
    seen = []
    for frozen in (False, True):
        net.body.requires_grad_(not frozen)
        with Meter(net) as meter:
            train_step(net, x)
        seen.append((meter.examples, meter.flops))
    assert seen[0][0] == seen[1][0] == pytest.approx(N)
    # No gradient of the body's weights, nor of what the head was given.
    assert seen[0][1] - seen[1][1] == 2 * N * (4 * 5 + 5 * 3)


# ---- the end


def test_nothing_is_left_on_torch_if_time_runs_out_at_the_end(monkeypatch):
    from harness.training import meter, operations

    def runs_out():
        raise TimeoutError

    before = len(meter.global_hooks._global_forward_pre_hooks)
    with pytest.raises(TimeoutError), Meter(Net()):
        monkeypatch.setattr(meter, "now", runs_out)
    assert len(meter.global_hooks._global_forward_pre_hooks) == before
    assert operations._counting == []


def test_cpu_time_is_not_the_time_of_a_device_that_somebody_woke(monkeypatch):
    from harness.training.clock import worked

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    started = worked(on_gpu=False)
    sum(range(200_000))
    assert 0 < worked(on_gpu=False) - started < 5
