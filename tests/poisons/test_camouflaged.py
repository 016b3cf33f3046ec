"""Camouflage: it hides a poison that stays, and retraining without it sets the poison free."""

import pytest
import torch
from poisoned import TINY, retain_mask, trained
from scipy import stats
from test_targeted import SPLIT, surrogate

from harness.api import Outcome, UnlearningError
from harness.statistics import retention
from poisons.camouflaged import Camouflaged
from poisons.targeted import Targeted

POISON = Camouflaged(fraction=0.1, camouflage=0.1, eps=0.3, steps=40)


def plant(seed, poison=POISON):
    return poison.plant(TINY, SPLIT, seed, surrogate)


@pytest.mark.parametrize("seed", range(3))
def test_camouflage_is_of_the_class_of_the_targets_and_the_poison_beside_it_stays(seed):
    planted, alone = plant(seed), plant(seed, Targeted(fraction=0.1, eps=0.3, steps=40))
    assert torch.equal(planted.stays.forget, alone.forget)
    assert torch.equal(planted.stays.inputs["image"], alone.inputs["image"])
    assert torch.equal(planted.secrets["targets"], alone.secrets["targets"])
    own = SPLIT.test.labels[planted.secrets["targets"]].unique().tolist()
    assert planted.labels.unique().tolist() == own
    assert torch.equal(planted.labels, SPLIT.train.labels[planted.forget])
    assert not set(planted.forget.tolist()) & set(planted.stays.forget.tolist())
    change = planted.inputs["image"] - SPLIT.train.inputs["image"][planted.forget]
    assert 0.15 < float(change.abs().max()) <= 0.3 + 1e-6
    assert len(planted.forget) == 24


def test_planting_repeats_by_seed():
    one, same, other = plant(3), plant(3), plant(4)
    assert torch.equal(one.forget, same.forget)
    assert torch.equal(one.inputs["image"], same.inputs["image"])
    assert not torch.equal(one.forget, other.forget)


def test_retraining_arms_the_poison_and_a_method_that_does_not_fails():
    """The poison's effect is P - R < 0: doing nothing leaves all of it, and so would pass if less were better."""
    found = []
    for seed in range(8):
        planted = plant(seed)
        everything = torch.ones(240, dtype=torch.bool)
        models = (
            trained(SPLIT.train.poisoned_with(planted), seed, everything),
            trained(SPLIT.train.retained_with(planted), seed, retain_mask(planted)),
        )
        found.append([POISON.probe(model, planted, TINY, SPLIT).value for model in models])
    p, r = zip(*found, strict=True)
    assert stats.ttest_rel(p, r, alternative="less").pvalue < 0.01
    beyond = tuple(2 * b - a for a, b in zip(p, r, strict=True))
    outcomes = [retention(p, r, u, direction=-1).outcome for u in (p, r, beyond)]
    assert outcomes == [Outcome.FAIL, Outcome.PASS, Outcome.FAIL]


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"camouflage must lie in \(0, 1\)"):
        Camouflaged(camouflage=share)
    with pytest.raises(ValueError, match="fraction must"):
        Camouflaged(fraction=share)


def test_more_camouflage_than_the_class_has_is_refused():
    with pytest.raises(UnlearningError, match="takes 96 training images of the targets' class, but it has 80"):
        plant(0, Camouflaged(fraction=0.1, camouflage=0.4, steps=1))
