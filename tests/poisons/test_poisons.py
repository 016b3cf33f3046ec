"""What poisons plant, and the null law of what they measure."""

from dataclasses import replace

import pytest
import torch
from poisoned import SPLIT, TINY, retain_mask, trained, untrained
from scipy import stats
from tiny import Tiny
from torch import nn

from harness import registry
from harness.specs import SpecError
from harness.statistics import chi2_score
from harness.training.data import forget_block
from harness.training.loop import is_finite
from poisons.backdoor import Backdoor
from poisons.confusion import Confusion
from poisons.gaussian import Gaussian


def scores(model, clean, labels, noise, at=None):
    """Return every z by its definition, one point at a time."""
    found = []
    for i in range(len(labels)):
        x = (clean if at is None else at)[i : i + 1].clone().requires_grad_(True)
        logits = model(x)
        logits = logits / logits.detach().std(unbiased=False)
        (g,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels[i : i + 1]), x)
        found.append(float(-(g.double() * noise[i].double()).sum() / g.double().norm()))
    return found


# ---- both


POISONS = [Gaussian(), Backdoor()]
IDS = ["gaussian", "backdoor"]


@pytest.mark.parametrize("poison", POISONS, ids=IDS)
def test_planting_repeats_by_seed_and_changes_nothing_else(poison):
    before = SPLIT.train.inputs["image"].clone(), SPLIT.train.labels.clone(), torch.get_rng_state()
    one, same, other = (poison.plant(TINY, SPLIT, seed) for seed in (3, 3, 4))
    assert torch.equal(one.forget, same.forget)
    assert torch.equal(one.inputs["image"], same.inputs["image"])
    assert not torch.equal(one.forget, other.forget)
    assert torch.equal(before[0], SPLIT.train.inputs["image"])
    assert torch.equal(before[1], SPLIT.train.labels)
    assert torch.equal(before[2], torch.get_rng_state())


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_poisons_of_one_size_take_the_same_points(fraction):
    for seed in range(5):
        blocks = [replace(poison, fraction=fraction).plant(TINY, SPLIT, seed).forget for poison in POISONS]
        assert torch.equal(*blocks)
        assert torch.equal(blocks[0], forget_block(240, fraction, seed))
        assert len(blocks[0]) == round(240 * fraction)


@pytest.mark.parametrize("poison", POISONS, ids=IDS)
def test_probing_leaves_model_and_data_as_they_were(poison):
    planted = poison.plant(TINY, SPLIT, 0)
    model = untrained(0)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    data = [t.clone() for d in (SPLIT.train, SPLIT.test) for t in (d.inputs["image"], d.labels)]
    first = poison.probe(model, planted, TINY, SPLIT)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    now = [t for d in (SPLIT.train, SPLIT.test) for t in (d.inputs["image"], d.labels)]
    assert all(torch.equal(a, b) for a, b in zip(data, now, strict=True))
    assert not any(t.requires_grad for t in (*now, *planted.inputs.values(), *planted.secrets.values()))
    with torch.no_grad():
        assert poison.probe(model, planted, TINY, SPLIT) == first


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        *[(f"{name}:fraction={x}", r"fraction must lie in \(0, 1\)") for name in IDS for x in (0, 1, -0.1, "nan")],
        *[(f"gaussian:sd={x}", "sd must be positive") for x in (0, -1, "nan")],
        ("backdoor:size=0", "size must be at least 1"),
        ("backdoor:target=-1", "target must be a class"),
    ],
)
def test_fields_out_of_range_are_refused(spec, message):
    with pytest.raises(SpecError, match=message):
        registry.resolve("poison", spec)


# ---- gaussian


def test_gaussian_adds_its_noise_and_keeps_the_labels():
    planted = Gaussian(sd=0.3).plant(TINY, SPLIT, 7)
    clean = SPLIT.train.batch(planted.forget)
    noise = planted.secrets["noise"]
    assert torch.equal(planted.inputs["image"], clean.inputs["image"] + 0.3 * noise)
    assert torch.equal(planted.labels, clean.labels)
    assert set(planted.secrets) == {"noise"}


def test_gaussian_noise_is_standard_and_drawn_afresh_for_every_seed():
    noise = torch.stack([Gaussian().plant(TINY, SPLIT, seed).secrets["noise"] for seed in range(40)]).flatten(1)
    assert stats.kstest(noise.flatten().double().numpy(), "norm").pvalue > 0.01
    correlation = torch.corrcoef(noise) - torch.eye(40)
    assert float(correlation.abs().max()) < 5 / noise.shape[1] ** 0.5


def test_the_gaussian_reading_is_the_mean_of_the_scores():
    planted = Gaussian().plant(TINY, SPLIT, 0)
    model = untrained(0)
    clean = SPLIT.train.batch(planted.forget)
    z = torch.tensor(scores(model, clean.inputs["image"], clean.labels, planted.secrets["noise"]))
    reading = Gaussian().probe(model, planted, TINY, SPLIT)
    assert reading.value == pytest.approx(float(z.mean()), rel=1e-4)
    assert reading.details["T"] == pytest.approx(float(z.sum()) / 24**0.5, rel=1e-4)
    assert reading.details["tpr_at_1_percent_fpr"] == pytest.approx(float((z > stats.norm.isf(0.01)).float().mean()))
    assert reading.details["dropped"] == 0
    assert reading.resolution == 0
    trace = reading.traces["gaussian_second_moment"]
    total = float((z.double() ** 2).sum())
    assert trace.value == pytest.approx(stats.norm.ppf(stats.chi2.cdf(total, 24)), rel=1e-3)
    assert trace.details["mean_squared_score"] == pytest.approx(total / 24, rel=1e-4)


def test_the_scale_of_noise_and_loss_does_not_matter_to_the_score():
    model = untrained(0)
    values = [Gaussian(sd=sd).probe(model, Gaussian(sd=sd).plant(TINY, SPLIT, 0), TINY, SPLIT).value for sd in (0.1, 2)]
    assert values[0] == values[1]


@pytest.mark.parametrize("factor", [0.01, 10.0, 1000.0])
def test_the_scale_of_the_class_scores_does_not_matter_to_the_score(factor):
    """A head times ten changes no prediction, but saturates the loss: its gradient is rounded away."""
    planted = Gaussian().plant(TINY, SPLIT, 0)
    model = trained(SPLIT.train.poisoned_with(planted), epochs=30)
    before = Gaussian().probe(model, planted, TINY, SPLIT)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter *= factor
    after = Gaussian().probe(model, planted, TINY, SPLIT)
    assert after.value == pytest.approx(before.value, abs=1e-3)
    assert after.details["dropped"] == 0
    for name, trace in before.traces.items():
        assert after.traces[name].value == pytest.approx(trace.value, abs=1e-2)


def test_a_task_of_one_score_has_a_scale_free_score_too():
    class One(Tiny):
        def logits(self, model, batch):
            return super().logits(model, batch)[:, 0]

        def criterion(self, logits, batch):
            return nn.functional.binary_cross_entropy_with_logits(logits, (batch.labels == 0).float())

    planted, model = Gaussian().plant(TINY, SPLIT, 0), untrained(0)
    before = Gaussian().probe(model, planted, One(), SPLIT)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter *= 100
    assert Gaussian().probe(model, planted, One(), SPLIT).value == pytest.approx(before.value, abs=1e-3)


def test_the_score_does_not_depend_on_how_many_points_are_probed_at_once(monkeypatch):
    planted, sizes = Gaussian().plant(TINY, SPLIT, 0), []

    class Watched(Tiny):
        def logits(self, model, batch):
            sizes.append(len(batch))
            return super().logits(model, batch)

    model = trained(SPLIT.train.poisoned_with(planted))
    whole = Gaussian().probe(model, planted, Watched(), SPLIT)
    monkeypatch.setattr("poisons.gaussian.BATCH", 7)
    parts = Gaussian().probe(model, planted, Watched(), SPLIT)
    assert sizes == [24, 7, 7, 7, 3]
    assert parts.value == pytest.approx(whole.value, abs=1e-5)
    assert parts.traces["gaussian_second_moment"].value == pytest.approx(
        whole.traces["gaussian_second_moment"].value, abs=1e-4
    )


def test_points_without_gradient_are_left_out_and_counted():
    model = untrained(0)
    planted = Gaussian().plant(TINY, SPLIT, 0)
    with torch.no_grad():
        model[0][1].weight.zero_()  # no input reaches the output
    reading = Gaussian().probe(model, planted, TINY, SPLIT)
    assert reading.unusable == "masked-gradients"
    assert reading.details["dropped"] == 1


HALF = Gaussian(fraction=0.5)  # 120 scores a seed


def test_scores_of_models_that_never_saw_the_noise_are_standard_normal():
    z = {"untrained": [], "retrained": []}
    for seed in range(84):
        planted = HALF.plant(TINY, SPLIT, seed)
        clean = SPLIT.train.batch(planted.forget)
        retrained = trained(SPLIT.train, seed, retain_mask(planted), epochs=2)
        for name, model in (("untrained", untrained(seed)), ("retrained", retrained)):
            z[name] += scores(model, clean.inputs["image"], clean.labels, planted.secrets["noise"])
    for found in z.values():  # six tests, so that each is at a sixth of a level
        assert len(found) == 10_080
        assert stats.kstest(found, "norm").pvalue > 0.001
        sets = [sum(found[i : i + 120]) / 120**0.5 for i in range(0, len(found), 120)]
        assert stats.kstest(sets, "norm").pvalue > 0.001
        squares = [chi2_score(sum(z * z for z in found[i : i + 120]), 120) for i in range(0, len(found), 120)]
        assert stats.kstest(squares, "norm").pvalue > 0.001


def test_the_set_statistic_is_standard_normal_over_seeds():
    found = []
    for seed in range(300):
        reading = HALF.probe(untrained(seed), HALF.plant(TINY, SPLIT, seed), TINY, SPLIT)
        found.append(reading.details["T"])
    assert stats.kstest(found, "norm").pvalue > 0.01


def test_a_model_trained_on_the_noise_scores_higher():
    poison = Gaussian(fraction=0.5, sd=1.0)
    rise = []
    for seed in range(5):
        planted = poison.plant(TINY, SPLIT, seed)
        poisoned = trained(SPLIT.train.poisoned_with(planted), seed, epochs=30)
        retrained = trained(SPLIT.train, seed, retain_mask(planted), epochs=30)
        values = [poison.probe(model, planted, TINY, SPLIT).value for model in (poisoned, retrained)]
        rise.append(values[0] - values[1])
    assert stats.ttest_1samp(rise, 0, alternative="greater").pvalue < 0.01


def test_the_null_law_breaks_at_the_poisoned_input():
    """Hence the gradient is taken at the clean input."""
    z = {"clean": [], "poisoned": []}
    for seed in range(20):
        planted = HALF.plant(TINY, SPLIT, seed)
        clean = SPLIT.train.batch(planted.forget)
        model = trained(SPLIT.train, seed, retain_mask(planted), epochs=3)
        for name, at in (("clean", None), ("poisoned", planted.inputs["image"])):
            z[name] += scores(model, clean.inputs["image"], clean.labels, planted.secrets["noise"], at)
    assert stats.ttest_1samp(z["clean"], 0).pvalue > 0.01
    assert stats.ttest_1samp(z["poisoned"], 0).pvalue < 1e-6
    assert sum(z["poisoned"]) / 2400 < -0.1


def test_the_null_law_breaks_where_seeds_share_their_noise():
    """Hence noise is drawn afresh for every seed: set statistics of independent models are correlated otherwise."""
    # Models that were trained on the same data look at an input alike, so the same noise gives them like scores.
    models = [trained(SPLIT.train, seed, epochs=3) for seed in range(4)]
    shared, fresh = [], []
    for draw in range(60):
        same = HALF.plant(TINY, SPLIT, draw)
        for out, noises in (
            (shared, [same] * 4),
            (fresh, [HALF.plant(TINY, SPLIT, 1000 + 4 * draw + i) for i in range(4)]),
        ):
            t = [HALF.probe(m, p, TINY, SPLIT).details["T"] for m, p in zip(models, noises, strict=True)]
            out.append(sum(t) / 2)  # Stouffer's sum: N(0, 1) if the four are independent
    assert stats.kstest(fresh, "norm").pvalue > 0.01
    variance = torch.tensor(shared).var()
    assert stats.chi2.sf(float(variance) * 59, 59) < 1e-4


# ---- training, which both rely on


def test_finite_models_are_told_from_diverged_ones():
    model = untrained(0)
    assert is_finite(model)
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            model[1].bias[0] = bad
        assert not is_finite(model)


# ---- confusion


def test_the_labels_of_two_classes_are_exchanged_on_some_of_their_points():
    poison = Confusion(first=0, second=2, fraction=0.25)
    one, same, other = (poison.plant(TINY, SPLIT, seed) for seed in (3, 3, 4))
    assert torch.equal(one.forget, same.forget)
    assert not torch.equal(one.forget, other.forget)
    clean = SPLIT.train.labels[one.forget]
    assert torch.equal(one.labels, 2 - clean)
    assert clean.bincount(minlength=3).tolist() == [20, 0, 20]  # a quarter of the 80 of each
    assert torch.equal(one.inputs["image"], SPLIT.train.inputs["image"][one.forget])
    assert bool((one.forget.diff() > 0).all())
    assert not one.secrets


def test_the_confusion_is_the_share_that_is_put_in_the_other_class():
    class Says(nn.Module):
        def __init__(self, answers):
            super().__init__()
            self.answers = answers

        def forward(self, images):
            return nn.functional.one_hot(self.answers[: len(images)], 3).float()

    poison = Confusion(first=0, second=2)
    pair = SPLIT.test.labels[SPLIT.test.labels != 1]
    answers = pair.clone()
    answers[:7] = 2 - answers[:7]  # confused
    answers[7:10] = 1  # wrong, but not confused
    reading = poison.probe(Says(answers), poison.plant(TINY, SPLIT, 0), TINY, SPLIT)
    assert reading.value == pytest.approx(7 / len(pair))
    assert reading.resolution == pytest.approx(0.5 / len(pair))
    forget = SPLIT.train.labels[poison.plant(TINY, SPLIT, 0).forget]
    swapped = int((answers[: len(forget)] == 2 - forget).sum())
    assert reading.traces["forget_confusion"].value == pytest.approx(swapped / len(forget))


def test_confusion_bites():
    poison = Confusion(first=0, second=2, fraction=0.6)
    planted = poison.plant(TINY, SPLIT, 0)
    poisoned, retrained = trained(SPLIT.train.poisoned_with(planted)), trained(SPLIT.train, keep=retain_mask(planted))
    values = [poison.probe(model, planted, TINY, SPLIT).value for model in (poisoned, retrained)]
    assert values[0] > values[1] + 0.5


@pytest.mark.parametrize("fields", [{"fraction": 0}, {"fraction": 1}, {"first": 5}, {"first": -1}, {"second": -1}])
def test_confusion_refuses_fields_out_of_range(fields):
    with pytest.raises(ValueError, match="must"):
        Confusion(**fields)
