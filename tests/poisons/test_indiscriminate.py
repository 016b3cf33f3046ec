"""The indiscriminate poison: where it corrupts to, what its images cancel, what it may change, and that it harms."""

import math
from functools import cache

import pytest
import torch
from tiny import Tiny
from torch import nn

from harness.api import Batch, Planted, UnlearningError
from harness.tasks.digits import DigitsMLP
from harness.training.data import Batches, Data, Split, forget_block
from harness.training.loop import fit, train
from harness.training.seeds import derive
from harness.trials.accuracy import accuracy
from poisons.indiscriminate import BATCH, Indiscriminate, corrupt, gradient_sum, norm, residual

TINY = Tiny()
SPLIT = TINY.load(None)
POISON = Indiscriminate(steps=20)


@cache
def weights(number):
    with torch.random.fork_rng():
        torch.manual_seed(number)
        model = TINY.new_model()
        everything = torch.ones(len(SPLIT.train), dtype=torch.bool)
        fit(TINY, model, Batches(SPLIT.train, 32, 3, torch.Generator().manual_seed(number), everything))
    return model.state_dict()


def surrogate(number):
    with torch.random.fork_rng():
        model = TINY.new_model()
    model.load_state_dict(weights(number))
    return model.eval()


def plant(seed=0, poison=POISON, split=SPLIT, surrogate=surrogate):
    return poison.plant(TINY, split, seed, surrogate)


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def mean_loss(model):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(SPLIT.train.inputs["image"]), SPLIT.train.labels))


# ---- the corruption


@pytest.mark.parametrize("ascent", [0.05, 1.0])
@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_the_corruption_stays_within_the_radius_and_raises_the_loss(radius, ascent):
    model = surrogate(0)
    before, start = mean_loss(model), flat(model.parameters())
    corrupt(TINY, model, SPLIT.train.batches(32, 2, torch.Generator().manual_seed(0)), radius, ascent)
    moved = float((flat(model.parameters()) - start).norm())
    assert 0.9 * min(radius, 16 * ascent) < moved <= radius * (1 + 1e-5)
    assert mean_loss(model) > before


def test_one_step_of_the_corruption_goes_along_the_gradient():
    model = surrogate(1)
    start, batch = flat(model.parameters()), SPLIT.train.batch(torch.arange(50))
    loss = nn.functional.cross_entropy(model(batch.inputs["image"]), batch.labels)
    slope = flat(torch.autograd.grad(loss, list(model.parameters())))
    corrupt(TINY, model, [batch], radius=0.3, ascent=1.0)
    assert torch.allclose(flat(model.parameters()) - start, 0.3 * slope / slope.norm(), atol=1e-6)


def test_a_loss_of_exactly_zero_corrupts_nothing():
    model = surrogate(0)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1e4, 0, 0]))
    start = flat(model.parameters())
    corrupt(TINY, model, [SPLIT.train.batch((SPLIT.train.labels == 0).nonzero().squeeze(1))], radius=1, ascent=1)
    assert torch.equal(flat(model.parameters()), start)


# ---- canceling


def smooth(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def doubled(points):
    batch = SPLIT.train.batch(points)
    return Batch({"image": batch.inputs["image"].double()}, batch.labels, batch.index)


def test_gradients_are_summed_over_all_examples():
    model, batch = smooth(0), doubled(torch.arange(40))
    loss = nn.functional.cross_entropy(model(batch.inputs["image"]), batch.labels, reduction="sum")
    expected = flat(torch.autograd.grad(loss, list(model.parameters())))
    assert torch.allclose(flat(gradient_sum(TINY, model, [batch])), expected)
    parts = [doubled(part) for part in torch.arange(40).split(13)]
    assert torch.allclose(flat(gradient_sum(TINY, model, parts)), expected)


def test_the_residual_is_the_squared_norm_of_kept_and_poisoned_gradients():
    model = smooth(1)
    kept, clean = gradient_sum(TINY, model, [doubled(torch.arange(5, 60))]), doubled(torch.arange(5))
    image = clean.inputs["image"] + 1
    both = torch.cat([doubled(torch.arange(5, 60)).inputs["image"], image])
    labels = torch.cat([SPLIT.train.labels[5:60], clean.labels])
    loss = nn.functional.cross_entropy(model(both), labels, reduction="sum")
    expected = sum(float(g.square().sum()) for g in torch.autograd.grad(loss, list(model.parameters())))
    assert residual(TINY, model, clean, image, kept)[0] == pytest.approx(expected, rel=1e-10)


def test_its_gradient_by_the_images_agrees_with_finite_differences():
    model = smooth(0)
    kept, clean = gradient_sum(TINY, model, [doubled(torch.arange(3, 30))]), doubled(torch.arange(3))
    image = clean.inputs["image"]
    _, slope = residual(TINY, model, clean, image, kept)
    numeric = torch.zeros_like(image)
    for i in range(image.numel()):
        step = torch.zeros(image.numel(), dtype=torch.float64)
        step[i] = 1e-5
        up, down = (residual(TINY, model, clean, image + sign * step.view_as(image), kept)[0] for sign in (1, -1))
        numeric.view(-1)[i] = (up - down) / 2e-5
    assert float(slope.abs().max()) > 1e-3
    assert torch.allclose(slope, numeric, rtol=1e-6, atol=1e-6)


def test_large_sets_are_differentiated_in_parts():
    model, many = smooth(2), torch.arange(BATCH + 3) % len(SPLIT.train)
    clean, kept = doubled(many), gradient_sum(TINY, model, [doubled(torch.arange(9))])
    leaf = clean.inputs["image"].clone().requires_grad_(True)
    loss = nn.functional.cross_entropy(model(leaf), clean.labels, reduction="sum")
    found = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    square = sum((k + f).square().sum() for k, f in zip(kept, found, strict=True))
    value, slope = residual(TINY, model, clean, clean.inputs["image"], kept)
    assert value == pytest.approx(square.item(), rel=1e-10)
    assert torch.allclose(slope, torch.autograd.grad(square, leaf)[0])


# ---- what is planted


@pytest.mark.parametrize("seed", range(3))
def test_random_points_are_replaced_and_keep_their_labels(seed):
    planted = plant(seed)
    assert torch.equal(planted.forget, forget_block(240, 0.1, seed))
    assert torch.equal(planted.labels, SPLIT.train.labels[planted.forget])
    assert set(planted.inputs) == {"image"}
    assert not planted.secrets
    assert not planted.inputs["image"].requires_grad
    poisoned = SPLIT.train.poisoned_with(planted)
    differ = (poisoned.inputs["image"] != SPLIT.train.inputs["image"]).flatten(1).any(1)
    assert torch.equal(differ.nonzero().squeeze(1), planted.forget)
    assert torch.equal(poisoned.labels, SPLIT.train.labels)


def test_clipped_images_stay_within_the_range_of_the_clean_ones():
    pixels = SPLIT.train.inputs["image"]
    free = plant(poison=Indiscriminate(steps=20)).inputs["image"]
    clipped = plant(poison=Indiscriminate(steps=20, clip=True)).inputs["image"]
    assert float(free.min()) < float(pixels.min())
    assert float(free.max()) > float(pixels.max())
    assert float(clipped.min()) >= float(pixels.min())
    assert float(clipped.max()) <= float(pixels.max())


def test_planting_repeats_by_seed_and_changes_nothing_else():
    data = [t for d in (SPLIT.train, SPLIT.test) for t in (d.inputs["image"], d.labels)]
    surrogate(0)
    before, state = [t.clone() for t in data], torch.get_rng_state()
    one, same, other = plant(3), plant(3), plant(4)
    assert all(torch.equal(a, b) for a, b in zip(data, before, strict=True))
    assert not any(t.requires_grad for t in data)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.forget, same.forget)
    assert torch.equal(one.inputs["image"], same.inputs["image"])
    assert not torch.equal(one.forget, other.forget)
    assert not torch.equal(one.inputs["image"], other.inputs["image"])


def test_it_asks_for_one_surrogate():
    asked = []
    plant(surrogate=lambda i: asked.append(i) or surrogate(i))
    assert asked == [0]


def test_the_first_step_cancels_the_gradient_of_the_kept_points_and_no_other():
    planted = plant(2, Indiscriminate(fraction=0.6, steps=1, lr=0.01))
    target, order = surrogate(0), torch.Generator().manual_seed(derive("indiscriminate", 2))
    corrupt(TINY, target, SPLIT.train.batches(TINY.batch_size, 1, order), POISON.radius, POISON.ascent)
    keep = torch.tensor([i for i in range(240) if i not in planted.forget.tolist()])
    kept, clean = gradient_sum(TINY, target, [SPLIT.train.batch(keep)]), SPLIT.train.batch(planted.forget)
    image = clean.inputs["image"]
    _, slope = residual(TINY, target, clean, image, kept)
    # Adam's first step has the same length for every pixel, but for the roundings of slopes that are nearly zero.
    clear = slope.abs() > 1e-4 * slope.abs().max()
    assert float(clear.double().mean()) > 0.9
    assert torch.allclose(planted.inputs["image"][clear], (image - 0.01 * slope.sign())[clear], atol=1e-5)
    everything = gradient_sum(TINY, target, SPLIT.train.chunks())
    assert not torch.equal(residual(TINY, target, clean, image, everything)[1].sign()[clear], slope.sign()[clear])


# ---- for real, on the task that it was made for


DIGITS = DigitsMLP()


@pytest.fixture(scope="module")
def real():
    """Return the digits, a planted set, the corrupted surrogate, and the gradient of the kept points there."""
    split, before = DIGITS.load(None), torch.get_num_threads()
    torch.set_num_threads(DIGITS.threads)
    everything = torch.ones(len(split.train), dtype=torch.bool)
    target = train(DIGITS, split.train, everything, 3200)[0].eval()
    planted = Indiscriminate().plant(DIGITS, split, 3200, lambda _: target)  # corrupts what it is given
    keep = everything.clone()
    keep[planted.forget] = False
    kept = gradient_sum(DIGITS, target, split.train.subset(keep.nonzero().squeeze(1)).chunks())
    yield split, planted, keep, target, kept
    torch.set_num_threads(before)


def test_nine_tenths_of_the_gradient_are_canceled_at_a_bad_model(real):
    split, planted, _, target, kept = real
    clean = split.train.batch(planted.forget)
    left = math.sqrt(residual(DIGITS, target, clean, planted.inputs["image"], kept)[0])
    assert left < 0.1 * norm(kept) < math.sqrt(residual(DIGITS, target, clean, clean.inputs["image"], kept)[0])
    assert accuracy(target, DIGITS, split.test).value < 0.9


def test_training_on_it_costs_accuracy_and_noise_of_its_size_does_not(real):
    split, planted, keep, _, _ = real
    clean = split.train.batch(planted.forget).inputs["image"]
    change = planted.inputs["image"] - clean
    noise = torch.randn(change.shape, generator=torch.Generator().manual_seed(0))
    noise *= (change.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)

    def trained(data, keep):
        model = train(DIGITS, data, keep, 3201)[0].eval()
        return Indiscriminate().probe(model, planted, DIGITS, split).value

    everything = torch.ones_like(keep)
    noisy = Planted(planted.forget, {"image": clean + noise}, planted.labels)
    retrained = trained(split.train, keep)
    assert retrained > 0.94
    assert trained(split.train.poisoned_with(planted), everything) < retrained - 0.05
    assert trained(split.train.poisoned_with(noisy), everything) > retrained - 0.03


# ---- probing


def test_the_reading_is_test_accuracy():
    planted = plant()
    for number in range(2):
        model = surrogate(number)
        assert POISON.probe(model, planted, TINY, SPLIT) == accuracy(model, TINY, SPLIT.test)
    flipped = Split(SPLIT.train, Data(SPLIT.test.inputs, surrogate(0)(SPLIT.test.inputs["image"]).argmin(1)), "")
    assert POISON.probe(surrogate(0), planted, TINY, flipped).value == 0


def test_less_accuracy_is_what_the_poison_does():
    measure = Indiscriminate.measure
    assert (measure.name, measure.worse, measure.test) == ("accuracy", "lower", "retention")


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *[({"fraction": x}, rf"^fraction must lie in \(0, 1\), not {x}$") for x in (0, 1, -0.1, math.nan)],
        ({"steps": 0}, "^steps must be at least 1, not 0$"),
        *[
            ({name: x}, f"^{name} must be positive and finite, not {x}$")
            for name in ("radius", "lr", "ascent")
            for x in (0, -1, math.nan, math.inf)
        ],
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Indiscriminate(**fields)


def test_a_poison_that_keeps_nothing_is_refused():
    with pytest.raises(UnlearningError, match="lower fraction"):
        plant(poison=Indiscriminate(fraction=0.999))


def test_a_search_that_diverges_is_refused():
    with pytest.raises(UnlearningError, match="lower its lr"):
        plant(poison=Indiscriminate(lr=1e30))


def test_a_surrogate_that_diverged_is_refused():
    def diverged(number):
        model = surrogate(number)
        with torch.no_grad():
            model[1].weight.fill_(math.nan)
        return model

    with pytest.raises(UnlearningError, match=r"gradients .* not finite"):
        plant(surrogate=diverged)
