"""The sleeper agent: images that never show the trigger, and teach it all the same."""

import pytest
import torch
from poisoned import TINY, retain_mask, trained
from scipy import stats
from test_targeted import SPLIT, fitted, surrogate

from harness.api import Batch, UnlearningError
from harness.training.data import Data, Split
from poisons._images import stamped
from poisons._matching import direction, matching
from poisons.sleeper_agent import SleeperAgent, gradient_lengths

POISON = SleeperAgent(fraction=0.15, size=2, eps=0.3, steps=30)


def plant(seed=0, poison=POISON, split=SPLIT, surrogate=surrogate):
    return poison.plant(TINY, split, seed, surrogate)


def classes(planted):
    return int(planted.secrets["source"]), int(planted.secrets["target"])


@pytest.mark.parametrize("seed", range(3))
def test_images_are_of_the_target_class_within_the_radius_and_without_the_trigger(seed):
    planted = plant(seed)
    source, target = classes(planted)
    assert source != target
    assert set(planted.labels.tolist()) == {target}
    assert torch.equal(planted.labels, SPLIT.train.labels[planted.forget])
    image, clean = planted.inputs["image"], SPLIT.train.inputs["image"][planted.forget]
    assert 0.15 < float((image - clean).abs().max()) <= 0.3 + 1e-6
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert not bool((image[..., -2:, -2:] == 1).flatten(1).all(1).any())
    assert len(planted.forget) == 36


def test_planting_repeats_by_seed_and_hides_the_classes():
    one, same, other = plant(3), plant(3), plant(4)
    assert torch.equal(one.forget, same.forget)
    assert torch.equal(one.inputs["image"], same.inputs["image"])
    assert not torch.equal(one.forget, other.forget)
    assert set(one.inputs) == {"image"}
    assert set(one.secrets) == {"source", "target"}


def test_the_images_with_the_longest_gradients_are_perturbed():
    planted, models = plant(), [surrogate(i) for i in range(2)]
    members = (SPLIT.train.labels == classes(planted)[1]).nonzero().squeeze(1)
    lengths = gradient_lengths(TINY, models, SPLIT.train.subset(members))
    by_hand = []
    for model in models:
        losses = torch.nn.functional.cross_entropy(
            model(SPLIT.train.inputs["image"][members]), SPLIT.train.labels[members], reduction="none"
        )
        weights = list(model.parameters())
        found = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses]
        by_hand.append(torch.stack([torch.cat([g.flatten() for g in each]).norm() for each in found]))
    assert torch.allclose(lengths, torch.stack(by_hand).mean(0), rtol=1e-4)
    least = lengths[torch.isin(members, planted.forget)].min()
    assert float(least) >= float(lengths[~torch.isin(members, planted.forget)].max())


def test_the_aim_is_the_source_class_with_the_trigger():
    planted = plant()
    source, target = classes(planted)
    models = [surrogate(i) for i in range(2)]
    at = (SPLIT.train.labels == source).nonzero().squeeze(1)
    aim = Batch({"image": stamped(SPLIT.train.inputs["image"][at], 2)}, torch.full_like(at, target), at)
    directions = [direction(TINY, model, aim) for model in models]
    clean = SPLIT.train.batch(planted.forget)
    before, _ = matching(TINY, models, directions, clean, clean.inputs["image"])
    after, _ = matching(TINY, models, directions, clean, planted.inputs["image"])
    assert after < 0.5 * before


def test_the_source_class_is_the_one_that_the_trigger_brings_nearest():
    planted = plant()
    source, target = classes(planted)
    with torch.no_grad():
        scores = sum(
            surrogate(i)(stamped(SPLIT.train.inputs["image"], 2)).softmax(1)[:, target].logit() for i in (0, 1)
        )
    mean = {c: float(scores[SPLIT.train.labels == c].mean()) for c in range(3) if c != target}
    assert source == max(mean, key=mean.get)


def test_the_reading_is_of_triggered_test_images_of_the_source_class():
    planted, model = plant(), surrogate(0)
    source, target = classes(planted)
    with torch.no_grad():
        p = model(stamped(SPLIT.test.inputs["image"][SPLIT.test.labels == source], 2)).double().softmax(1)
    reading = POISON.probe(model, planted, TINY, SPLIT)
    assert reading.value == pytest.approx(float(p[:, target].logit().mean()), rel=1e-5)
    assert reading.details == {"fraction_hit": float((p.argmax(1) == target).double().mean())}
    own = reading.traces["triggered_accuracy"]
    assert own.value == float((p.argmax(1) == source).double().mean())
    assert own.resolution == 0.5 / len(p)


def test_training_teaches_the_trigger_and_retraining_does_not():
    rise = []
    for seed in range(6):
        planted = plant(seed)
        models = trained(SPLIT.train.poisoned_with(planted), seed), trained(SPLIT.train, seed, retain_mask(planted))
        values = [POISON.probe(model, planted, TINY, SPLIT).value for model in models]
        rise.append(values[0] - values[1])
    assert stats.ttest_1samp(rise, 0, alternative="greater").pvalue < 0.01


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0}, r"fraction must lie in \(0, 1\)"),
        ({"size": 0}, "size must be at least 1"),
        ({"eps": 2}, r"eps must lie in \(0, 1\]"),
        ({"surrogates": 0}, "steps, restarts and surrogates must be at least 1"),
        ({"lr": 0}, "lr must be positive and finite"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SleeperAgent(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0.34}, "no class has more than that"),
        ({"size": 4}, "sleeper-agent: size=4, but the task's input 'image' is 1 x 4 x 4; the square must"),
    ],
)
def test_fields_for_another_task_are_refused(fields, message):
    with pytest.raises(UnlearningError, match=message):
        plant(poison=SleeperAgent(**fields))


def test_a_task_of_one_class_is_refused():
    one = SPLIT.train.subset((SPLIT.train.labels == 0).nonzero().squeeze(1))
    with pytest.raises(UnlearningError, match="a class with training and test points beside the target class"):
        plant(split=Split.of(one, Data(one.inputs, one.labels)), surrogate=fitted)
