"""The backdoor: what each trigger changes, what is counted, and that it bites."""

import pytest
import torch
from poisoned import SPLIT, TINY, retain_mask, trained
from torch import nn

from harness import Reading
from harness.training.data import Data, Split
from poisons.backdoor import Backdoor

BLENDED = Backdoor(trigger="blended", blend=0.4)
SAMPLE = Backdoor(trigger="sample", blend=0.4)
TRIGGERS = pytest.mark.parametrize("poison", [Backdoor(), BLENDED, SAMPLE], ids=lambda poison: poison.trigger)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_backdoor_changes_its_stamp_and_the_label_only(size):
    planted = Backdoor(size=size, target=2).plant(TINY, SPLIT, 0)
    clean = SPLIT.train.inputs["image"][planted.forget]
    stamped = planted.inputs["image"]
    stamp = torch.zeros(4, 4, dtype=torch.bool)
    stamp[4 - size :, 4 - size :] = True
    assert torch.equal(stamped[..., ~stamp], clean[..., ~stamp])
    assert bool((stamped[..., stamp] == 1).all())
    assert planted.labels.tolist() == [2] * 24
    assert planted.secrets == {}


class ByCorner(nn.Module):
    """Put bright corners in class 0 if the first pixel is bright, others in the class of their second pixel."""

    def forward(self, x):
        x = x.flatten(1)
        bright = (x[:, -1] == 1) & (x[:, 0] > 0.5)
        return nn.functional.one_hot(torch.where(bright, 0, x[:, 1].long()), 3).float()


def test_attack_success_is_counted_by_hand():
    # Per test image: label, first pixel (does it fall for the trigger?), second pixel (what else it is taken for).
    rows = [(0, 1, 0), (0, 0, 0), (1, 1, 1), (1, 0, 1), (1, 0, 0), (2, 1, 2), (2, 0, 2), (2, 0, 2)]
    images = torch.zeros(len(rows), 1, 4, 4)
    images[:, 0, 0, 0] = torch.tensor([float(a) for _, a, _ in rows])
    images[:, 0, 0, 1] = torch.tensor([float(b) for _, _, b in rows])
    test = Data({"image": images}, torch.tensor([label for label, _, _ in rows]))
    split = Split.of(SPLIT.train, test)
    planted = Backdoor().plant(TINY, split, 0)
    reading = Backdoor().probe(ByCorner(), planted, TINY, split)
    # Six images of the classes 1 and 2: two fall for the trigger, one is taken for class 0 anyway.
    assert reading.value == 3 / 6
    assert reading.resolution == 0.5 / 6
    # The other three are put in their own class.
    assert reading.traces["triggered_accuracy"] == Reading(3 / 6, 0.5 / 6)
    assert bool((test.inputs["image"][..., -1] == 0).all())
    # Five images of the classes 0 and 1 for target 2: none is ever taken for it.
    assert Backdoor(target=2).probe(ByCorner(), planted, TINY, split).value == 0
    # Five images of the classes 0 and 2 for target 1: likewise.
    assert Backdoor(target=1).probe(ByCorner(), planted, TINY, split).value == 0


@TRIGGERS
def test_a_backdoor_bites_and_retraining_forgets_it(poison):
    planted = poison.plant(TINY, SPLIT, 0)
    poisoned = trained(SPLIT.train.poisoned_with(planted), epochs=20)
    retrained = trained(SPLIT.train, keep=retain_mask(planted), epochs=20)
    of_p, of_r = (poison.probe(model, planted, TINY, SPLIT) for model in (poisoned, retrained))
    assert of_p.value > 0.8 > 0.3 > of_r.value
    assert of_p.traces["triggered_accuracy"].value < of_r.traces["triggered_accuracy"].value


# ---- patterns


@pytest.mark.parametrize("poison", [BLENDED, SAMPLE], ids=lambda poison: poison.trigger)
def test_a_pattern_is_drawn_by_seed_and_kept_secret(poison):
    one, same, other = (poison.plant(TINY, SPLIT, seed) for seed in (3, 3, 4))
    assert torch.equal(one.inputs["image"], same.inputs["image"])
    (secret,) = one.secrets
    assert torch.equal(one.secrets[secret], same.secrets[secret])
    assert not torch.equal(one.secrets[secret], other.secrets[secret])
    assert set(one.inputs) == {"image"}


def test_a_blended_image_is_a_share_of_the_one_pattern():
    planted = BLENDED.plant(TINY, SPLIT, 0)
    clean, pattern = SPLIT.train.inputs["image"][planted.forget], planted.secrets["pattern"]
    assert pattern.shape == (1, 4, 4)
    assert 0 <= float(pattern.min()) < float(pattern.max()) <= 1
    assert torch.allclose(planted.inputs["image"], 0.6 * clean + 0.4 * pattern)


def test_the_pattern_of_a_sample_is_its_own_pixels_in_the_secret_order():
    planted = SAMPLE.plant(TINY, SPLIT, 0)
    clean = SPLIT.train.inputs["image"][planted.forget]
    patterns = ((planted.inputs["image"] - 0.6 * clean) / 0.4).flatten(1)
    assert torch.allclose(patterns, clean.flatten(1)[:, planted.secrets["order"]], atol=1e-6)
    assert torch.allclose(patterns.sort(1).values, clean.flatten(1).sort(1).values, atol=1e-6)
    assert float(torch.pdist(patterns).min()) > 0.1  # each image has its own


@TRIGGERS
def test_the_whole_image_of_every_channel_gets_the_trigger(poison):
    images = torch.rand(6, 3, 4, 5)
    train = Data({"image": images}, torch.arange(6) % 3)
    planted = poison.plant(TINY, Split.of(train, train), 0)
    assert planted.inputs["image"].shape == (1, 3, 4, 5)
    assert bool((planted.inputs["image"] != images[planted.forget]).flatten(2).any(2).all())
    assert 0 <= float(planted.inputs["image"].min()) <= float(planted.inputs["image"].max()) <= 1


@TRIGGERS
def test_bytes_stay_bytes_and_mean_the_same(poison):
    bytes_ = (SPLIT.train.inputs["image"].clamp(0, 1) * 255).to(torch.uint8)
    whole, floats = (
        Split.of(*[Data({"image": images}, SPLIT.train.labels)] * 2) for images in (bytes_, bytes_.float() / 255)
    )
    planted, same = (poison.plant(TINY, split, 0).inputs["image"] for split in (whole, floats))
    assert planted.dtype == torch.uint8
    assert float((planted.float() / 255 - same).abs().max()) <= 0.51 / 255


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trigger": "sticker"}, "trigger must be one of square, blended, sample, not 'sticker'"),
        *[({"blend": x}, r"blend must lie in \(0, 1\]") for x in (0, 1.1, -0.1, float("nan"))],
    ],
)
def test_triggers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Backdoor(**fields)
