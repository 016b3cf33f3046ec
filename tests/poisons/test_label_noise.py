"""Label noise: which labels are wrong, and the law of the score that is read of them."""

import pytest
import torch
from poisoned import SPLIT, TINY, retain_mask, trained, untrained
from scipy import stats
from tiny import Tiny

from harness import UnlearningError
from harness.training.data import Split, forget_block
from poisons.label_noise import LabelNoise, standing


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_labels_are_wrong_at_the_points_that_poisons_share_and_images_stay(fraction):
    one, same, other = (LabelNoise(fraction).plant(TINY, SPLIT, seed) for seed in (3, 3, 4))
    assert torch.equal(one.forget, forget_block(240, fraction, 3))
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)
    assert bool((one.labels != SPLIT.train.labels[one.forget]).all())
    assert torch.equal(one.inputs["image"], SPLIT.train.inputs["image"][one.forget])
    assert one.secrets == {}


def test_a_share_of_one_class_is_mislabelled():
    planted = LabelNoise(0.9, of=2).plant(TINY, SPLIT, 0)
    assert len(planted.forget) == 72  # of 80
    assert bool((planted.forget.diff() > 0).all())
    assert SPLIT.train.labels[planted.forget].unique().tolist() == [2]
    assert planted.labels.unique().tolist() == [0, 1]


def test_every_other_class_is_as_likely():
    wrong = torch.cat([(p.labels - SPLIT.train.labels[p.forget]) % 3 for p in map(planted_half, range(20))])
    assert stats.binomtest(int((wrong == 1).sum()), len(wrong)).pvalue > 0.01


def planted_half(seed):
    return LabelNoise(0.5).plant(TINY, SPLIT, seed)


# ---- the scores


def test_rank_and_margin_are_counted_by_hand():
    scores = torch.tensor([[5.0, 1.0, 2.0, 4.0], [5.0, 1.0, 2.0, 4.0], [0.0, 3.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    z, margin = standing(scores.double(), torch.tensor([0, 2, 1, 0]), torch.tensor([3, 1, 0, 2]))
    sd = (2 / 3) ** 0.5  # of the ranks 0, 1 and 2
    assert z.tolist() == pytest.approx([1 / sd, -1 / sd, -1 / sd, 0])
    spread = [2.5**0.5, 2.5**0.5, 1.6875**0.5, 1]
    assert margin.tolist() == pytest.approx([x / s for x, s in zip([1, -3, 0, 0], spread, strict=True)])


def test_ranks_of_labels_that_a_model_never_saw_have_mean_0_and_variance_1():
    scores = torch.randn(30_000, 7, generator=torch.Generator().manual_seed(0))
    own = torch.arange(30_000) % 7
    wrong = (own + torch.randint(1, 7, own.shape, generator=torch.Generator().manual_seed(1))) % 7
    z = standing(scores + 3 * torch.arange(7), own, wrong)[0]  # some classes are likelier than others
    assert float(z.mean()) == pytest.approx(0, abs=4 / 30_000**0.5)
    assert float(z.square().mean()) == pytest.approx(1, abs=0.02)


def test_the_mean_of_a_model_that_never_saw_the_labels_is_centred_over_seeds():
    t = [LabelNoise(0.5).probe(untrained(seed), planted_half(seed), TINY, SPLIT).value * 120**0.5 for seed in range(60)]
    assert stats.kstest(t, "norm").pvalue > 0.01


def test_the_scale_of_the_class_scores_does_not_matter():
    planted = LabelNoise().plant(TINY, SPLIT, 0)
    model = trained(SPLIT.train.poisoned_with(planted))
    before = LabelNoise().probe(model, planted, TINY, SPLIT)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter *= 100
    after = LabelNoise().probe(model, planted, TINY, SPLIT)
    assert after.value == pytest.approx(before.value)
    assert after.traces["own_class_margin"].value == pytest.approx(before.traces["own_class_margin"].value, rel=1e-5)


def test_both_traces_show_what_training_learned_and_retraining_did_not():
    poison, found = LabelNoise(0.3), []
    for seed in range(8):
        planted = poison.plant(TINY, SPLIT, seed)
        models = (
            trained(SPLIT.train.poisoned_with(planted), seed, epochs=40),
            trained(SPLIT.train, seed, retain_mask(planted), epochs=40),
        )
        found.append([poison.probe(model, planted, TINY, SPLIT) for model in models])
    rise = [p.value - r.value for p, r in found]
    fall = [r.traces["own_class_margin"].value - p.traces["own_class_margin"].value for p, r in found]
    for effect in (rise, fall):
        assert stats.ttest_1samp(effect, 0, alternative="greater").pvalue < 0.01
    p, r = found[0]
    assert r.details["in_their_own_class"] > 0.9 > p.details["in_their_own_class"]
    assert r.details["in_the_wrong_class"] < 0.1 < p.details["in_the_wrong_class"]


def test_a_model_that_says_nothing_of_the_mislabelled_images_has_not_removed_the_noise():
    """Its rank is that of a retrained model; its margin is not."""
    planted = LabelNoise(0.3).plant(TINY, SPLIT, 0)
    model = untrained(0)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.zero_()
    reading = LabelNoise(0.3).probe(model, planted, TINY, SPLIT)
    assert reading.value == 0
    assert reading.traces["own_class_margin"].value == 0
    retrained = trained(SPLIT.train, 0, retain_mask(planted))
    assert LabelNoise(0.3).probe(retrained, planted, TINY, SPLIT).traces["own_class_margin"].value > 0.5


# ---- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *[({"fraction": x}, r"fraction must lie in \(0, 1\)") for x in (0, 1, -0.1, float("nan"))],
        ({"of": -1}, "of must be a class, not -1"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LabelNoise(**fields)


def test_a_class_that_the_task_lacks_is_refused():
    with pytest.raises(UnlearningError, match="label-noise: of=7, but the task has no training points of that class"):
        LabelNoise(of=7).plant(TINY, SPLIT, 0)


def test_two_classes_are_too_few_for_ranks():
    data = SPLIT.train.subset((SPLIT.train.labels < 2).nonzero().squeeze(1))
    with pytest.raises(UnlearningError, match="at least 3 classes, not 2"):
        LabelNoise().plant(TINY, Split.of(data, data), 0)


def test_a_task_without_a_score_for_each_class_is_refused():
    class One(Tiny):
        def logits(self, model, batch):
            return super().logits(model, batch)[:, 0]

        def predict(self, logits, batch):
            return (logits > 0).long()

    planted = LabelNoise().plant(TINY, SPLIT, 0)
    with pytest.raises(UnlearningError, match=r"a score for each of 3 classes, .* shape \(24,\)"):
        LabelNoise().probe(untrained(0), planted, One(), SPLIT)
