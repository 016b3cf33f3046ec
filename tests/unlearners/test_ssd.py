"""SSD, which dampens weights, against computations by hand."""

import numpy as np
import pytest
import torch
from linear import (
    Linear,
    Normalised,
    Watched,
    a_model,
    arrays,
    close,
    cross_entropy_gradient,
    points,
    request_of,
    same,
    state,
    weights,
)

from unlearners.ssd import SSD


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


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
    SSD(alpha=0.5, dampening=0.8, batch_size=1)(model, request_of(recipe, points(7, 1), points(4, 2), budget=3.0))
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
