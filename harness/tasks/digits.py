"""Handwritten digits with a small convolutional network: embedded data, seconds on one CPU thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.data import Split


@dataclass(frozen=True)
class DigitsCNN:
    """Classify scikit-learn's 1,797 digits (8 x 8 pixels in [0, 1]), 1,400 to train on and 397 to test on.

    The split is fixed. The network has batch normalisation, without which Gaussian poison hardly bites.

    Attributes:
        epochs: Passes over the training set.
        lr: Peak learning rate of the one-cycle schedule.
        batch_size: Examples per step.

    Raises:
        ValueError: A field is out of range.
    """

    epochs: int = 20
    lr: float = 0.1
    batch_size: int = 64

    modality: ClassVar[str] = "image"
    poisons: ClassVar[tuple[str, ...]] = ("backdoor", "gaussian")
    utility_margin: ClassVar[float] = 0.01
    threads: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not self.lr > 0:
            raise ValueError("epochs must be at least 1, batch_size at least 2, lr positive")

    def load(self, folder: Path | None) -> Split:
        """Return the fixed split; the folder is not used, the data come with scikit-learn."""
        import torch
        from sklearn.datasets import load_digits

        from harness.data import Data, Split

        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        data = Data(
            {"image": torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16},
            torch.tensor(labels, dtype=torch.int64),
        )
        return Split.of(data.subset(order[:1400]), data.subset(order[1400:]))

    def new_model(self) -> nn.Module:
        """Return three 3 x 3 convolutions with batch normalisation and a dense head, freshly initialised."""
        from torch import nn

        def convolution(before: int, after: int) -> list[nn.Module]:
            return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

        return nn.Sequential(
            nn.Sequential(*convolution(1, 16), nn.MaxPool2d(2)),
            nn.Sequential(*convolution(16, 32)),
            nn.Sequential(*convolution(32, 32)),
            nn.Sequential(nn.Flatten(), nn.Linear(32 * 4 * 4, 10)),
        )

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return class scores, shape (batch, 10)."""
        scores: Tensor = model(batch.inputs["image"])
        return scores

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(self.logits(model, batch), batch.labels)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return SGD with Nesterov momentum .9 and weight decay 5e-4."""
        from torch.optim import SGD

        return SGD(model.parameters(), lr or self.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return one cycle: up to the optimiser's rate over 30 % of the steps, then down to zero on a cosine."""
        from torch.optim.lr_scheduler import OneCycleLR

        peak = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peak, total_steps=steps + 1, cycle_momentum=False)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the three convolutional blocks and the head, from input to output."""
        return list(model.children())
