"""Backdoor: a patch in the corner of some training images, all labelled as one class.

Source: Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain"
(arXiv 1708.06733), the all-to-one attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, UnlearningError, image_input, predicted
from poisons._images import check_class, planted_at

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class Backdoor:
    """Stamp a bright square on random training images and label them as the target class.

    The measure is the attack success rate. The test images of all other classes are stamped; the rate is the share of
    them that the model puts in the target class, in [0, 1]. A further trace is the share that it puts in their own
    class: a trigger that now leads to a third class is not removed.

    Images are of shape (n, ..., height, width), as floats in [0, 1] or as bytes; the square is white.

    Deviation from BadNets: stamped images replace the originals, so the poisoned set has the size of the clean one.
    BadNets adds stamped copies.

    Attributes:
        fraction: Share of the training set that is stamped and relabelled, in (0, 1).
        size: Side of the square in pixels, in the bottom right corner; smaller than the images.
        target: Class that stamped images are labelled as, one of the task's.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    size: int = 2
    target: int = 0

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure(
        "attack_success", "success of the backdoor on triggered test images", worse="higher", test="retention",
        unit="%", short="success",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (
        Measure(
            "triggered_accuracy", "accuracy on triggered test images", worse="lower", test="retention", unit="%",
            short="own class",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must lie in (0, 1), not {self.fraction}")
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        if self.target < 0:
            raise ValueError(f"target must be a class, not {self.target}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the stamped points with the target label. An unlearner is not given the trigger.

        Raises:
            UnlearningError: The task has no such class, no test points of others, or no images that can be stamped.
        """
        import torch

        from harness import forget_block

        name = self._images(split)
        forget = forget_block(len(split.train), self.fraction, seed)
        images = self._stamp(split.train.inputs[name][forget.to(split.train.device)].cpu())
        return planted_at(split, forget, images, torch.full((len(forget),), self.target, dtype=torch.int64))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the attack success rate on stamped test images of the other classes, and the accuracy on them."""
        import torch

        others = split.test.subset((split.test.labels != self.target).nonzero().squeeze(1))
        name = image_input(others.inputs)
        others.inputs[name] = self._stamp(others.inputs[name])
        hits = right = 0
        with torch.no_grad():
            for batch in others.chunks():
                classes = predicted(task, model, batch)
                hits += int((classes == self.target).sum())
                right += int((classes == batch.labels).sum())
        n = len(others)
        own = Reading(right / n, resolution=0.5 / n)
        return Reading(hits / n, resolution=0.5 / n, traces={self.traces[0].name: own})

    def _images(self, split: Split) -> str:
        """Return the name of the images that are stamped."""
        import torch

        check_class(split, "backdoor: target", self.target)
        if not bool((split.test.labels != self.target).any()):
            raise UnlearningError(f"backdoor: target={self.target}, but the task has test points of that class alone")
        name = image_input(split.train.inputs)
        images = split.train.inputs[name]
        if not (images.is_floating_point() or images.dtype == torch.uint8):
            raise UnlearningError(
                f"backdoor stamps images of floats in [0, 1] or of bytes, but the task's input {name!r} is "
                f"{str(images.dtype)[6:]}"
            )
        if images.dim() < 3 or self.size >= min(images.shape[-2:]):
            of = " x ".join(map(str, images.shape[1:]))
            raise UnlearningError(
                f"backdoor: size={self.size}, but the task's input {name!r} is {of}; the square must be smaller than "
                "the image, whose last two sizes are height and width"
            )
        return name

    def _stamp(self, images: Tensor) -> Tensor:
        images = images.clone()
        images[..., -self.size :, -self.size :] = 1 if images.is_floating_point() else 255
        return images
