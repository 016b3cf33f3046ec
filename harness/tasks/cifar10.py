"""CIFAR-10 with a ResNet-18: minutes on a GPU at full scale; fields shrink it to what a CPU can do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness import UnlearningError
from harness.tasks._files import files_below
from harness.tasks._tables import first_rows, labels_of, rows_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Batch, Data, Split

HUB = "uoft-cs/cifar10"
CLASSES, SIDE = 10, 32


@dataclass(frozen=True)
class CIFAR10ResNet18:
    """Classify CIFAR-10 (Krizhevsky 2009: 32 x 32 colour images in ten classes) with a ResNet-18.

    The network is that of He et al. (arXiv 1512.03385) with the stem for small images: a 3 x 3 convolution of stride 1
    in place of the 7 x 7 one of stride 2, and no pooling after it. Images are kept as pixels in [0, 1], in which
    poisons speak; normalisation is the model's first layer. Whole data set on the device; crops after padding by
    four pixels and flips are drawn there, one draw for every image of a batch that is trained on, the same for all
    models that see the batch. On a GPU: bf16 and channels last.

    Pawelczyk et al. (arXiv 2406.17216) train for 100 epochs by SGD and say no more; the rest is common practice.

    Attributes:
        epochs: Passes over the training set.
        lr: Peak learning rate, falling on a cosine.
        batch_size: Examples per step.
        train_size: Training images, the first of the data set's order, up to 50,000. Where that order is by class, as
            in a folder of classes, they are taken evenly from all of it.
        test_size: Test images, likewise, up to 10,000.
        width: Channels of the first stage, 64 in a ResNet-18.
        augment_images: Whether to crop and flip.
        compiled: Whether to train through `torch.compile` (`docs/gpu.md`).

    Raises:
        ValueError: A field is out of range.
    """

    epochs: int = 100
    lr: float = 0.1
    batch_size: int = 128
    train_size: int = 50_000
    test_size: int = 10_000
    width: int = 64
    augment_images: bool = True
    compiled: bool = False

    modality: ClassVar[str] = "image"
    # The paper's size and a large one. Its noise has variance 0.32: in pixels it would drown the images, so we take it
    # that they are normalised. In pixels it is then 0.57 of their standard deviation, 0.25.
    poisons: ClassVar[tuple[str, ...]] = (
        "backdoor:fraction=0.015",
        "backdoor:fraction=0.1",
        "gaussian:fraction=0.015,sd=0.14",
        "gaussian:fraction=0.1,sd=0.14",
    )
    utility_margin: ClassVar[float] = 0.01
    threads: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.width < 1 or not self.lr > 0:
            raise ValueError("epochs and width must be at least 1, batch_size at least 2, lr positive")
        if not (10 <= self.train_size <= 50_000 and 10 <= self.test_size <= 10_000):
            raise ValueError("train_size must lie between 10 and 50000, test_size between 10 and 10000")

    def files(self, folder: Path | None) -> dict[str, str] | None:
        """Return what `load` reads; None for the hub, where the data may change."""
        return None if folder is None else files_below(folder / "cifar10", "datasets", "pillow")

    def load(self, folder: Path | None) -> Split:
        """Return the first images of both splits.

        Args:
            folder: A directory with the data set in ``cifar10``, in the hub's layout; None for the hub itself.

        Raises:
            UnlearningError: The data cannot be had, or they are no images of 32 x 32 in ten classes.
        """
        from harness import Split

        try:
            import datasets
        except ImportError:
            raise UnlearningError(
                "cifar10-resnet18 reads its data with a library that is not installed: "
                "pip install 'pytest-unlearning[vision]'"
            ) from None
        source = HUB if folder is None else str(folder / "cifar10")
        datasets.disable_progress_bars()  # they would break what the terminal shows of the run
        try:
            found = datasets.load_dataset(source)
        except Exception as error:  # no network, no folder, no parquet: each raises something of its own
            where = "--audit-data DIR with the data set in DIR/cifar10"
            raise UnlearningError(
                f"CIFAR-10 cannot be read from {source} ({type(error).__name__}); give {where}, or a network to the hub"
            ) from error

        def part(name: str, size: int) -> Data:
            rows = rows_of(found, name, (("img", "image"), ("label",)), source)
            return _decode(first_rows(rows, size, name, f"{name}_size", source), f"the split {name!r} of {source}")

        return Split.of(part("train", self.train_size), part("test", self.test_size))

    def new_model(self) -> nn.Module:
        """Return a freshly initialised network: stem, eight residual blocks, head."""
        from torch import nn
        from torchvision.models.resnet import BasicBlock

        from harness.tasks._normalise import Normalise

        def block(channels: int, out: int, stride: int) -> nn.Module:
            shortcut = None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            built: nn.Module = BasicBlock(channels, out, stride, shortcut)
            return built

        w = self.width
        stem = nn.Sequential(
            Normalise(self._memory_format),
            nn.Conv2d(3, w, 3, padding=1, bias=False),
            nn.BatchNorm2d(w),
            nn.ReLU(inplace=True),
        )
        stages = [(w, w, 1), (w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 8 * w, 2)]
        blocks = [b for i, o, stride in stages for b in (block(i, o, stride), block(o, o, 1))]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * w, CLASSES))
        model = nn.Sequential(stem, *blocks, head)
        for module in model.modules():  # as torchvision initialises its own
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return model.to(memory_format=self._memory_format)

    @property
    def _memory_format(self) -> torch.memory_format:
        """Channels last, the faster order; below 8 channels torch 2.14.1 crashes with it on CPUs with AVX2."""
        import torch

        return torch.channels_last if self.width >= 8 else torch.contiguous_format

    def augment(self, batch: Batch) -> Batch:
        """Return the batch with every image flipped at random and cropped after padding by four pixels."""
        import torch

        if not self.augment_images:
            return batch
        images = batch.inputs["image"]
        n, _, height, width = images.shape
        padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
        draw = torch.rand(3, n, device=images.device)
        rows = (draw[0] * 9).long()[:, None] + torch.arange(height, device=images.device)
        columns = (draw[1] * 9).long()[:, None] + torch.arange(width, device=images.device)
        columns = torch.where(draw[2, :, None] < 0.5, columns, columns.flip(1))
        which = torch.arange(n, device=images.device)[:, None, None]
        cropped = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return replace(batch, inputs={**batch.inputs, "image": cropped})

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return class scores, shape (batch, 10), in float32."""
        import torch

        images = batch.inputs["image"].contiguous(memory_format=self._memory_format)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=images.is_cuda):
            scores: Tensor = model(images)
        return scores.float()

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, batch.labels)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return SGD with Nesterov momentum .9 and weight decay 5e-4."""
        from torch.optim import SGD

        return SGD(model.parameters(), self.lr if lr is None else lr, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a cosine from the optimiser's rate down to zero."""
        from torch.optim.lr_scheduler import CosineAnnealingLR

        return CosineAnnealingLR(optimizer, T_max=steps)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the stem, the eight residual blocks and the head."""
        return list(model.children())


def _decode(rows: Any, source: str) -> Data:
    """Return the images, as pixels in [0, 1] of shape (n, 3, 32, 32), and their labels.

    Raises:
        UnlearningError: An image cannot be read or has another size, or a label is none of ten classes.
    """
    import numpy as np
    import torch

    from harness import Data

    labels = labels_of(rows, CLASSES, source)
    column = "img" if "img" in rows.column_names else "image"
    try:
        pictures = [np.asarray(picture.convert("RGB")) for picture in rows[column]]
    except Exception as error:  # a damaged file, a column of something else
        raise UnlearningError(
            f"{source} has an image that cannot be read ({type(error).__name__}: {error}); replace or remove it"
        ) from error
    sizes = sorted({picture.shape[:2] for picture in pictures})
    if sizes != [(SIDE, SIDE)]:
        found = " and ".join(f"{width} x {height}" for height, width in sizes[:3])
        raise UnlearningError(f"{source} has images of {found} pixels; all must be {SIDE} x {SIDE}")
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255).contiguous()
    return Data({"image": images}, torch.tensor(labels, dtype=torch.int64))
