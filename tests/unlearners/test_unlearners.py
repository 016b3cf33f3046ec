"""The methods, against computations by hand; what they cost is in ``test_budgets.py``, their fields in
``test_fields.py``.
"""

import copy

import numpy as np
import pytest
import torch
from linear import (
    Layers,
    Linear,
    Normalised,
    Watched,
    a_model,
    arrays,
    cross_entropy_gradient,
    falling,
    kl_gradient,
    points,
    request_of,
    same,
    softmax,
    state,
    weights,
)
from scipy import stats
from torch import nn

from harness.api import UnlearningError
from harness.training.data import Data
from unlearners.cfk import CFk
from unlearners.controls import Identity, Retrain, Short, Wrecked
from unlearners.euk import EUk
from unlearners.ga import GA
from unlearners.gd import GD
from unlearners.neggrad_plus import NegGradPlus
from unlearners.ngd import NGD
from unlearners.rewind import Rewind
from unlearners.scrub import SCRUB
from unlearners.ssd import SSD
from unlearners.undo import UNDO


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


@pytest.fixture
def request_():
    return request_of(Linear(), points(7, 1), points(4, 2))


def close(one, other):
    return np.allclose(one, other, rtol=1e-10, atol=1e-12)


# ---- GD


@pytest.mark.parametrize("epochs", [1, 3])
def test_gd_is_gradient_descent_on_the_retain_set_at_a_falling_rate(model, request_, epochs):
    w = weights(model)
    x, y = arrays(request_.retain)
    for rate in falling(0.3, epochs):
        w -= rate * cross_entropy_gradient(w, x, y)
    after = GD(lr=0.3, epochs=epochs)(model, request_)
    assert np.allclose(weights(after), w, rtol=1e-12, atol=1e-12)


def test_gd_steps_through_batches_in_the_order_of_the_request(model):
    recipe = Linear(batch_size=3)
    w = weights(model)
    batches = request_of(recipe, points(8, 1), points(4, 2), seed=5).batches("retain", epochs=2)
    for rate, batch in zip(falling(0.3, 6), batches, strict=True):
        w -= rate * cross_entropy_gradient(w, batch.inputs["x"].numpy(), batch.labels.numpy())
    GD(lr=0.3, epochs=2)(model, request_of(recipe, points(8, 1), points(4, 2), seed=5))
    assert np.allclose(weights(model), w, rtol=1e-12, atol=1e-12)


def test_gd_without_epochs_descends_for_as_long_as_the_budget_lasts(model):
    recipe = Linear(batch_size=3)
    w = weights(model)
    # 1.3 passes over 8 points are 10 examples: a pass in batches of 3, 3 and 2, and 2 points of the next.
    batches = list(request_of(recipe, points(8, 1), points(4, 2), seed=5).batches("retain", epochs=2))[:4]
    sizes = (3, 3, 2, 2)
    for rate, batch, size in zip(falling(0.3, 4), batches, sizes, strict=True):
        w -= rate * cross_entropy_gradient(w, batch.inputs["x"].numpy()[:size], batch.labels.numpy()[:size])
    GD(lr=0.3)(model, request_of(recipe, points(8, 1), points(4, 2), budget=1.3, seed=5))
    assert np.allclose(weights(model), w, rtol=1e-12, atol=1e-12)


# ---- which set has a say


BLIND = [GD(epochs=2), NGD(epochs=2), CFk(epochs=2), EUk(epochs=2), UNDO(epochs=2), Rewind(epochs=2)]
# The first max epoch of SCRUB starts at the teacher, where the distance is flat; only a second one moves this model.
SEEING = [SCRUB(epochs=2, max_epochs=2), NegGradPlus(epochs=2), GA(), SSD(alpha=0.5)]


def by_name(method):
    return type(method).__name__


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
def test_every_method_but_gradient_ascent_reads_the_retain_set(method):
    results = [result_of(method, points(7, s), points(4, 2)) for s in (1, 3)]
    assert same(*results) == isinstance(method, GA)


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

    assert np.array_equal(result(NGD(lr=0.3, variance=0.0)), result(GD(lr=0.3)))
    assert not np.array_equal(result(NGD(lr=0.3, variance=1e-12)), result(GD(lr=0.3)))


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
    NegGradPlus(lr=0.3, beta=beta, forget_batch_size=forget_batch_size, epochs=2)(model, request)
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
    NegGradPlus(lr=0.3, beta=1.0, epochs=3)(model, request_)
    GD(lr=0.3, epochs=3)(other, request_of(Linear(), points(7, 1), points(4, 2)))
    assert np.allclose(weights(model), weights(other), rtol=1e-12, atol=1e-14)


# ---- SCRUB


@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 0.5])
def test_a_min_step_descends_on_loss_and_distance(model, request_, t, gamma):
    teacher = w = weights(model)
    x, y = arrays(request_.retain)
    for rate in falling(0.5, 3):  # from the second step on the student has moved away, and the distance pulls
        w = w - rate * (gamma * cross_entropy_gradient(w, x, y) + 2.0 * kl_gradient(w, x, teacher, t))
    SCRUB(lr=0.5, alpha=2.0, gamma=gamma, temperature=t, max_epochs=0, epochs=3)(model, request_)
    assert np.allclose(weights(model), w, rtol=1e-10, atol=1e-12)
    assert (gamma == 0) == np.allclose(weights(model), teacher, atol=1e-12)


@pytest.mark.parametrize("t", [1.0, 2.0, 4.0])
def test_a_max_step_ascends_on_distance(model, request_, t):
    teacher = weights(model)
    xf, _ = arrays(request_.forget)
    x, y = arrays(request_.retain)
    _, second, third, fourth = falling(0.5, 4)
    w = teacher - second * cross_entropy_gradient(teacher, x, y)  # epoch 1: at the teacher the distance is flat
    without = w
    w = w + third * kl_gradient(w, xf, teacher, t)  # epoch 2
    assert not np.allclose(w, without, atol=1e-4)
    w = w - fourth * cross_entropy_gradient(w, x, y)
    SCRUB(lr=0.5, alpha=0.0, temperature=t, max_epochs=2, epochs=2)(model, request_)
    assert np.allclose(weights(model), w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "budget", "sizes"),
    [
        # The forget set once in batches of 3, the retain set three times.
        ({"max_epochs": 1, "epochs": 3}, 1.0, [3, 2, 7, 7, 7]),
        ({"max_epochs": 0, "epochs": 1}, 1.0, [7]),
        # 4 passes of 7 points pay for 21 examples with a teacher beside them, of which max epochs take 5 each.
        ({"max_epochs": 0}, 4.0, [7, 7, 7]),
        ({"max_epochs": 1}, 4.0, [3, 2, 7, 7, 2]),
        ({"max_epochs": 2}, 4.0, [3, 2, 5, 3, 2, 5]),
        ({"max_epochs": 3}, 4.0, [3, 2, 2, 3, 2, 2, 3, 2, 2]),
        # Numbers of their own: the first max epochs, or the last min epochs, follow each other.
        ({"max_epochs": 2, "min_epochs": 1}, 4.0, [3, 2, 3, 2, 7, 4]),
        ({"max_epochs": 1, "min_epochs": 2}, 4.0, [3, 2, 7, 7]),
        ({"max_epochs": 1, "min_epochs": 4}, 4.0, [3, 2, 4, 4, 4, 4]),
        ({"max_epochs": 3, "min_epochs": 2, "epochs": 2}, 1.0, [3, 2, 3, 2, 7, 3, 2, 7]),
        ({"max_epochs": 1, "min_epochs": 3, "epochs": 2}, 1.0, [3, 2, 4, 4, 4]),
        ({"max_epochs": 1, "batch_size": 4}, 4.0, [3, 2, 4, 3, 4, 3, 2]),
    ],
)
def test_max_epochs_come_first_and_min_epochs_of_equal_length_follow(model, fields, budget, sizes):
    recipe = Watched(Linear())
    request = request_of(recipe, points(7, 1), points(5, 2), budget)
    SCRUB(forget_batch_size=3, **fields)(model, request)
    teacher, student = recipe.calls[::2], recipe.calls[1::2]
    assert [len(call.batch) for call in teacher] == [len(call.batch) for call in student] == sizes
    assert all(t.batch is s.batch for t, s in zip(teacher, student, strict=True))


# ---- teachers


@pytest.mark.parametrize("method", [SCRUB(lr=1.0, epochs=3), UNDO(lr=1.0, epochs=3)], ids=by_name)
def test_the_teacher_is_a_copy_that_never_moves(method):
    recipe = Watched(Normalised())
    model = a_model(recipe)
    before = state(model)
    method(model, request_of(recipe, points(7, 1), points(4, 2)))
    teacher = [call for call in recipe.calls if not call.gradient]
    student = [call for call in recipe.calls if call.gradient]
    assert len(teacher) == len(student) == 3 + isinstance(method, SCRUB)
    assert all(same(call.state, before) for call in teacher)
    assert not any(call.training or call.model is model for call in teacher)
    assert all(call.training and call.model is model for call in student)
    assert not same(state(model), before)


# ---- UNDO


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_undo_distils_the_poisoned_model_into_the_mixture(model, request_, t):
    teacher = weights(model)
    x, _ = arrays(request_.retain)
    torch.manual_seed(3)
    w = 0.4 * teacher + 0.6 * weights(Linear().new_model())
    for rate in falling(0.5, 4):
        w = w - rate * kl_gradient(w, x, teacher, t)
    torch.manual_seed(3)
    UNDO(a=0.6, temperature=t, lr=0.5, epochs=4)(model, request_)
    assert np.allclose(weights(model), w, rtol=1e-10, atol=1e-12)
    assert not np.allclose(w, teacher, atol=1e-2)


def start_of(method, model, recipe):
    """Return the state in which a method calls its student first, and a fresh draw of the model."""
    torch.manual_seed(3)
    fresh = state(recipe.new_model())
    watched = Watched(recipe)
    torch.manual_seed(3)
    method(model, request_of(watched, points(7, 1), points(4, 2), budget=4 / 3))
    return next(call.state for call in watched.calls if call.gradient), fresh


@pytest.mark.parametrize(("a", "scale"), [(0.0, 1.0), (0.3, 0.1), (0.7, 1.0), (1.0, 1.0)])
def test_undo_mixes_scaled_weights_and_running_statistics(a, scale):
    model = a_model(Normalised())
    poisoned, weights = state(model), dict(model.named_parameters())
    start, fresh = start_of(UNDO(a=a, scale=scale), model, Normalised())
    for name, tensor in start.items():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, poisoned[name])
        elif name.endswith("1.bias"):  # both are zero
            assert not tensor.any()
        else:
            by_hand = (1 - a) * poisoned[name].numpy() + a * (scale if name in weights else 1) * fresh[name].numpy()
            assert np.allclose(tensor.numpy(), by_hand, rtol=1e-14, atol=1e-15)
    assert a != 0 or same(start, poisoned)
    floats = [name for name in start if not name.endswith("num_batches_tracked")]
    assert a != 1 or all(torch.equal(start[name], fresh[name]) for name in floats)


def test_undo_stays_at_the_poisoned_model_if_it_starts_there(model, request_):
    before = weights(model)
    UNDO(a=0.0, lr=0.5, epochs=3)(model, request_)
    assert np.allclose(weights(model), before, rtol=0, atol=1e-15)


# ---- CFk and EUk


LAST_BLOCKS = [CFk, EUk]


def normalised(x, state, block):
    """Return what a frozen block of `Normalised` makes of its inputs: running statistics, not the batch's."""
    weight, mean, variance, scale, shift = (
        state[f"{block}.{name}"].numpy() for name in ("0.weight", *(f"1.{n}" for n in BATCH_NORM))
    )
    return (x @ weight.T - mean) / np.sqrt(variance + 1e-5) * scale + shift


BATCH_NORM = ("running_mean", "running_var", "weight", "bias")


@pytest.mark.parametrize("method", LAST_BLOCKS, ids=lambda m: m.__name__)
def test_the_last_block_descends_on_features_of_the_frozen_ones(method):
    model = a_model(Normalised())
    before = state(model)
    request = request_of(Normalised(), points(7, 1), points(4, 2))
    x, y = arrays(request.retain)
    features = normalised(normalised(x, before, 0), before, 1)
    torch.manual_seed(3)
    fresh = Normalised().new_model()
    w = (before if method is CFk else state(fresh))["2.weight"].numpy().copy()
    for rate in falling(0.5, 3):
        w -= rate * cross_entropy_gradient(w, features, y)
    torch.manual_seed(3)
    after = method(k=1, lr=0.5, epochs=3)(model, request)
    assert after is model
    assert np.allclose(weights(after[2]), w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", LAST_BLOCKS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_frozen_blocks_stay_bit_by_bit_and_the_others_learn(method, k):
    model = a_model(Normalised())
    before = state(model)
    method(k=k, lr=0.5, epochs=2)(model, request_of(Normalised(), points(7, 1), points(4, 2)))
    for name, tensor in state(model).items():
        assert torch.equal(tensor, before[name]) == (int(name[0]) < 3 - k)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_euk_starts_the_last_blocks_from_a_fresh_draw(k):
    model = a_model(Normalised())
    before = state(model)
    start, fresh = start_of(EUk(k=k), model, Normalised())
    for name, tensor in start.items():
        assert torch.equal(tensor, before[name] if int(name[0]) < 3 - k else fresh[name])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_euk_forgets_what_the_last_blocks_were(k):
    results = []
    for value in (1.0, float("nan")):
        model = a_model(Normalised())
        with torch.no_grad():
            for block in list(model)[3 - k :]:
                for tensor in block.state_dict().values():
                    tensor.fill_(value if tensor.is_floating_point() else 5)
        torch.manual_seed(3)
        EUk(k=k, epochs=2)(model, request_of(Normalised(), points(7, 1), points(4, 2)))
        results.append(state(model))
    assert same(*results)
    assert all(bool(t.isfinite().all()) for t in results[0].values())


def test_statistics_of_trained_blocks_move_with_what_the_frozen_ones_give():
    model = a_model(Normalised())
    before = state(model)
    request = request_of(Normalised(), points(7, 1), points(4, 2))
    CFk(k=2, lr=0.5, epochs=1)(model, request)
    inputs = normalised(arrays(request.retain)[0], before, 0) @ before["1.0.weight"].numpy().T
    expected = 0.9 * before["1.1.running_mean"].numpy() + 0.1 * inputs.mean(axis=0)
    assert np.allclose(model[1][1].running_mean.numpy(), expected, rtol=1e-12)


def test_cfk_of_all_blocks_is_gd():
    results = []
    for method in (CFk(k=3, lr=0.3, epochs=2), GD(lr=0.3, epochs=2)):
        model = a_model(Normalised())
        method(model, request_of(Normalised(batch_size=3), points(9, 1), points(4, 2)))
        results.append(state(model))
    assert same(*results)


@pytest.mark.parametrize("method", LAST_BLOCKS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("budget", [1.0, 0.0])
def test_what_was_frozen_is_freed_in_the_end_and_nothing_else(method, budget):
    model = a_model(Normalised())
    model[0][0].weight.requires_grad_(False)
    request = request_of(Normalised(), points(7, 1), points(4, 2), budget)
    if budget:
        method(k=1)(model, request)
    else:
        with pytest.raises(UnlearningError):
            method(k=1)(model, request)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {"0.0.weight"}
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("method", LAST_BLOCKS, ids=lambda m: m.__name__)
def test_more_blocks_than_there_are_cannot_be_trained(method):
    model = a_model(Normalised())
    before = state(model)
    with pytest.raises(UnlearningError, match="k=4, but the model has 3 blocks; set k to at most that"):
        method(k=4)(model, request_of(Normalised(), points(7, 1), points(4, 2)))
    assert same(state(model), before)
    assert all(p.requires_grad for p in model.parameters())


# ---- SSD


def importance(w, batches):
    """Return the mean over batches of the squared gradient of the mean loss."""
    return np.mean([cross_entropy_gradient(w, x, y) ** 2 for x, y in batches], axis=0)


def lopsided(n, seed):
    """Return points to which the third input matters most."""
    data = points(n, seed)
    data.inputs["x"][:, 2] *= 10
    return data


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize(
    ("alpha", "dampening", "selected"),
    [(1.8, 1.0, range(1, 6)), (1.8, 0.5, range(1, 6)), (0.1, 1.9, [6]), (0.1, 0.05, [6]), (100.0, 1.0, [0])],
)
def test_ssd_dampens_what_matters_more_to_the_forget_set(model, batch_size, alpha, dampening, selected):
    retain, forget = points(7, 1), lopsided(4, 4)
    recipe = Watched(Linear())
    w = weights(model)
    after = SSD(alpha=alpha, dampening=dampening, batch_size=batch_size)(
        model, request_of(recipe, retain, forget, budget=5.0)
    )
    first = {1: 4, 3: 1, None: 1}[batch_size]
    of_forget, of_all = ([call.arrays for call in calls] for calls in (recipe.calls[:first], recipe.calls[first:]))
    # The forget set, then every point once, in batches: a budget of more than that is not used up.
    assert [len(y) for _, y in of_forget] == {1: [1] * 4, 3: [4], None: [4]}[batch_size]
    assert [len(y) for _, y in of_all] == {1: [1] * 11, 3: [3, 3, 3, 2], None: [11]}[batch_size]
    rows = np.concatenate([x for x, _ in of_all])
    assert {tuple(row) for row in rows} == {tuple(row) for data in (retain, forget) for row in arrays(data)[0]}
    f_u, f_d = importance(w, of_forget), importance(w, of_all)
    chosen, factor = f_u > alpha * f_d, np.minimum(dampening * f_d / f_u, 1)
    assert chosen.sum() in selected
    assert close(weights(after), np.where(chosen, factor * w, w))
    assert np.array_equal(weights(after)[~chosen], w[~chosen])


def test_ssd_looks_at_the_model_in_eval_mode_and_leaves_its_statistics():
    recipe = Watched(Normalised())
    model = a_model(recipe)
    before = state(model)
    SSD(alpha=0.5, batch_size=1)(model, request_of(recipe, points(7, 1), points(4, 2), budget=3.0))
    after = state(model)
    assert len(recipe.calls) == 4 + 11
    assert not any(call.training for call in recipe.calls)
    assert all(same(call.state, before) for call in recipe.calls)  # and nothing moves before all is known
    buffers = [name for name, _ in model.named_buffers()]
    assert len(buffers) == 6
    assert all(torch.equal(after[name], before[name]) for name in buffers)
    assert not same(after, before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_ssd_spends_a_small_budget_on_a_sample_of_the_training_set(model):
    recipe = Watched(Linear())
    retain, forget = points(70, 1), points(4, 2)
    w = weights(model)
    SSD(alpha=0.5, dampening=1.0, batch_size=2)(model, request_of(recipe, retain, forget, budget=0.2))  # 14 examples
    assert [len(call.batch) for call in recipe.calls] == [2] * 7
    of_forget, of_all = recipe.calls[:2], recipe.calls[2:]
    assert sorted(i for call in of_forget for i in call.batch.index.tolist()) == [0, 1, 2, 3]
    assert len({i for call in of_all for i in call.batch.index.tolist()}) == 10
    f_u, f_d = (importance(w, [call.arrays for call in calls]) for calls in (of_forget, of_all))
    assert close(weights(model), np.where(f_u > 0.5 * f_d, np.minimum(f_d / f_u, 1) * w, w))


def test_ssd_leaves_weights_that_matter_to_nobody(model):
    retain, forget = points(7, 1), lopsided(4, 4)
    for data in (retain, forget):
        data.inputs["x"][:, 0] = 0  # neither importance is positive: 0 / 0
    before = weights(model)
    after = weights(
        SSD(alpha=0.1, dampening=0.01, batch_size=None)(model, request_of(Linear(), retain, forget, budget=2.0))
    )
    assert np.array_equal(after[:, 0], before[:, 0])
    assert not np.isclose(after[:, 2], before[:, 2]).any()


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
    after = Rewind(lr=0.3, epochs=2)(model, request)
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
