"""Backdoor: a patch in the corner of some training images, all labelled as one class.

Source: Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain"
(arXiv 1708.06733), the all-to-one attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, predicted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class Backdoor:
    """Stamp a bright square on random training images and label them as the target class.

    The measure is the attack success rate. The test images of all other classes are stamped; the rate is the share of
    them that the model puts in the target class, in [0, 1].

    Deviation from BadNets: stamped images replace the originals, so the poisoned set has the size of the clean one.
    BadNets adds stamped copies.

    Attributes:
        fraction: Share of the training set that is stamped and relabelled, in (0, 1).
        size: Side of the square in pixels, in the bottom right corner.
        target: Class that stamped images are labelled as.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    size: int = 2
    target: int = 0

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure(
        "attack_success", "success of the backdoor on triggered test images", worse="higher", test="retention", unit="%"
    )

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must lie in (0, 1), not {self.fraction}")
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        if self.target < 0:
            raise ValueError(f"target must be a class, not {self.target}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the stamped points with the target label. An unlearner is not given the trigger."""
        import torch

        from harness import forget_block

        forget = forget_block(len(split.train), self.fraction, seed)
        images = self._stamp(split.train.inputs["image"][forget.to(split.train.device)].cpu())
        return Planted(forget, {"image": images}, torch.full((len(forget),), self.target, dtype=torch.int64))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the attack success rate on stamped test images of the other classes."""
        import torch

        others = split.test.subset((split.test.labels != self.target).nonzero().squeeze(1))
        others.inputs["image"] = self._stamp(others.inputs["image"])
        with torch.no_grad():
            hits = sum(int((predicted(task, model, b) == self.target).sum()) for b in others.chunks())
        return Reading(hits / len(others), resolution=0.5 / len(others))

    def _stamp(self, images: Tensor) -> Tensor:
        images = images.clone()
        images[..., -self.size :, -self.size :] = 1.0
        return images
