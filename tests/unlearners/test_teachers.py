"""Methods that learn from a teacher, SCRUB and UNDO, against computations by hand."""

import numpy as np
import pytest
import torch
from linear import (
    PLAIN,
    Linear,
    Normalised,
    Watched,
    a_model,
    arrays,
    by_name,
    cross_entropy_gradient,
    falling,
    kl_gradient,
    points,
    request_of,
    same,
    start_of,
    state,
    weights,
)

from unlearners.scrub import SCRUB
from unlearners.undo import UNDO


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


@pytest.fixture
def request_():
    return request_of(Linear(), points(7, 1), points(4, 2))


@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 0.5])
def test_a_min_step_descends_on_loss_and_distance(model, request_, t, gamma):
    teacher = w = weights(model)
    x, y = arrays(request_.retain)
    for rate in falling(0.5, 3):  # from the second step on the student has moved away, and the distance pulls
        w = w - rate * (gamma * cross_entropy_gradient(w, x, y) + 2.0 * kl_gradient(w, x, teacher, t))
    SCRUB(lr=0.5, alpha=2.0, gamma=gamma, temperature=t, max_epochs=0, min_epochs=None, epochs=3)(model, request_)
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
    SCRUB(lr=0.5, alpha=0.0, gamma=1.0, temperature=t, max_epochs=2, min_epochs=None, epochs=2)(model, request_)
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
    SCRUB(**{"forget_batch_size": 3, "min_epochs": None, **fields})(model, request)
    teacher, student = recipe.calls[::2], recipe.calls[1::2]
    assert [len(call.batch) for call in teacher] == [len(call.batch) for call in student] == sizes
    assert all(t.batch is s.batch for t, s in zip(teacher, student, strict=True))


# ---- teachers


@pytest.mark.parametrize(
    "method", [SCRUB(lr=1.0, max_epochs=1, min_epochs=None, epochs=3), UNDO(lr=1.0, epochs=3)], ids=by_name
)
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
    UNDO(a=0.6, scale=1.0, temperature=t, lr=0.5, epochs=4, **PLAIN)(model, request_)
    assert np.allclose(weights(model), w, rtol=1e-10, atol=1e-12)
    assert not np.allclose(w, teacher, atol=1e-2)


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
