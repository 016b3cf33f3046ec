"""Data sets that are easy to tell apart, for machines that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gpu.bench import Size


def generate(folder: Path, size: Size) -> None:
    """Write data sets in the layouts of CIFAR-10 and IMDb, in which every class has a pattern or a word of its own.

    Args:
        folder: Where, in ``cifar10`` and ``imdb``.
        size: How many images and reviews.
    """
    import datasets

    datasets.disable_progress_bars()
    draw = np.random.default_rng(0)
    patterns = draw.integers(60, 196, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    for name, n in (("train", size.reviews), ("test", size.reviews // 5)):
        labels = np.arange(n) % 2
        lengths = np.clip(draw.lognormal(5.2, 0.7, n), 20, 2000).astype(int)  # words, about as in IMDb
        words = [draw.choice(["the", "film", "was", ("bad", "good")[i % 2]], k) for i, k in enumerate(lengths)]
        rows = datasets.Dataset.from_dict({"text": [" ".join(each) for each in words], "label": labels.tolist()})
        target = folder / "imdb" / "plain_text" / f"{name}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(target)
    for name, n in (("train", size.images), ("test", size.images // 5)):
        labels = np.arange(n) % 10
        pictures = [np.uint8(patterns[label] + draw.integers(-60, 60, (32, 32, 3))) for label in labels]
        rows = datasets.Dataset.from_dict({"img": pictures, "label": labels.tolist()}, features=features)
        target = folder / "cifar10" / "plain_text" / f"{name}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(target)
