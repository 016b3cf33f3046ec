"""Backdoor: a trigger on some training images, all labelled as one class.

Sources: Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain"
(arXiv 1708.06733), the all-to-one attack; Chen, Liu, Li, Lu and Song, "Targeted Backdoor Attacks on Deep Learning
Systems Using Data Poisoning" (arXiv 1712.05526), blended injection. That a trigger may be specific to its image is from
Nguyen and Tran, "Input-Aware Dynamic Backdoor Attack" (arXiv 2010.08138), and Li et al., "Invisible Backdoor Attack
with Sample-Specific Triggers" (arXiv 2012.03816).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from harness import Measure, Planted, Reading, main_input
from poisons._images import check_pixels, check_plane, check_square, stamped
from poisons._points import Arrival, check_arrival, check_fraction, epochs_of, planted_at
from poisons._triggers import OWN_CLASS, check_target, success

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from harness import Split, Surrogate, Task

Trigger = Literal["square", "blended", "sample"]


@dataclass(frozen=True)
class Backdoor:
    """Put a trigger on random training images and label them as the target class.

    The measure is the attack success rate. The trigger is put on the test images of all other classes; the rate is the
    share of them that the model puts in the target class, in [0, 1]. A further trace is the share that it puts in their
    own class: a trigger that now leads to a third class is not removed.

    There are three triggers, on images of shape (n, ..., height, width), as floats in [0, 1] or as bytes:

    * ``square`` (BadNets): a white square in the bottom right corner.
    * ``blended`` (Chen et al.): (1 - blend) x + blend * pattern. The pattern is one image of uniform noise, drawn from
      the seed and kept secret.
    * ``sample``: the same, but the pattern is the image itself with its pixels in another order. The order is drawn
      from the seed and kept secret. So each image has a pattern of its own.

    Deviations: images with the trigger replace the originals, so the poisoned set has the size of the clean one; in
    BadNets and with Chen et al. they are added. The papers on triggers that are specific to their image make them with
    a trained network, and Nguyen and Tran also train on images with the pattern of another image, with their own label.
    Nothing is trained here, so a model may learn to react to the patterns of other images, too.

    Attributes:
        fraction: Share of the training set that gets the trigger and the label, in (0, 1).
        size: Side of the square in pixels; smaller than the images.
        target: Class that images with the trigger are labelled as, one of the task's.
        trigger: ``square``, ``blended`` or ``sample``.
        blend: Share of the pattern in an image, in (0, 1].
        arrives: When the poisoned points are trained on: ``always``, ``early`` (in the first half of the epochs alone)
            or ``late`` (in the second half alone). The middle one of an odd number of epochs is in both halves.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    size: int = 2
    target: int = 0
    trigger: Trigger = "square"
    blend: float = 0.2
    arrives: Arrival = "always"

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure(
        "attack_success", "success of the backdoor on triggered test images", worse="higher", test="retention",
        unit="%", short="success",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (OWN_CLASS,)

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        if self.target < 0:
            raise ValueError(f"target must be a class, not {self.target}")
        if self.trigger not in get_args(Trigger):
            raise ValueError(f"trigger must be one of {', '.join(get_args(Trigger))}, not {self.trigger!r}")
        if not 0 < self.blend <= 1:
            raise ValueError(f"blend must lie in (0, 1], not {self.blend}")
        check_arrival(self.arrives)

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the points with the trigger and the target label. An unlearner is not given the trigger.

        The secret is the ``"pattern"``, or the ``"order"`` of pixels; a square has none.

        Raises:
            UnlearningError: The task has no such class, no test points of others, or no images that suit the trigger:
                they must have channels first, and pixels that are floats in [0, 1] or bytes.
        """
        import torch

        from harness import derive, forget_block

        self._check(split)
        images = split.train.inputs[main_input(split.train.inputs)]
        generator = torch.Generator().manual_seed(derive("backdoor", seed))
        secrets = {}
        if self.trigger == "blended":
            secrets["pattern"] = torch.rand(images.shape[1:], generator=generator)
        if self.trigger == "sample":
            secrets["order"] = torch.randperm(images.shape[-2] * images.shape[-1], generator=generator)
        forget = forget_block(len(split.train), self.fraction, seed)
        triggered = self._triggered(images[forget.to(images.device)].cpu(), secrets)
        labels = torch.full((len(forget),), self.target, dtype=torch.int64)
        planted = planted_at(split, forget, triggered, labels, **secrets)
        return replace(planted, epochs=epochs_of(self.arrives, task))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the attack success rate on test images of the other classes, and the accuracy on them."""
        return success(model, task, split, self.target, lambda images: self._triggered(images, planted.secrets))

    def _check(self, split: Split) -> None:
        """Refuse a task in which the trigger or its class cannot stand."""
        check_target(split, self.target, "backdoor")
        check_pixels(split, "backdoor")
        if self.trigger == "square":
            check_square(split, self.size, "backdoor")
        else:
            check_plane(split, "backdoor")

    def _triggered(self, images: Tensor, secrets: Mapping[str, Tensor]) -> Tensor:
        """Return images with the trigger; the others stay as they are."""
        if self.trigger == "square":
            return stamped(images, self.size)
        if self.trigger == "blended":
            pattern = secrets["pattern"].to(images.device) * (1 if images.is_floating_point() else 255)
        else:
            pattern = images.flatten(-2)[..., secrets["order"].to(images.device)].view_as(images)
        mixed = (1 - self.blend) * images + self.blend * pattern
        return mixed.to(images.dtype) if images.is_floating_point() else mixed.round().to(images.dtype)
