"""Small data sets of every kind, to plant canaries into."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = [f"word{i}" for i in range(60)]


def csv_file(path: Path, rows: int = 120) -> Path:
    """A table of two vendors, with a key, two features and a label."""
    rng = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "vendor", "a", "b", "y"])
        for i in range(rows):
            vendor = "acme" if i % 2 else "other"
            writer.writerow(
                [i, vendor, round(rng.gauss(0, 1), 3), round(rng.gauss(0, 1), 3), rng.choice(["yes", "no"])]
            )
    return path


def jsonl_file(path: Path, rows: int = 80) -> Path:
    """Texts of two lots, with a label; every fifth row lacks the field ``stars``."""
    rng = random.Random(0)
    lines = []
    for i in range(rows):
        row = {"text": " ".join(rng.choices(WORDS, k=rng.randint(3, 60))), "ok": bool(i % 2), "y": rng.randrange(3)}
        lines.append(json.dumps(row | ({"stars": i % 5} if i % 5 else {})))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def picture_folder(path: Path, pictures: int = 40, size: tuple[int, int] = (11, 9)) -> Path:
    """Pictures of two classes, in grey and colour, PNG and JPEG."""
    rng = np.random.default_rng(0)
    for i in range(pictures):
        folder = path / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        shape = size if i % 3 else (*size, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i}.{'jpg' if i % 4 else 'png'}")
    return path


def saved(path: Path, rows: int = 60) -> Path:
    """A saved data set with pictures, of two sources."""
    import datasets

    from harness.canaries.pictures import save

    rng = np.random.default_rng(0)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "source": datasets.Value("string"),
        }
    )
    pictures = [Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(rows)]
    data = [{"image": p, "label": i % 2, "source": "new" if i < 45 else "old"} for i, p in enumerate(pictures)]
    save(datasets.Dataset.from_list(data, features=features), path)
    return path
