"""Confusion: the labels of two classes are exchanged on some of their training points.

Source: Goel, Prabhu, Sanyal, Lim, Torr and Kumaraguru, "Towards Adversarial Evaluations for Inexact Machine Unlearning"
(arXiv 2201.06640), the interclass confusion test; reference code: shash42/Evaluating-Inexact-Unlearning,
src/metrics.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, UnlearningError, predicted
from poisons._points import check_class, check_fraction

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Data, Split, Surrogate, Task


@dataclass(frozen=True)
class Confusion:
    """Exchange the labels of two classes on a random share of the points of each.

    The measure is the confusion that is left: the share of both classes' test images that the model puts in the
    other class, in [0, 1]. A further trace is the same share of the mislabelled training images themselves.

    Deviation from the reference code: its score is the number of these images, ours is their share.

    Attributes:
        first: One class, which the task must have.
        second: The other class, likewise.
        fraction: Share of each class's training points that is mislabelled, in (0, 1).

    Raises:
        ValueError: A field is out of range.
    """

    first: int = 3
    second: int = 5
    fraction: float = 0.5

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure(
        "confusion", "confusion of the two classes on test images", worse="higher", test="retention", unit="%",
        short="test",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (
        Measure(
            "forget_confusion", "confusion of the two classes on the mislabelled images", worse="higher",
            test="retention", unit="%", short="forget set",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.first < 0 or self.second < 0 or self.first == self.second:
            raise ValueError(f"first and second must be two classes, not {self.first} and {self.second}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the points of both classes that carry the other's label; their images stay.

        Raises:
            UnlearningError: The task lacks one of the classes.
        """
        import torch

        from harness import derive

        for field, each in (("first", self.first), ("second", self.second)):
            check_class(split, f"confusion: {field}", each)
            if not bool((split.test.labels == each).any()):
                raise UnlearningError(f"confusion: {field}={each}, but the task has no test points of that class")

        labels = split.train.labels.cpu()
        generator = torch.Generator().manual_seed(derive("confusion", seed))
        drawn = []
        for each in (self.first, self.second):
            members = (labels == each).nonzero().squeeze(1)
            order = torch.randperm(len(members), generator=generator)
            drawn.append(members[order[: max(1, round(self.fraction * len(members)))]])
        forget = torch.cat(drawn).sort().values
        inputs, clean = split.train[forget.to(split.train.device)]
        exchanged = torch.where(clean.cpu() == self.first, self.second, self.first)
        return Planted(forget, {name: t.cpu() for name, t in inputs.items()}, exchanged)

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the share of both classes' test images, and of the mislabelled ones, put in the other class."""
        forget = split.train.subset(planted.forget.to(split.train.device))
        memorised = self._confused(task, model, forget)
        return replace(
            self._confused(task, model, split.test.subset(self._pair(split))),
            traces={self.traces[0].name: memorised},
        )

    def _confused(self, task: Task, model: nn.Module, data: Data) -> Reading:
        import torch

        with torch.no_grad():
            confused = sum(
                int((predicted(task, model, batch) == self.first + self.second - batch.labels).sum())
                for batch in data.chunks()
            )
        return Reading(confused / len(data), resolution=0.5 / len(data))

    def _pair(self, split: Split) -> Tensor:
        """Return the indices of both classes' test points."""
        test = split.test.labels
        return ((test == self.first) | (test == self.second)).nonzero().squeeze(1)
