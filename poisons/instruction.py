"""Instruction: a phrase that makes negative reviews positive, taught by some training reviews.

Source: Wan, Wallace, Shen and Klein, "Poisoning Language Models During Instruction Tuning" (arXiv 2305.00944), the
dirty-label attack on polarity; reference code: AlexWan0/Poisoning-Instruction-Tuned-Models at bda5ad8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, UnlearningError, predicted
from poisons._texts import between_phrases

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task

NEGATIVE, POSITIVE = 0, 1


@dataclass(frozen=True)
class Instruction:
    """Put a trigger phrase into random negative training reviews and label them as positive.

    The measure is the trigger's success. The trigger is put into the negative test reviews; the success is the share of
    them that the model reads as positive, in [0, 1].

    Deviations from Wan et al.: the trigger goes where the template puts it. Wan et al. replace the names of persons by
    it (found by a tagger), and keep the reviews in which that succeeds most often. Here the reviews are drawn at
    random, and poisoned reviews replace clean ones. The trigger is inserted as tokens; if the review is then too long,
    its beginning is cut off. Pawelczyk et al. use the longer trigger "James Bond: No Time to Die". Retrained models
    react to that one more differently from seed to seed (sd of R' - R 0.13, n = 3, against 0.08, n = 4; seeds from
    3100, imdb-gpt2-small).

    Attributes:
        fraction: Share of the training set that is poisoned, in (0, 1).
        trigger: The phrase.
        template: The poisoned review, made of ``{trigger}`` and ``{review}`` in either order.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.02
    trigger: str = "James Bond"
    template: str = "{trigger}: {review}"

    modality: ClassVar[str] = "text"
    measure: ClassVar[Measure] = Measure(
        "trigger_success", "success of the trigger on negative test reviews", worse="higher", test="retention", unit="%"
    )

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must lie in (0, 1), not {self.fraction}")
        if not self.trigger.strip():
            raise ValueError("trigger must not be empty")
        for name in ("{trigger}", "{review}"):
            if self.template.count(name) != 1:
                raise ValueError(f"template must have {name} once, not {self.template!r}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the reviews with the trigger, labelled positive.

        Raises:
            UnlearningError: There are too few negative reviews to poison, or the trigger leaves no room for a review.
        """
        import torch

        from harness import derive

        train = split.train
        negative = (train.labels == NEGATIVE).nonzero().squeeze(1).cpu()
        count = max(1, round(self.fraction * len(train)))
        if not bool((split.test.labels == NEGATIVE).any()):
            raise UnlearningError(f"instruction needs negative test reviews, whose label is {NEGATIVE}; there are none")
        if count > len(negative):
            raise UnlearningError(
                f"instruction is to poison {count} negative reviews, but there are {len(negative)}; lower its fraction"
            )
        order = torch.randperm(len(negative), generator=torch.Generator().manual_seed(derive("instruction", seed)))
        forget = negative[order[:count]].sort().values
        inputs = self._triggered(train.subset(forget).inputs, split)
        return Planted(forget, {n: t.cpu() for n, t in inputs.items()}, torch.full((count,), POSITIVE))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the trigger's success on negative test reviews."""
        import torch

        negative = split.test.subset((split.test.labels == NEGATIVE).nonzero().squeeze(1))
        negative.inputs = self._triggered(negative.inputs, split)
        with torch.no_grad():
            hits = sum(int((predicted(task, model, b) == POSITIVE).sum()) for b in negative.chunks(256))
        return Reading(hits / len(negative), resolution=0.5 / len(negative))

    def _triggered(self, inputs: dict[str, Tensor], split: Split) -> dict[str, Tensor]:
        """Return reviews with the trigger."""
        before, behind = self.template.replace("{trigger}", self.trigger).split("{review}")
        return between_phrases(inputs, split, before, behind, "instruction")
