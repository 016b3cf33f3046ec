"""The methods, against computations by hand; what they cost is in ``test_budgets.py``, their fields in
``test_fields.py``.
"""

import copy

import numpy as np
import pytest
import torch
from every_method import (
    GA,
    GD,
    MSA,
    NGD,
    NPO,
    RMU,
    SCRUB,
    SCRUBR,
    SSD,
    UNDIAL,
    UNDO,
    BadTeacher,
    Certified,
    CFk,
    EUk,
    GradDiff,
    Identity,
    Influence,
    L1Sparse,
    NegGradPlus,
    Potion,
    Retrain,
    Rewind,
    SalUn,
    Short,
    SimNPO,
    TaskArithmetic,
    Wrecked,
)
from linear import (
    PLAIN,
    Layers,
    Linear,
    Normalised,
    Watched,
    a_model,
    arrays,
    by_name,
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
from scipy import stats
from torch import nn

from harness.training.data import Data


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


@pytest.fixture
def request_():
    return request_of(Linear(), points(7, 1), points(4, 2))


# ---- GD


@pytest.mark.parametrize("epochs", [1, 3])
def test_gd_is_gradient_descent_on_the_retain_set_at_a_falling_rate(model, request_, epochs):
    w = weights(model)
    x, y = arrays(request_.retain)
    for rate in falling(0.3, epochs):
        w -= rate * cross_entropy_gradient(w, x, y)
    after = GD(lr=0.3, epochs=epochs, **PLAIN)(model, request_)
    assert np.allclose(weights(after), w, rtol=1e-12, atol=1e-12)


def test_gd_steps_through_batches_in_the_order_of_the_request(model):
    recipe = Linear(batch_size=3)
    w = weights(model)
    batches = request_of(recipe, points(8, 1), points(4, 2), seed=5).batches("retain", epochs=2)
    for rate, batch in zip(falling(0.3, 6), batches, strict=True):
        w -= rate * cross_entropy_gradient(w, batch.inputs["x"].numpy(), batch.labels.numpy())
    GD(lr=0.3, epochs=2, **PLAIN)(model, request_of(recipe, points(8, 1), points(4, 2), seed=5))
    assert np.allclose(weights(model), w, rtol=1e-12, atol=1e-12)


def test_gd_without_epochs_descends_for_as_long_as_the_budget_lasts(model):
    recipe = Linear(batch_size=3)
    w = weights(model)
    # 1.3 passes over 8 points are 10 examples: a pass in batches of 3, 3 and 2, and 2 points of the next.
    batches = list(request_of(recipe, points(8, 1), points(4, 2), seed=5).batches("retain", epochs=2))[:4]
    sizes = (3, 3, 2, 2)
    for rate, batch, size in zip(falling(0.3, 4), batches, sizes, strict=True):
        w -= rate * cross_entropy_gradient(w, batch.inputs["x"].numpy()[:size], batch.labels.numpy()[:size])
    GD(lr=0.3, **PLAIN)(model, request_of(recipe, points(8, 1), points(4, 2), budget=1.3, seed=5))
    assert np.allclose(weights(model), w, rtol=1e-12, atol=1e-12)


# ---- which set has a say


BLIND = [
    GD(epochs=2), NGD(epochs=2), CFk(epochs=2), EUk(epochs=2), UNDO(epochs=2), Rewind(epochs=2), L1Sparse(epochs=2),
    Certified(epochs=2),
]  # fmt: skip
# The first max epoch of SCRUB starts at the teacher, where the distance is flat; only a second one moves this model.
SEEING = [
    SCRUB(epochs=2, max_epochs=2), NegGradPlus(epochs=2), GA(), SSD(alpha=0.5), SCRUBR(epochs=2, lr=0.5, min_epochs=5),
    SalUn(epochs=2), BadTeacher(epochs=2), MSA(epochs=2), Influence(), Potion(), GradDiff(epochs=2), NPO(epochs=2),
    SimNPO(epochs=2), RMU(epochs=2), UNDIAL(epochs=2), TaskArithmetic(epochs=2),
]  # fmt: skip


def result_of(method, retain, forget, seed=0):
    """Return the state that a method leaves, everything random being drawn from a seed."""
    recipe = Layers()
    model = a_model(recipe)
    torch.manual_seed(seed)
    return state(method(model, request_of(recipe, retain, forget, budget=3.0, history={1: state(model)})))


@pytest.mark.parametrize("method", [*BLIND, *SEEING], ids=by_name)
def test_a_method_reads_the_forget_set_if_it_says_so(method):
    results = [result_of(method, points(7, 1), points(4, s)) for s in (2, 3)]
    assert same(*results) == (method in BLIND)
    assert getattr(method, "reads_forget", True) == (method in SEEING)


@pytest.mark.parametrize("method", [*BLIND, *SEEING], ids=by_name)
def test_every_method_but_three_reads_the_retain_set(method):
    results = [result_of(method, points(7, s), points(4, 2)) for s in (1, 3)]
    assert same(*results) == (method in (GA(), UNDIAL(epochs=2), TaskArithmetic(epochs=2)))


@pytest.mark.parametrize("method", [*BLIND, *SEEING], ids=by_name)
def test_a_method_repeats_bit_by_bit(method):
    assert same(*[result_of(method, points(7, 1), points(4, 2)) for _ in range(2)])


# ---- NGD


class Wide(Linear):
    """Ten thousand weights, for statistics over them."""

    def new_model(self):
        return nn.Linear(5000, 2, bias=False).double()


def wide_points(scale):
    x = torch.randn(7, 5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Data({"x": scale * x}, torch.arange(7) % 2)


def wide_result(method, scale, seed=0):
    model = a_wide_model()
    torch.manual_seed(seed)
    return weights(method(model, request_of(Wide(), wide_points(scale), wide_points(0))))


def a_wide_model():
    torch.manual_seed(0)
    return Wide().new_model()


@pytest.mark.parametrize("batch_size", [2, 100])
def test_ngd_without_noise_is_gd_bit_by_bit(batch_size):
    def result(method):
        model = a_model(Linear())
        return weights(method(model, request_of(Linear(batch_size), points(7, 1), points(4, 2), budget=2.6)))

    assert np.array_equal(result(NGD(lr=0.3, variance=0.0)), result(GD(lr=0.3, **PLAIN)))
    assert not np.array_equal(result(NGD(lr=0.3, variance=1e-12)), result(GD(lr=0.3, **PLAIN)))


def test_a_step_of_ngd_differs_from_one_of_gd_by_gaussian_noise_of_the_stated_variance():
    difference = wide_result(NGD(lr=0.3, variance=4e-4, epochs=1), 1.0) - wide_result(GD(lr=0.3, epochs=1), 1.0)
    # The sd of 10,000 draws has a standard error of .7 %.
    assert difference.std() == pytest.approx(0.02 * 0.3, rel=0.03)
    assert stats.kstest(difference.ravel() / (0.02 * 0.3), "norm").pvalue > 0.01


def test_every_step_of_ngd_draws_noise_afresh():
    # Inputs of zero have no gradient, so that what is left is a walk of three steps at rates .3, .2 and .1.
    walk = wide_result(NGD(lr=0.3, variance=4e-4, epochs=3), 0.0) - weights(a_wide_model())
    assert walk.std() == pytest.approx(0.02 * (0.3**2 + 0.2**2 + 0.1**2) ** 0.5, rel=0.03)
    assert not np.array_equal(
        wide_result(NGD(epochs=1, variance=1.0), 0.0, 1), wide_result(NGD(epochs=1, variance=1.0), 0.0, 2)
    )


# ---- GA


def loss_of(model, data):
    x, y = arrays(data)
    return -np.log(softmax(x @ weights(model).T)[np.arange(len(y)), y]).mean()


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(1, None, 1), (3, None, 3), (2, 3, 4), (1, 1, 5)])
def test_ga_climbs_the_loss_of_the_forget_set(model, epochs, batch_size, steps):
    w = weights(model)
    forget = points(5, 2)
    batches = request_of(Linear(), points(7, 1), forget, seed=5).batches("forget", epochs, batch_size)
    for rate, batch in zip(falling(0.3, steps), batches, strict=True):
        w += rate * cross_entropy_gradient(w, batch.inputs["x"].numpy(), batch.labels.numpy())
    request = request_of(Linear(), points(7, 1), forget, seed=5)
    before = loss_of(model, forget)
    GA(lr=0.3, epochs=epochs, batch_size=batch_size)(model, request)
    assert np.allclose(weights(model), w, rtol=1e-12, atol=1e-12)
    assert loss_of(model, forget) > before


def test_ga_takes_the_batch_size_of_the_recipe_where_it_is_told_none(model):
    recipe = Watched(Linear(batch_size=3))
    GA()(model, request_of(recipe, points(7, 1), points(5, 2)))
    assert [len(call.batch) for call in recipe.calls] == [3, 2]


# ---- NegGrad+


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(("batch_size", "forget_batch_size"), [(100, 16), (3, 3), (2, 1)])
def test_neggrad_plus_descends_on_the_retain_set_and_climbs_on_the_forget_set(
    model, beta, batch_size, forget_batch_size
):
    recipe = Watched(Linear(batch_size))
    w = weights(model)
    request = request_of(recipe, points(7, 1), points(4, 2))
    NegGradPlus(lr=0.3, beta=beta, forget_batch_size=forget_batch_size, epochs=2, **PLAIN)(model, request)
    retain, forget = recipe.calls[::2], recipe.calls[1::2]
    for rate, r, f in zip(falling(0.3, len(retain)), retain, forget, strict=True):
        w -= rate * (beta * cross_entropy_gradient(w, *r.arrays) - (1 - beta) * cross_entropy_gradient(w, *f.arrays))
    assert close(weights(model), w)
    # What is computed with are the sets themselves, each as often as it must be.
    rows = np.concatenate([call.arrays[0] for call in retain])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.tile(arrays(request.retain)[0], (2, 1))))
    of_forget = {tuple(row) for row in arrays(request.forget)[0]}
    assert all({*map(tuple, call.arrays[0])} <= of_forget for call in forget)


def test_neggrad_plus_goes_through_the_forget_set_again_and_again(model):
    recipe = Watched(Linear(batch_size=1))
    NegGradPlus(forget_batch_size=3, epochs=1)(model, request_of(recipe, points(7, 1), points(5, 2)))
    forget = [call.batch for call in recipe.calls[1::2]]
    assert [len(batch) for batch in forget] == [3, 2, 3, 2, 3, 2, 3]
    for first, second in zip(forget[0:6:2], forget[1:6:2], strict=True):
        assert sorted([*first.index.tolist(), *second.index.tolist()]) == [0, 1, 2, 3, 4]


def test_neggrad_plus_that_ignores_the_forget_set_is_gd(model, request_):
    other = copy.deepcopy(model)
    NegGradPlus(lr=0.3, beta=1.0, epochs=3, **PLAIN)(model, request_)
    GD(lr=0.3, epochs=3)(other, request_of(Linear(), points(7, 1), points(4, 2)))
    assert np.allclose(weights(model), weights(other), rtol=1e-12, atol=1e-14)


# ---- Rewind


@pytest.mark.parametrize("start", [0.5, float("nan")])
def test_rewind_descends_from_the_checkpoint_and_ignores_the_model(model, start):
    torch.manual_seed(9)
    checkpoint = state(Linear().new_model())
    kept = {name: tensor.clone() for name, tensor in checkpoint.items()}
    request = request_of(Linear(), points(7, 1), points(4, 2), history={2: checkpoint})
    w = kept["weight"].numpy().copy()
    for rate in falling(0.3, 2):
        w -= rate * cross_entropy_gradient(w, *arrays(request.retain))
    nn.init.constant_(model.weight, start)
    after = Rewind(lr=0.3, epochs=2, **PLAIN)(model, request)
    assert np.allclose(weights(after), w, rtol=1e-12, atol=1e-12)
    assert same(request.history[2], kept)


def test_rewind_goes_back_to_weights_and_running_statistics():
    recipe = Watched(Normalised())
    checkpoint = state(a_model(Normalised(), seed=9))
    request = request_of(recipe, points(7, 1), points(4, 2), history={0: checkpoint})
    Rewind()(a_model(Normalised()), request)
    assert same(recipe.calls[0].state, checkpoint)
    assert recipe.calls[0].training


@pytest.mark.parametrize(
    ("to", "epochs", "epoch"),
    [(0.0, 20, 0), (0.2, 20, 4), (0.2, 10, 2), (0.1, 4, 0), (0.9, 1, 1), (0.33, 100, 33), (0.05, 20, 1), (1.0, 20, 20)],
)
def test_rewind_wants_the_checkpoint_of_one_epoch(to, epochs, epoch):
    assert Rewind(to=to).history(epochs) == [epoch]
    assert isinstance(Rewind(to=to).history(epochs)[0], int)


# ---- controls


def test_identity_returns_the_model_as_it_came(model, request_):
    before = weights(model)
    assert Identity()(model, request_) is model
    assert np.array_equal(weights(model), before)


@pytest.mark.parametrize("method", [Retrain(), Short(), Wrecked()], ids=by_name)
def test_methods_from_scratch_use_neither_the_model_nor_the_forget_set(model, method):
    results = []
    for start, forget in ((1.0, 2), (float("nan"), 3)):
        torch.manual_seed(0)
        given = copy.deepcopy(model)
        nn.init.constant_(given.weight, start)
        results.append(weights(method(given, request_of(Linear(), points(7, 1), points(4, forget)))))
    assert method.from_scratch
    assert np.array_equal(*results)


def test_a_wreck_is_freshly_initialised(request_):
    torch.manual_seed(3)
    expected = weights(Linear().new_model())
    torch.manual_seed(3)
    assert np.array_equal(weights(Wrecked()(None, request_)), expected)


def test_retraining_follows_the_recipe(request_):
    torch.manual_seed(3)
    w = weights(Linear().new_model())
    x, y = arrays(request_.retain)
    for _ in range(4):
        w -= 0.1 * cross_entropy_gradient(w, x, y)
    torch.manual_seed(3)
    assert np.allclose(weights(Retrain()(None, request_)), w, rtol=1e-12)
