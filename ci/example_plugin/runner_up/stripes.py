"""Stripes: made-up images of three kinds; a training takes a tenth of a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Batch, Split


@dataclass(frozen=True)
class Stripes:
    """Tell horizontal, vertical and diagonal stripes on 6 x 6 pixels: 240 images to train on and 180 to test on.

    Attributes:
        epochs: Passes over the training set.
        lr: Learning rate.
        batch_size: Examples per step.
    """

    epochs: int = 40
    lr: float = 0.05
    batch_size: int = 24

    modality: ClassVar[str] = "image"
    poisons: ClassVar[tuple[str, ...]] = ("glare",)
    utility_margin: ClassVar[float] = 0.02
    threads: ClassVar[int] = 1

    def load(self, folder: Path | None) -> Split:
        """Return the fixed split; the folder is not used, the images are drawn."""
        import torch

        from harness import Data, Split

        generator = torch.Generator().manual_seed(0)
        rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
        kinds = torch.stack([rows, columns, rows + columns]) % 2
        labels = torch.arange(420) % 3
        images = kinds[labels][:, None] + 0.3 * torch.randn(420, 1, 6, 6, generator=generator)
        data = Data({"image": images}, labels)
        return Split.of(data.subset(torch.arange(240)), data.subset(torch.arange(240, 420)))

    def new_model(self) -> nn.Module:
        """Return a network of one hidden layer, freshly initialised."""
        from torch import nn

        return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU()), nn.Linear(32, 3))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return class scores, shape (batch, 3)."""
        return model(batch.inputs["image"])

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, batch.labels)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return SGD with momentum .9."""
        from torch.optim import SGD

        return SGD(model.parameters(), self.lr if lr is None else lr, momentum=0.9)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a constant rate."""
        from torch.optim.lr_scheduler import ConstantLR

        return ConstantLR(optimizer, factor=1.0)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the hidden layer and the head."""
        return list(model.children())
