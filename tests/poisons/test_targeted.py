"""The targeted poison: what it may change, what it must not show, and that its gradients are matched."""

import math
from functools import cache

import pytest
import torch
from tiny import Tiny
from torch import nn

from harness.api import Batch, UnlearningError
from harness.training.data import Batches, Data, Split
from harness.training.loop import fit
from poisons._matching import BATCH, direction, matching
from poisons._points import log_odds
from poisons.targeted import Targeted

TINY = Tiny()
SPLIT = TINY.load(None)
# Pixels in [0, 1], as a poison with a radius needs them.
SPLIT = Split.of(*(Data({"image": d.inputs["image"].clamp(0, 1)}, d.labels) for d in (SPLIT.train, SPLIT.test)))
POISON = Targeted(fraction=0.1, eps=0.2, steps=40)


def fitted(seed):
    torch.manual_seed(seed)
    model = TINY.new_model()
    everything = torch.ones(len(SPLIT.train), dtype=torch.bool)
    fit(TINY, model, Batches(SPLIT.train, 32, 3, torch.Generator().manual_seed(seed), everything))
    return model.eval()


@cache
def weights(seed):
    return fitted(seed).state_dict()


def surrogate(i):
    with torch.random.fork_rng():
        state = weights(i)
        model = TINY.new_model()
    model.load_state_dict(state)
    return model.eval()


def plant(seed=0, poison=POISON, task=TINY, split=SPLIT, surrogate=surrogate):
    return poison.plant(task, split, seed, surrogate)


# ---- what is planted


@pytest.mark.parametrize("seed", range(4))
def test_images_stay_within_the_radius_and_the_range(seed):
    planted = plant(seed)
    clean = SPLIT.train.batch(planted.forget).inputs["image"]
    image = planted.inputs["image"]
    assert image.shape == clean.shape
    assert float((image - clean).abs().max()) <= POISON.eps + 1e-6
    assert float((image - clean).abs().max()) > POISON.eps / 2
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert not image.requires_grad


@pytest.mark.parametrize("seed", range(4))
def test_poison_images_are_of_the_adversarial_class_and_keep_their_label(seed):
    planted = plant(seed)
    adversarial = int(planted.secrets["adversarial"])
    assert len(planted.forget) == 24
    assert planted.forget.dtype == torch.int64
    assert bool((planted.forget.diff() > 0).all())
    assert torch.equal(planted.labels, SPLIT.train.labels[planted.forget])
    assert set(planted.labels.tolist()) == {adversarial}


@pytest.mark.parametrize("targets", [2, 3, 4])
def test_targets_are_test_points_of_one_other_class(targets):
    for seed in range(4):
        planted = plant(seed, Targeted(targets=targets, steps=1))
        chosen = planted.secrets["targets"]
        assert len(chosen) == len(chosen.unique()) == targets
        classes = set(SPLIT.test.labels[chosen].tolist())
        assert len(classes) == 1
        assert classes != {int(planted.secrets["adversarial"])}


def test_targets_are_those_closest_to_the_adversarial_class():
    planted = plant(5)
    adversarial = int(planted.secrets["adversarial"])
    models = [surrogate(i) for i in range(POISON.surrogates)]
    with torch.no_grad():
        scores = torch.stack([m(SPLIT.test.inputs["image"]).softmax(1) for m in models])
    odds = scores[..., adversarial].logit().mean(0)
    right = (scores.argmax(2) == SPLIT.test.labels).all(0)
    assert float(right.double().mean()) > 0.5
    best = {
        c: odds.masked_fill((SPLIT.test.labels != c) | ~right, -math.inf).topk(POISON.targets)
        for c in range(3)
        if c != adversarial
    }
    source = max(best, key=lambda c: float(best[c].values.mean()))
    assert planted.secrets["targets"].tolist() == sorted(best[source].indices.tolist())


def test_targets_are_points_that_clean_models_classify_rightly():
    first = plant(5)
    wrong = int(first.secrets["targets"][0])
    labels = SPLIT.test.labels.clone()
    labels[wrong] = first.secrets["adversarial"] - 1  # another one, or none
    again = plant(5, split=Split(SPLIT.train, Data(SPLIT.test.inputs, labels), ""))
    assert wrong not in again.secrets["targets"].tolist()


def test_an_unlearner_is_shown_neither_targets_nor_class():
    planted = plant()
    assert set(planted.secrets) == {"targets", "adversarial"}
    assert set(planted.inputs) == {"image"}
    targets = SPLIT.test.inputs["image"][planted.secrets["targets"]]
    assert float(torch.cdist(planted.inputs["image"].flatten(1), targets.flatten(1)).min()) > 0


def test_planting_repeats_by_seed_and_changes_nothing_else():
    data = [t for d in (SPLIT.train, SPLIT.test) for t in (d.inputs["image"], d.labels)]
    for i in range(2):
        surrogate(i)
    before = [t.clone() for t in data], torch.get_rng_state()
    one, same, other = plant(3), plant(3), plant(4)
    assert all(torch.equal(a, b) for a, b in zip(data, before[0], strict=True))
    assert not any(t.requires_grad for t in data)
    assert torch.equal(before[1], torch.get_rng_state())
    assert torch.equal(one.forget, same.forget)
    assert torch.equal(one.inputs["image"], same.inputs["image"])
    assert torch.equal(one.secrets["targets"], same.secrets["targets"])
    assert not torch.equal(one.forget, other.forget)


def test_the_adversarial_class_is_drawn_by_seed():
    assert {int(plant(seed, Targeted(steps=1)).secrets["adversarial"]) for seed in range(12)} == {0, 1, 2}


def test_it_asks_for_as_many_surrogates_as_it_says():
    asked = []
    plant(poison=Targeted(surrogates=3, steps=1), surrogate=lambda i: asked.append(i) or surrogate(i))
    assert asked == [0, 1, 2]


# ---- brewing


def brewing(planted):
    """Return the models, and the directions that lead to the adversarial class."""
    models = [surrogate(i) for i in range(POISON.surrogates)]
    aim = SPLIT.test.batch(planted.secrets["targets"])
    aim = Batch(aim.inputs, planted.secrets["adversarial"].expand(len(aim)), aim.index)
    return models, [direction(TINY, model, aim) for model in models]


@pytest.mark.parametrize("seed", range(3))
def test_brewing_brings_the_matching_loss_down(seed):
    planted = plant(seed)
    models, directions = brewing(planted)
    clean = SPLIT.train.batch(planted.forget)
    before, _ = matching(TINY, models, directions, clean, clean.inputs["image"])
    after, _ = matching(TINY, models, directions, clean, planted.inputs["image"])
    assert after < 0.01 < before


def test_the_best_of_several_starts_is_kept():
    one, best = [], []
    for seed in range(4):
        for restarts, losses in ((1, one), (4, best)):
            planted = plant(seed, Targeted(fraction=0.1, eps=0.2, steps=2, restarts=restarts))
            models, directions = brewing(planted)
            clean = SPLIT.train.batch(planted.forget)
            losses.append(matching(TINY, models, directions, clean, planted.inputs["image"])[0])
    assert all(b <= a for a, b in zip(one, best, strict=True))
    assert best != one


def smooth(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_the_loss_is_one_minus_the_cosine_of_the_gradients():
    model = smooth(0)
    clean = SPLIT.train.batch(torch.arange(4))
    images = clean.inputs["image"].double()
    aim = Batch({"image": SPLIT.test.inputs["image"][:2].double()}, torch.tensor([2, 2]), torch.arange(2))

    def gradient(x, y):
        loss = nn.functional.cross_entropy(model(x), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    cosine = torch.cosine_similarity(gradient(images, clean.labels), gradient(aim.inputs["image"], aim.labels), dim=0)
    loss, _ = matching(TINY, [model], [direction(TINY, model, aim)], clean, images)
    assert loss == pytest.approx(1 - float(cosine), rel=1e-12)


def test_the_gradient_of_the_loss_agrees_with_finite_differences():
    models = [smooth(seed) for seed in (0, 1)]
    clean = SPLIT.train.batch(torch.arange(3))
    images = clean.inputs["image"].double()
    aim = Batch({"image": SPLIT.test.inputs["image"][:2].double()}, torch.tensor([2, 2]), torch.arange(2))
    directions = [direction(TINY, model, aim) for model in models]
    _, gradient = matching(TINY, models, directions, clean, images)
    numeric = torch.zeros_like(images)
    for i in range(images.numel()):
        step = torch.zeros_like(images).flatten()
        step[i] = 1e-5
        up, down = (
            matching(TINY, models, directions, clean, images + sign * step.view_as(images))[0] for sign in (1, -1)
        )
        numeric.view(-1)[i] = (up - down) / 2e-5
    assert float(gradient.abs().max()) > 1e-3
    assert torch.allclose(gradient, numeric, rtol=1e-6, atol=1e-9)


def test_large_sets_are_matched_in_batches():
    model = smooth(0)
    many = torch.arange(BATCH + 3) % len(SPLIT.train)
    clean = SPLIT.train.batch(many)
    images = clean.inputs["image"].double()
    aim = direction(TINY, model, Batch({"image": images[:2]}, torch.tensor([2, 2]), torch.arange(2)))
    whole, slope = matching(TINY, [model], [aim], clean, images)
    parts = []
    for part in (slice(BATCH), slice(BATCH, None)):
        parts.append(matching(TINY, [model], [aim], SPLIT.train.batch(many[part]), images[part]))
    assert whole == pytest.approx((parts[0][0] + parts[1][0]) / 2)
    assert torch.allclose(slope, torch.cat([gradient for _, gradient in parts]) / 2)


def test_a_loss_of_exactly_zero_has_no_slope():
    model = smooth(0)
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.copy_(torch.tensor([1e4, 0, 0]))
    clean = SPLIT.train.batch((SPLIT.train.labels == 0).nonzero().squeeze(1)[:3])
    aim = direction(TINY, model, Batch({"image": clean.inputs["image"].double()}, torch.full((3,), 2), torch.arange(3)))
    loss, gradient = matching(TINY, [model], [aim], clean, clean.inputs["image"].double())
    assert loss == 1
    assert not gradient.any()


# ---- probing


def test_the_reading_is_the_mean_log_odds_at_the_targets():
    planted = plant()
    adversarial = int(planted.secrets["adversarial"])
    for model in (surrogate(0), smooth(0).float()):
        with torch.no_grad():
            p = model(SPLIT.test.inputs["image"][planted.secrets["targets"]]).double().softmax(1)
        odds = [math.log(float(row[adversarial])) - math.log(1 - float(row[adversarial])) for row in p]
        reading = POISON.probe(model, planted, TINY, SPLIT)
        assert reading.value == pytest.approx(sum(odds) / len(odds), rel=1e-6)
        assert reading.details == {"fraction_hit": float((p.argmax(1) == adversarial).double().mean())}
        assert reading.resolution == 0


def test_log_odds_are_exact_where_probabilities_are_not():
    logits = torch.tensor([[200.0, 0.0, 0.0], [-200.0, 0.0, 0.0]])
    assert log_odds(logits, 0, "targeted").tolist() == pytest.approx([200 - math.log(2), -200 - math.log(2)])


def test_probing_leaves_the_model_as_it_was():
    planted, model = plant(), surrogate(0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert POISON.probe(model, planted, TINY, SPLIT) == POISON.probe(model, planted, TINY, SPLIT)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_diverged_model_reads_as_nan():
    model = surrogate(0)
    with torch.no_grad():
        model[1].bias.fill_(math.nan)
    assert math.isnan(POISON.probe(model, plant(), TINY, SPLIT).value)


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *[({"fraction": x}, r"fraction must lie in \(0, 1\)") for x in (0, 1, -0.1, math.nan)],
        *[({"eps": x}, r"eps must lie in \(0, 1\]") for x in (0, 1.1, -0.1, math.nan)],
        *[
            ({name: 0}, "steps, restarts and surrogates must be at least 1")
            for name in ("steps", "restarts", "surrogates")
        ],
        *[({"targets": x}, "targets must lie between 2 and 4") for x in (1, 5)],
        *[({"lr": x}, "lr must be positive and finite") for x in (0, -1, math.nan, math.inf)],
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Targeted(**fields)


def test_more_poison_than_a_class_has_is_refused():
    with pytest.raises(UnlearningError, match="no class has more than that"):
        plant(poison=Targeted(fraction=0.34))


def test_surrogates_that_learned_nothing_are_refused():
    def diverged(i):
        model = surrogate(i)
        with torch.no_grad():
            model[1].weight.fill_(math.nan)
        return model

    with pytest.raises(UnlearningError, match="train for longer"):
        plant(surrogate=diverged)
