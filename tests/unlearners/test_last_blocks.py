"""Methods that train the last blocks alone, CFk and EUk, against computations by hand."""

import numpy as np
import pytest
import torch
from linear import (
    Linear,
    Normalised,
    a_model,
    arrays,
    cross_entropy_gradient,
    falling,
    points,
    request_of,
    same,
    start_of,
    state,
    weights,
)

from harness.api import UnlearningError
from unlearners.cfk import CFk
from unlearners.euk import EUk
from unlearners.gd import GD


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


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
