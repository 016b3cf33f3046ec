"""The methods for language models against computations by hand: on labels in numpy, on texts token by token."""

import numpy as np
import pytest
import torch
from linear import (
    Linear,
    Watched,
    a_model,
    arrays,
    close,
    cross_entropy_gradient,
    falling,
    points,
    request_of,
    same,
    softmax,
    state,
    weights,
)
from sentences import Sentences, texts
from torch import nn

from harness import UnlearningError
from unlearners._activations import activations, layer_of
from unlearners._likelihood import likelihood
from unlearners.graddiff import GradDiff
from unlearners.neggrad_plus import NegGradPlus
from unlearners.npo import NPO
from unlearners.rmu import RMU
from unlearners.simnpo import SimNPO
from unlearners.task_arithmetic import TaskArithmetic
from unlearners.undial import UNDIAL

RETAIN, FORGET = points(7, 1), points(4, 2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


@pytest.fixture
def request_():
    return request_of(Linear(), RETAIN, FORGET)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_likelihood(w, x, y):
    return np.log(softmax(x @ w.T)[np.arange(len(y)), y])


def weighted_climb(w, x, y, each):
    """Return the gradient of the mean of each * log pi(y | x), with respect to w."""
    p = -softmax(x @ w.T)
    p[np.arange(len(y)), y] += 1
    return (each[:, None] * p).T @ x / len(y)


# ---- on labels


@pytest.mark.parametrize(("beta", "weight"), [(0.1, 1.0), (2.0, 0.5)])
def test_npo_climbs_less_on_what_has_become_less_likely_than_it_was(model, request_, beta, weight):
    w = before = weights(model)
    x, y = arrays(FORGET)
    for rate in falling(0.5, 3):
        ratio = log_likelihood(w, x, y) - log_likelihood(before, x, y)
        climb = weighted_climb(w, x, y, 2 * sigmoid(beta * ratio))
        w = w - rate * (weight * climb + cross_entropy_gradient(w, *arrays(RETAIN)))
    NPO(lr=0.5, beta=beta, weight=weight, epochs=3)(model, request_)
    assert close(weights(model), w)


@pytest.mark.parametrize(("beta", "gamma", "weight"), [(4.5, 0.0, 0.125), (1.0, 0.7, 2.0)])
def test_simnpo_climbs_less_on_what_is_unlikely(model, request_, beta, gamma, weight):
    w = weights(model)
    x, y = arrays(FORGET)
    for rate in falling(0.5, 3):
        climb = weighted_climb(w, x, y, 2 * sigmoid(beta * (log_likelihood(w, x, y) + gamma)))
        w = w - rate * (weight * climb + cross_entropy_gradient(w, *arrays(RETAIN)))
    SimNPO(lr=0.5, beta=beta, gamma=gamma, weight=weight, epochs=3)(model, request_)
    assert close(weights(model), w)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_undial_learns_the_adjusted_answers_of_the_poisoned_model(model, request_, alpha):
    w = weights(model)
    x, y = arrays(FORGET)
    adjusted = x @ w.T
    adjusted[np.arange(len(y)), y] -= 2.0
    for rate in falling(0.5, 3):
        gradient = (softmax(x @ w.T) - softmax(adjusted)).T @ x / len(x)
        w = w - rate * (gradient + alpha * cross_entropy_gradient(w, *arrays(RETAIN)))
    UNDIAL(lr=0.5, beta=2.0, alpha=alpha, epochs=3)(model, request_)
    assert close(weights(model), w)


def test_undial_that_adjusts_nothing_stays(model, request_):
    before = weights(model)
    UNDIAL(lr=0.5, beta=0.0, epochs=3)(model, request_)
    assert np.allclose(weights(model), before, rtol=0, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_task_arithmetic_goes_as_far_the_other_way(model, request_, alpha):
    before = w = weights(model)
    for rate in falling(0.5, 3):
        w = w - rate * cross_entropy_gradient(w, *arrays(FORGET))
    TaskArithmetic(lr=0.5, alpha=alpha, epochs=3)(model, request_)
    assert close(weights(model), before - alpha * (w - before))


def test_graddiff_is_neggrad_plus_with_equal_weights_and_batches():
    left = []
    for method in (GradDiff(lr=0.3, epochs=2), NegGradPlus(lr=0.3, epochs=2, beta=0.5, forget_batch_size=3)):
        model = a_model(Linear())
        left.append(state(method(model, request_of(Linear(3), RETAIN, FORGET))))
    assert same(*left)


# ---- RMU


def test_rmu_by_hand_where_the_layer_is_the_whole_model(model, request_):
    """With c = 0 it steers towards zero. The features are the two scores."""
    w = before = weights(model)
    (xf, _), (xr, _) = arrays(FORGET), arrays(RETAIN)
    for rate in falling(0.1, 3):
        steer = 2 * (xf @ w.T).T @ xf / (2 * len(xf))
        hold = 2 * (xr @ (w - before).T).T @ xr / (2 * len(xr))
        w = w - rate * (steer + 3.0 * hold)
    RMU(lr=0.1, optimizer="recipe", c=0.0, alpha=3.0, epochs=3)(model, request_)
    assert close(weights(model), w)


def test_rmu_steers_every_point_to_one_vector_of_the_given_length():
    class Biased(Linear):
        def new_model(self):
            return nn.Linear(3, 2).double()

    model = a_model(Biased())
    RMU(lr=0.1, c=6.0, alpha=0.0, epochs=800)(model, request_of(Biased(), RETAIN, FORGET))
    outputs = model(FORGET.inputs["x"]).detach()
    assert torch.allclose(outputs, outputs[:1].expand_as(outputs), atol=0.05)
    assert float(outputs[0].norm()) == pytest.approx(6.0, abs=0.05)
    assert bool((outputs > 0).all())  # u is uniform in [0, 1)


@pytest.mark.parametrize(("depth", "changed"), [(0.1, "0"), (0.5, "01"), (1.0, "012")])
def test_rmu_updates_what_is_trained_up_to_the_layer(depth, changed):
    recipe = Sentences(batch_size=8)
    model = recipe.new_model()
    before = state(model)
    RMU(depth=depth, epochs=1)(model, request_of(recipe, texts(20, 1), texts(5, 2)))
    moved = {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}
    assert {name[0] for name in moved} == set(changed)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_layer_lies_where_weights_are_trained():
    class Parted(Sentences):
        def blocks(self, model):
            return [nn.ModuleList([model[0]]), nn.ModuleList([model[1], nn.Linear(1, 1, bias=False)]), model[2]]

    model = Parted().new_model()
    request = request_of(Parted(), texts(3, 1), texts(3, 2))
    assert layer_of(request, model, 0.2) is model[0]
    assert layer_of(request, model, 0.6) is model[1]  # of two parts, the one with more weights
    model[0].requires_grad_(False)
    assert layer_of(request, model, 0.2) is model[1]
    model.requires_grad_(False)
    unchanged = request_of(Sentences(), texts(3, 1), texts(3, 2))
    with pytest.raises(UnlearningError, match="steers a layer, and no weight of this model is trained"):
        layer_of(unchanged, model, 0.2)


def test_a_block_of_nothing_ends_where_the_one_before_it_does():
    class Headless(Sentences):
        def blocks(self, model):
            return [model[0], nn.ModuleList([model[1], model[2]]), nn.ModuleList()]

    model = Headless().new_model()
    request = request_of(Headless(), texts(3, 1), texts(3, 2))
    assert layer_of(request, model, 1.0) is layer_of(request, model, 0.6)


def test_a_layer_that_is_never_called_is_refused():
    class Elsewhere(Linear):
        def blocks(self, model):
            return [nn.Linear(2, 2)]

    with pytest.raises(UnlearningError, match="returns, but the model calls it 0 times on a batch"):
        RMU()(a_model(Linear()), request_of(Elsewhere(), RETAIN, FORGET))


# ---- on texts


def with_other_padding(data):
    tokens = data.inputs["tokens"].clone()
    tokens[torch.arange(tokens.shape[1]) >= data.inputs["length"][:, None]] = 5
    data.inputs["tokens"] = tokens
    return data


def test_the_likelihood_of_a_text_is_the_sum_over_what_is_learned():
    recipe, data = Sentences(), texts(20, 1)
    model = recipe.new_model()
    found, tokens = likelihood(request_of(recipe, data, data), model, next(iter(data.chunks())))
    table = np.log(softmax(model(torch.arange(11)).detach().numpy()))  # row: the token before
    for at, total in enumerate(found.tolist()):
        length, start = int(data.inputs["length"][at]), int(data.inputs["start"][at])
        text = [*data.inputs["tokens"][at, :length].tolist(), int(data.labels[at])]
        by_hand = [table[text[i - 1], text[i]] for i in range(start, len(text))]
        assert int(tokens[at]) == len(by_hand)
        assert total == pytest.approx(sum(by_hand), rel=1e-12)


def test_the_likelihood_of_a_label_is_that_of_one_token(model, request_):
    found, tokens = likelihood(request_, model, next(iter(FORGET.chunks())))
    assert np.allclose(found.detach().numpy(), log_likelihood(weights(model), *arrays(FORGET)), rtol=1e-12)
    assert tokens.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("method", [NPO, SimNPO, UNDIAL, RMU, GradDiff, TaskArithmetic])
def test_padding_has_no_say(method):
    left = []
    for change in (lambda data: data, with_other_padding):
        torch.manual_seed(0)
        recipe = Sentences(batch_size=8)
        model = recipe.new_model()
        request = request_of(recipe, change(texts(20, 1)), change(texts(5, 2)))
        left.append(state(method(lr=0.1, epochs=2)(model, request)))
    assert all(torch.allclose(left[0][name], left[1][name], rtol=1e-12, atol=1e-14) for name in left[0])


def test_activations_are_of_every_token_that_is_read():
    recipe, data = Sentences(), texts(6, 3)
    model = recipe.new_model()
    found, real = activations(request_of(recipe, data, data), model, model[1], next(iter(data.chunks())))
    assert found.shape == (6, int(data.inputs["length"].max()), 4)
    assert real.sum(dim=1).tolist() == data.inputs["length"].tolist()


@pytest.mark.parametrize("method", [NPO(epochs=2), UNDIAL(epochs=2), RMU(epochs=2)], ids=lambda m: type(m).__name__)
def test_the_reference_is_a_copy_that_never_moves(method):
    recipe = Watched(Sentences(batch_size=8))
    model = recipe.new_model()
    before = state(model)
    method(model, request_of(recipe, texts(20, 1), texts(5, 2)))
    reference = [call for call in recipe.calls if not call.gradient]
    assert reference
    assert all(same(call.state, before) and not call.training and call.model is not model for call in reference)


@pytest.mark.parametrize("method", [NPO(), SimNPO(), UNDIAL()], ids=lambda method: type(method).__name__)
def test_a_task_whose_scores_tell_no_likelihood_is_refused(method):
    class OneScore(Linear):
        def new_model(self):
            return nn.Linear(3, 1).double()

        def criterion(self, logits, batch):
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], batch.labels.double())

    message = r"asks how likely a label is, and the task's logits of shape \(4, 1\) do not tell; give the task learned"
    with pytest.raises(UnlearningError, match=message):
        method(OneScore().new_model(), request_of(OneScore(), RETAIN, FORGET, 9.0))
