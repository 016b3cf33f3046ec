"""Label noise: some training points carry a random wrong label.

Source: the random label flips of Goel, Prabhu, Torr, Kumaraguru and Sanyal, "Corrective Machine Unlearning"
(arXiv 2402.14015); the noise itself is the symmetric one of Natarajan, Dhillon, Ravikumar and Tewari, "Learning with
Noisy Labels" (NeurIPS 2013).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, UnlearningError
from harness.api import classes_of
from poisons._points import check_class, check_fraction

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class LabelNoise:
    """Give random training points a wrong label, drawn evenly from the other classes; their inputs stay.

    The measure is what the model knows of these labels by heart. For each mislabelled point, the classes other than its
    own are ranked by their scores. The wrong label has rank k, 0 to K - 2 for K classes, ties in the middle. The score

        z = (k - (K - 2) / 2) / sd,    sd^2 = K (K - 2) / 12,

    has mean 0 and standard deviation 1 for every model that never saw the wrong labels, since these are drawn evenly.
    The measure is the mean of z over the mislabelled points. It moves long before any point changes class, and no
    scaling of the scores changes it. A further trace is the margin of the own class: its score minus the highest other
    one, divided by the standard deviation of the point's scores, mean over the mislabelled points. So a method that
    makes these points look like nothing has not removed the noise.

    Where classes overlap, labels of all classes at random can raise this margin, and then no method passes. Mislabel
    most of one class there, such as ``fraction=0.9,of=0``.

    Deviation from the source: it counts how many mislabelled points are put in their own class. This share is reported
    beside, with that of the wrong class. On digits both hardly move, since few wrong labels are learned by heart.

    Attributes:
        fraction: Share of the training set, or of the class, that is mislabelled, in (0, 1).
        of: The class whose points are mislabelled, one of the task's; None for all classes.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    of: int | None = None

    modality: ClassVar[str | None] = None
    measure: ClassVar[Measure] = Measure(
        "wrong_label_rank", "rank of the wrong labels on mislabelled points", worse="higher", test="retention",
        short="wrong label",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (
        Measure(
            "own_class_margin", "margin of the own class on mislabelled points", worse="lower", test="retention",
            short="own class",
        ),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.of is not None and self.of < 0:
            raise ValueError(f"of must be a class, not {self.of}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the mislabelled points.

        Raises:
            UnlearningError: The task has no such class, or fewer than three, or no score for each class.
        """
        import torch

        from harness import derive

        if split.classes < 3:
            raise UnlearningError(f"label-noise needs a task of at least 3 classes, not {split.classes}")
        if getattr(task, "causal", False):
            raise UnlearningError("label-noise needs a score for each class, but the task is a causal language model")
        generator = torch.Generator().manual_seed(derive("label-noise", seed))
        forget = self._drawn(split, seed, generator)
        points = split.train.subset(forget)
        own = points.labels.cpu()
        # From 1 to K - 1 classes further on: each of the others is as likely.
        wrong = (own + torch.randint(1, split.classes, own.shape, generator=generator)) % split.classes
        return Planted(forget, {name: tensor.cpu() for name, tensor in points.inputs.items()}, wrong)

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the mean score of the wrong labels, and the margin of the own class.

        Details are the shares of the mislabelled points that are put in either class.

        Raises:
            UnlearningError: The task has no score for each class.
        """
        import torch

        points, scores, classes = split.train.subset(planted.forget), [], []
        with torch.no_grad():
            for batch in points.chunks():
                scores.append(task.logits(model, batch))
                classes.append(classes_of(task, scores[-1], batch))
        found, put = torch.cat(scores).double(), torch.cat(classes)
        own, wrong = points.labels, planted.labels.to(put)
        if found.dim() != 2 or found.shape[1] < split.classes:
            raise UnlearningError(
                f"label-noise needs a score for each of {split.classes} classes, but the task's logits are of shape "
                f"{tuple(found.shape)}"
            )
        rank, margin = standing(found[:, : split.classes], own, wrong)
        return Reading(
            float(rank.mean()),
            details={
                "in_the_wrong_class": float((put == wrong).double().mean()),
                "in_their_own_class": float((put == own).double().mean()),
            },
            traces={self.traces[0].name: Reading(float(margin.mean()))},
        )

    def _drawn(self, split: Split, seed: int, generator: torch.Generator) -> Tensor:
        """Return the ascending indices of the points that are mislabelled."""
        import torch

        from harness import forget_block

        if self.of is None:
            return forget_block(len(split.train), self.fraction, seed)
        check_class(split, "label-noise: of", self.of)
        members = (split.train.labels.cpu() == self.of).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator)
        return members[order[: max(1, round(self.fraction * len(members)))]].sort().values


def standing(scores: Tensor, own: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """Return the score z of the wrong label, and the margin of the own class; see `LabelNoise`.

    Args:
        scores: Of each point, shape (n, K), K at least 3.
        own: The class of each point, shape (n,).
        wrong: Another class of each point, of the same shape.

    Returns:
        Both of shape (n,).
    """
    import torch

    k = scores.shape[1]
    at = torch.arange(len(scores), device=scores.device)
    others = torch.ones_like(scores, dtype=torch.bool)
    others[at, own] = False
    told = scores[at, wrong, None]
    # The wrong label ties with itself: half a rank too high.
    rank = ((scores < told) & others).sum(1) + (((scores == told) & others).sum(1) - 1) / 2
    z = (rank - (k - 2) / 2) / (k * (k - 2) / 12) ** 0.5
    spread = scores.std(dim=1, unbiased=False)
    lead = scores[at, own] - scores.masked_fill(~others, -torch.inf).amax(1)
    return z, lead / torch.where(spread > 0, spread, 1)
