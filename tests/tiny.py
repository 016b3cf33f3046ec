"""A task that trains in milliseconds, for tests of the machinery: three well separated kinds of 4 x 4 images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Tiny:
    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 32

    modality: ClassVar[str] = "image"
    poisons: ClassVar[tuple[str, ...]] = ("backdoor",)
    utility_margin: ClassVar[float] = 0.02
    threads: ClassVar[int] = 1

    def files(self, folder):
        return {}

    def load(self, folder):
        import torch

        from harness.training.data import Data, Split

        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(420) % 3
        centres = torch.rand(3, 1, 4, 4, generator=generator)
        centres[..., -1, -1] = 0  # where the backdoor is stamped
        images = centres[labels] + 0.1 * torch.randn(420, 1, 4, 4, generator=generator)
        data = Data({"image": images}, labels)
        return Split.of(data.subset(torch.arange(240)), data.subset(torch.arange(240, 420)))

    def new_model(self):
        from torch import nn

        return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 3))

    def logits(self, model, batch):
        return model(batch.inputs["image"])

    def criterion(self, logits, batch):
        from torch import nn

        return nn.functional.cross_entropy(logits, batch.labels)

    def optimizer(self, model, lr=None):
        import torch

        return torch.optim.SGD(model.parameters(), self.lr if lr is None else lr, momentum=0.9)

    def schedule(self, optimizer, steps):
        import torch

        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def blocks(self, model):
        return list(model.children())
