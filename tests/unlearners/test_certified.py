"""What certified noisy fine-tuning claims, and what it must do for it."""

import math

import pytest
import torch
from linear import Layers, Normalised, Watched, a_model, points, request_of, same, state
from scipy import stats

from harness.api import declares
from unlearners._noise import share_of, sigma_for
from unlearners.certified import Certified


def left(method, recipe, model, budget=9.0):
    """Return what a method leaves, everything random being drawn from one seed."""
    torch.manual_seed(5)
    return method(model, request_of(recipe, points(30, 1), points(7, 2), budget, seed=3))


def flat(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def rate_of(epsilon, delta):
    """Return c, by bisection, for which c + 2 sqrt(c log(1 / delta)) is epsilon."""
    low, high = 0.0, epsilon
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if c + 2 * math.sqrt(c * math.log(1 / delta)) < epsilon else (low, c)
    return low


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-5), (8.0, 1e-3), (0.1, 1e-9)])
@pytest.mark.parametrize(("apart", "factor", "push", "steps"), [(2.0, 1.0, 0.0, 1), (0.02, 0.925, 0.002, 6)])
def test_the_noise_is_what_the_claim_needs(epsilon, delta, apart, factor, push, steps):
    end, spread = apart, 0.0
    for _ in range(steps):
        end, spread = factor * end + push, factor**2 * spread + 1
    expected = end / math.sqrt(2 * rate_of(epsilon, delta) * spread)
    assert sigma_for(epsilon, delta, apart, factor, push, steps) == pytest.approx(expected, rel=1e-9)


def test_one_step_of_noise_is_the_gaussian_mechanism():
    """Its exact delta (Balle and Wang, arXiv 1805.06530, theorem 8) is below the one that is claimed."""

    def exact(mu):
        return stats.norm.cdf(mu / 2 - 1 / mu) - math.e * stats.norm.cdf(-mu / 2 - 1 / mu)

    mu = 2.0 / sigma_for(1.0, 1e-5, 2.0, 1.0, 0.0, 1)
    assert exact(mu) < 1e-5 < exact(1.5 * mu)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
def test_two_walks_end_as_near_to_each_other_as_the_noise_is_made_for(scale):
    method = Certified(lr=1e-300, epochs=1, clip=0.5, grad_clip=0.1, decay=0.5, noise_lr=0.2, noise_steps=4)
    models = [a_model(Layers(8)) for _ in range(2)]
    with torch.no_grad():
        for weight in models[1].parameters():
            weight.mul_(-scale)
    first, second = (flat(left(method, Layers(8), model)) for model in models)
    end = 1.0
    for _ in range(4):
        end = 0.9 * end + 2 * 0.2 * 0.1
    assert 0 < float((first - second).norm()) <= end


def test_what_follows_the_noise_reads_nothing_of_the_model():
    recipe = Normalised(8)
    models = [a_model(recipe) for _ in range(2)]
    with torch.no_grad():
        for buffer in models[1].buffers():
            buffer.fill_(1e9 if buffer.is_floating_point() else 7)
    watched = Watched(recipe)
    method = Certified(noise_steps=6)
    results = [state(left(method, recipe, models[0])), state(left(method, watched, models[1]))]
    assert same(*results)
    first = next(call for call in watched.calls[6:])  # the first call after the six noisy steps
    assert all(not first.state[name].any() for name in first.state if name.endswith("running_mean"))


def test_the_claim_is_declared_and_follows_the_fields():
    assert declares(Certified(epsilon=3.0, delta=1e-6), "certifies") == (3.0, 1e-6)
    assert Certified(epsilon=8.0).sigma < Certified().sigma < Certified(delta=1e-9).sigma


def test_clipping_scales_all_tensors_alike():
    tensors = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert share_of(tensors, 1.0) == pytest.approx(0.2)
    assert share_of(tensors, 10.0) == share_of([torch.zeros(2)], 1.0) == 1.0
