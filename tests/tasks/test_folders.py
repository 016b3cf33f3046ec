"""Data folders in forms that people have: what is wrong with one is said in a sentence."""

import csv

import datasets
import numpy as np
import pytest
from PIL import Image

from harness.api import UnlearningError
from harness.tasks.cifar10 import CIFAR10ResNet18
from harness.tasks.imdb import IMDbSmallGPT2

IMAGES = CIFAR10ResNet18(train_size=15, test_size=10, width=2)
REVIEWS = IMDbSmallGPT2(vocabulary=400, length=16)


def picture(side=32):
    return Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8))


def table(n, label="label", words=False, kinds=10, sides=(32,)):
    named = datasets.Value("string") if words else datasets.Value("int64")
    rows = {
        "img": [picture(sides[i % len(sides)]) for i in range(n)],
        label: [f"kind {i % kinds}" if words else i % kinds for i in range(n)],
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features({"img": datasets.Image(), label: named}))


def written(root, **splits):
    folder = root / "cifar10"
    folder.mkdir()
    for split, rows in splits.items():
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": {"n": 20}}, "has no split 'test', only 'train'"),
        ({"train": {"n": 20, "label": "fine"}, "test": {"n": 20}}, "'train' of .* has no column 'label', only"),
        ({"train": {"n": 20, "words": True}, "test": {"n": 20}}, "the column 'label' of .* holds 'kind 0'"),
        ({"train": {"n": 12}, "test": {"n": 20}}, "'train' of .* has 12 rows, but train_size=15 .*; lower train_size"),
        ({"train": {"n": 20, "sides": (32, 28)}, "test": {"n": 20}}, "images of 28 x 28 and 32 x 32 pixels; all must"),
        ({"train": {"n": 20, "kinds": 12}, "test": {"n": 20}}, "go from 0 to 11; this task has 10 classes, 0 to 9"),
        ({"train": {"n": 20}, "test": {"n": 20, "sides": (64,)}}, "'test' of .* has images of 64 x 64 pixels"),
    ],
    ids=["no test split", "another column", "words", "few", "two sizes", "twelve kinds", "large test images"],
)
def test_a_folder_that_does_not_fit_is_said_to(tmp_path, splits, message):
    # Splits of one data set have the same columns, or the library that reads them raises.
    if "test" in splits:
        splits["test"] = {**{k: v for k, v in splits["train"].items() if k in ("label", "words")}, **splits["test"]}
    folder = written(tmp_path, **{name: table(**fields) for name, fields in splits.items()})
    with pytest.raises(UnlearningError, match=message):
        IMAGES.load(folder)


def folder_of_classes(root, per_class):
    for split, n in (("train", per_class), ("test", 2)):
        for kind in range(10):
            folder = root / "cifar10" / split / f"kind{kind}"
            folder.mkdir(parents=True)
            for i in range(n):
                picture().save(folder / f"{i}.png")
    return root


def test_of_a_folder_of_classes_every_class_is_read(tmp_path):
    split = IMAGES.load(folder_of_classes(tmp_path, 3))
    assert split.train.labels.bincount(minlength=10).tolist() == [2, 1] * 5
    assert split.test.labels.bincount(minlength=10).tolist() == [1] * 10


def test_a_damaged_picture_is_named(tmp_path):
    folder = folder_of_classes(tmp_path, 2)
    (folder / "cifar10" / "train" / "kind0" / "0.png").write_bytes(b"no picture at all")
    with pytest.raises(UnlearningError, match=r"an image that cannot be read .*0\.png"):
        IMAGES.load(folder)


def reviews(root, columns, rows):
    (root / "imdb").mkdir()
    for split in ("train", "test"):
        with (root / "imdb" / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
    return root


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (("review", "sentiment"), ("warm", "positive"), "has no column 'text', only 'review', 'sentiment'"),
        (("text", "label"), ("warm", "positive"), "the column 'label' of IMDb's split 'train' holds 'positive'"),
        (("text", "label"), ("warm", 5), "go from 5 to 5; this task has 2 classes"),
        (("text", "label"), (7, 1), "the column 'text' of IMDb's split 'train' holds 7"),
    ],
    ids=["other columns", "words", "five stars", "numbers"],
)
def test_reviews_that_do_not_fit_are_said_to(tmp_path, columns, row, message):
    with pytest.raises(UnlearningError, match=message):
        REVIEWS.load(reviews(tmp_path, columns, [row] * 20))
