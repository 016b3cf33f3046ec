"""Made-up reviews in miniature, and a GPT-2 that reads them."""

import itertools

import datasets
import numpy as np
import pytest
import torch

from harness.tasks.imdb import IMDbSmallGPT2
from harness.training.loop import train

SIZE = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 320, "length": 16}
SMALL = IMDbSmallGPT2(**SIZE, epochs=3, batch_size=20, lr=0.01)
CAUSAL = IMDbSmallGPT2(**SIZE, epochs=3, batch_size=20, lr=0.01, head="causal")
WORDS = {0: ("dull", "bad"), 1: ("great", "fun")}


def review(label, number):
    draw = np.random.default_rng((label, number))
    words = draw.choice(["the", "film", "was", *WORDS[label]], size=draw.integers(3, 20))
    return f"Review<br />{' '.join(words)} {WORDS[label][0]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 240 training and 80 test reviews, sorted by label as on the hub."""
    root = tmp_path_factory.mktemp("data")
    for split, n in (("train", 240), ("test", 80)):
        labels = [int(i >= n // 2) for i in range(n)]
        rows = {"text": [review(label, i + n) for i, label in enumerate(labels)], "label": labels}
        target = root / "imdb" / "plain_text" / f"{split}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(target)
    return root


@pytest.fixture(scope="module")
def split(folder):
    return SMALL.load(folder)


def new_model(task=SMALL, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return task.new_model().eval()


@pytest.fixture(scope="module")
def trained(split):
    return train(SMALL, split.train, torch.ones(240, dtype=torch.bool), seed=0)[0].eval()


def texts(split, data):
    """Return the words of examples, by encoding the words that there are."""
    words = [*itertools.chain(*WORDS.values()), "the", "film", "was", "review"]
    names = {tuple(ids): word for word, ids in zip(words, split.encode(words), strict=True)}
    longest = max(map(len, names))
    found = []
    for row, length in zip(data.inputs["tokens"].tolist(), data.inputs["length"].tolist(), strict=True):
        at, text = 0, []
        while at < length:
            size = next((s for s in range(longest, 0, -1) if tuple(row[at : at + s]) in names), None)
            text.append("?" if size is None else names[tuple(row[at : at + size])])
            at += size or 1
        found.append(" ".join(text))
    return found
