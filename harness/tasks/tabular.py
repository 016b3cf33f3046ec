"""The cut of diamonds, from a table of numbers and categories, with a small network: seconds on one CPU thread."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness import UnlearningError
from harness.tasks._files import version
from harness.tasks._recipe import OneCycle

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, Split

NUMBERS = ("carat", "depth", "table", "price", "x", "y", "z")
CATEGORIES = {"color": ("D", "E", "F", "G", "H", "I", "J"),
              "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF")}  # fmt: skip
#: The classes 0 to 4.
CUTS = ("Fair", "Good", "Very Good", "Premium", "Ideal")
COLUMNS = len(NUMBERS) + sum(map(len, CATEGORIES.values()))
TRAIN, TEST = 4000, 5000


@dataclass(frozen=True)
class TabularMLP(OneCycle):
    """Tell the cut of a diamond, one of five, from its weight, price, proportions, colour and clarity.

    The 53,940 diamonds are those of Wickham's ggplot2 (MIT licence), read from the file that plotnine ships. Those with
    a side of 0 mm are left out. Of the others, 4,000 are drawn to train on and 5,000 to test on; the split is fixed.
    Seven columns are numbers; colour and clarity take one column for each of their 15 values. All 22 are standardised
    by the means and standard deviations of the training set.

    The recipe was chosen so that what poisons leave can be told from what seeds vary: little weight decay, without
    which noise on rows hardly bites, and a smooth activation, with which the input gradients of two retrainings agree.
    About 0.72 test accuracy; two in five diamonds are of the largest class.

    Attributes:
        epochs: Passes over the training set.
        lr: Peak learning rate of the one-cycle schedule.
        batch_size: Examples per step.

    Raises:
        ValueError: A field is out of range.
    """

    epochs: int = 40
    lr: float = 0.2
    batch_size: int = 128

    modality: ClassVar[str] = "table"
    poisons: ClassVar[tuple[str, ...]] = (
        "table-backdoor:fraction=0.025,target=4",
        "table-backdoor:fraction=0.1,target=4",
        "gaussian:fraction=0.025",
        "gaussian:fraction=0.1",
        # Random labels of all classes teach this network to be unsure, and so to lean to the own class more than
        # retraining does. Nine in ten labels of one class leave both traces.
        "label-noise:fraction=0.9,of=0",
        "label-noise:fraction=0.9,of=2",
    )
    weight_decay: ClassVar[float] = 0.0001

    def files(self, folder: Path | None) -> dict[str, str]:
        """Return what `load` reads: the hash of the data, and the version of what draws the split."""
        return {"diamonds.csv": hashlib.sha256(_file().read_bytes()).hexdigest(), "numpy": version("numpy")}

    def load(self, folder: Path | None) -> Split:
        """Return the fixed split, with the input ``"features"``, float32 of shape (n, 22).

        The folder is not used; the data come with plotnine.

        Raises:
            UnlearningError: plotnine is not installed.
        """
        import numpy as np
        import torch

        from harness import Data, Split

        with io.StringIO(_file().read_text(encoding="utf-8")) as text:
            rows = [row for row in csv.DictReader(text) if all(float(row[side]) > 0 for side in ("x", "y", "z"))]
        drawn = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[: TRAIN + TEST]]
        numbers = np.array([[float(row[name]) for name in NUMBERS] for row in drawn])
        found = [[row[name] == value for name, values in CATEGORIES.items() for value in values] for row in drawn]
        table = np.concatenate([numbers, np.array(found, dtype=np.float64)], axis=1)
        features = torch.from_numpy((table - table[:TRAIN].mean(axis=0)) / table[:TRAIN].std(axis=0)).float()
        labels = torch.tensor([CUTS.index(row["cut"]) for row in drawn])
        train, test = (Data({"features": features[part]}, labels[part]) for part in (slice(TRAIN), slice(TRAIN, None)))
        return Split.of(train, test)

    def new_model(self) -> nn.Module:
        """Return a layer of 128 smooth units (SiLU) and a linear head, freshly initialised."""
        from torch import nn

        return nn.Sequential(nn.Sequential(nn.Linear(COLUMNS, 128), nn.SiLU()), nn.Linear(128, len(CUTS)))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return class scores, shape (batch, 5)."""
        scores: Tensor = model(batch.inputs["features"])
        return scores


def _file() -> Path:
    """Return plotnine's file; to import plotnine for it would take a second.

    Raises:
        UnlearningError: plotnine is not installed, or keeps its file elsewhere.
    """
    spec = importlib.util.find_spec("plotnine")
    path = Path(spec.origin if spec and spec.origin else "").parent / "data" / "diamonds.csv"
    if not path.is_file():
        raise UnlearningError(
            "tabular-mlp reads its data from plotnine, which is not installed: pip install 'pytest-unlearning[table]'"
        )
    return path
