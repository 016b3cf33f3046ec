"""CIFAR-10 with a ResNet-18, on a data set in miniature that is made here in the hub's layout."""

import datasets
import numpy as np
import pytest
import torch
import torchvision

from harness import registry
from harness.api import UnlearningError
from harness.tasks.cifar10 import CIFAR10ResNet18
from harness.training.loop import train
from harness.trials.accuracy import accuracy

SMALL = CIFAR10ResNet18(epochs=2, train_size=60, test_size=20, width=2, batch_size=20, lr=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 60 training and 20 test images; the label can be read off the brightness."""
    root = tmp_path_factory.mktemp("data")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    for split, n in (("train", 60), ("test", 20)):
        labels = [i % 10 for i in range(n)]
        noise = np.random.default_rng(n).integers(0, 20, (n, 32, 32, 3))
        images = [np.uint8(20 * label + each) for label, each in zip(labels, noise, strict=True)]
        rows = datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)
        target = root / "cifar10" / "plain_text" / f"{split}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(target)
    return root


@pytest.fixture(scope="module")
def split(folder):
    return SMALL.load(folder)


def test_the_data_are_pixels_in_their_order(split):
    assert split.train.inputs["image"].shape == (60, 3, 32, 32)
    assert split.test.inputs["image"].shape == (20, 3, 32, 32)
    assert split.train.labels.tolist() == [i % 10 for i in range(60)]
    brightness = split.train.inputs["image"].mean(dim=(1, 2, 3)) * 255
    assert torch.allclose(brightness, 20.0 * split.train.labels + 9.5, atol=1)
    assert 0 <= float(split.train.inputs["image"].min()) <= float(split.train.inputs["image"].max()) <= 1


def test_it_learns_what_can_be_learnt(split):
    task = CIFAR10ResNet18(
        epochs=15, train_size=60, test_size=20, width=4, batch_size=20, lr=0.05, augment_images=False
    )
    model, examples = train(task, split.train, torch.ones(60, dtype=torch.bool), seed=0)
    assert examples == 15 * 60
    assert accuracy(model.eval(), task, split.train).value > 0.3  # chance is .1


def test_the_network_is_a_resnet_18_with_a_stem_for_small_images():
    ours, theirs = CIFAR10ResNet18().new_model(), torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    shapes = [[tuple(p.shape) for p in model.parameters()] for model in (ours, theirs)]
    assert sorted(shapes[0]) == sorted(shapes[1])
    renamed = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(renamed)
    images = torch.rand(2, 3, 32, 32)
    normalised = ours[0][0](images)
    assert torch.allclose(ours.eval()(images), theirs.eval()(normalised), atol=1e-4)


def test_the_blocks_hold_every_parameter():
    model = SMALL.new_model()
    blocks = SMALL.blocks(model)
    assert len(blocks) == 10
    assert sum(p.numel() for b in blocks for p in b.parameters()) == sum(p.numel() for p in model.parameters())


def test_an_augmented_image_is_a_crop_of_the_padded_one_flipped_or_not(split):
    batch = split.train.batch(torch.arange(40))
    before = batch.inputs["image"].clone()
    torch.manual_seed(0)
    augmented = SMALL.augment(batch).inputs["image"]
    assert torch.equal(batch.inputs["image"], before)
    padded = torch.nn.functional.pad(before, (4, 4, 4, 4))
    found = set()
    for image, wide in zip(augmented, padded, strict=True):
        crops = {
            (row, column, flip): wide[:, row : row + 32, column : column + 32].flip(2 if flip else ())
            for row in range(9) for column in range(9) for flip in (False, True)
        }  # fmt: skip
        matches = [where for where, crop in crops.items() if torch.equal(crop, image)]
        assert len(matches) == 1
        found.add(matches[0])
    assert len({flip for *_, flip in found}) == 2
    assert len(found) > 30


def test_without_augmentation_a_batch_is_as_it_was(split):
    batch = split.train.batch(torch.arange(4))
    assert CIFAR10ResNet18(augment_images=False).augment(batch) is batch


def test_it_is_audited_from_end_to_end(folder, tmp_path):
    from harness import audit

    spec = "cifar10-resnet18:epochs=2,train_size=60,test_size=20,width=2,batch_size=20,lr=0.05"
    verdicts = audit("gd", task=spec, poison="gaussian", seeds=3, budget=0.5, store=tmp_path, data=folder, device="cpu")
    assert [v.measure.name for v in verdicts] == ["gaussian_score", "accuracy", "cost"]
    assert verdicts[-1].outcome == "PASS"


def test_without_data_it_says_what_to_give(tmp_path):
    with pytest.raises(UnlearningError, match="--audit-data DIR with the data set in DIR/cifar10"):
        CIFAR10ResNet18().load(tmp_path)


@pytest.mark.parametrize(
    "fields", ["epochs=0", "batch_size=1", "width=0", "lr=0", "train_size=9", "train_size=50001", "test_size=10001"]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(UnlearningError, match="must"):
        registry.resolve("task", f"cifar10-resnet18:{fields}")


def test_the_network_takes_pixels(split):
    model, batch = SMALL.new_model().eval(), split.train.batch(torch.arange(8))
    assert torch.equal(SMALL.logits(model, batch), model(batch.inputs["image"]))
    first = model[0][0](torch.full((1, 3, 2, 2), 0.5))
    expected = [(0.5 - 0.4914) / 0.247, (0.5 - 0.4822) / 0.2435, (0.5 - 0.4465) / 0.2616]
    assert torch.allclose(first[0, :, 0, 0], torch.tensor(expected))
