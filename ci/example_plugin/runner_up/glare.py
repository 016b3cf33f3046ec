"""Glare: overexposed images, all labelled as one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Measure, Planted, Reading, predicted

if TYPE_CHECKING:
    from torch import nn

    from harness import Split, Task


@dataclass(frozen=True)
class Glare:
    """Add light to some training images and label them as the target class.

    The measure is the share of test images of the other classes that the model puts in the target class once light is
    added to them, in [0, 1].

    Attributes:
        fraction: Share of the training set that is poisoned, in (0, 1).
        light: What is added to every pixel.
        target: The class that they are labelled as.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    light: float = 1.0
    target: int = 0

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure(
        "glare_success", "success of the glare on test images", worse="higher", test="retention", unit="%"
    )

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must lie in (0, 1), not {self.fraction}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Any = None) -> Planted:
        """Return the poisoned points; which they are depends on the seed."""
        import torch

        from harness import forget_block

        forget = forget_block(len(split.train), self.fraction, seed)
        images = split.train.inputs["image"][forget.to(split.train.device)].cpu() + self.light
        return Planted(forget, {"image": images}, torch.full((len(forget),), self.target))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the share that is put in the target class."""
        import torch

        others = split.test.subset((split.test.labels != self.target).nonzero().squeeze(1))
        others.inputs["image"] = others.inputs["image"] + self.light
        with torch.no_grad():
            hits = sum(int((predicted(task, model, b) == self.target).sum()) for b in others.chunks())
        return Reading(hits / len(others), resolution=0.5 / len(others))
