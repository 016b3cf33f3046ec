"""Canaries in texts: sequences of random tokens, planted among the documents, and others that are not.

Source: Carlini, Liu, Erlingsson, Kos and Song, "The Secret Sharer: Evaluating and Testing Unintended Memorization in
Neural Networks" (arXiv 1802.08232): the rank of a canary among sequences that might have been planted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Question, Reading
from poisons._documents import asked, beginning, block, check_count, check_documents, document, planted_documents

if TYPE_CHECKING:
    from torch import nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class TextCanaries:
    """Replace random training documents by canaries, each planted several times.

    The tokens of a canary are drawn evenly from all. Beside each canary, others are drawn that nobody plants. The
    measure is how much likelier the model finds the canaries than these: the difference of the mean log-probabilities
    per token, in nats.

    The null is exact. For a model that is independent of which were planted, the rank of a canary among its own others
    is uniform. Ranks, each moved by a uniform draw to a normal score, sum to ``T``, which is N(0, 1) (exposure, in
    Carlini et al., is the logarithm of such a rank). No two canaries share others: so their ranks are independent.

    Attributes:
        canaries: Different canaries, at least 1.
        copies: How often each is planted, at least 1.
        tokens: Of a canary, at least 2.
        others: Sequences that are not planted, for each canary, at least 1.

    Raises:
        ValueError: A field is out of range.
    """

    canaries: int = 12
    copies: int = 2
    tokens: int = 10
    others: int = 15

    modality: ClassVar[str] = "text"
    measure: ClassVar[Measure] = Measure(
        "canary_excess", "log-probability of canaries beside sequences that were not planted", worse="higher",
        test="retention", exact_null=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("canaries", "copies", "others"):
            check_count(name, getattr(self, name))
        if self.tokens < 2:
            raise ValueError(f"tokens must be at least 2, not {self.tokens}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the canaries, in a row and again; secrets are all ``"sequences"``, and the ``"moves"`` of ranks.

        Raises:
            UnlearningError: The task has no documents, or they are shorter than a canary.
        """
        import torch

        from harness import derive

        check_documents(task, "text-canaries")
        generator = torch.Generator().manual_seed(derive("text-canaries", seed))
        shape = (self.canaries, 1 + self.others, self.tokens)
        sequences = torch.randint(split.classes, shape, generator=generator)  # of each canary the first is planted
        moves = torch.rand(self.canaries, generator=generator, dtype=torch.float64)
        documents = [document(task, tokens) for tokens in sequences[:, 0].tolist()] * self.copies
        forget = block(split, len(documents), seed)
        planted = planted_documents(task, split, forget, documents, "text-canaries")
        return replace(planted, secrets={"sequences": sequences, "moves": moves})

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return how much likelier canaries are; its detail ``T`` is N(0, 1) for a model that never saw them."""
        import torch

        sequences = planted.secrets["sequences"]
        means, _ = asked(task, model, split, [document(task, tokens) for tokens in sequences.flatten(0, 1).tolist()])
        means = means.view(sequences.shape[:2])
        if not bool(means.isfinite().all()):
            return Reading(math.nan)
        below = (means[:, :1] > means[:, 1:]).sum(dim=1)
        # A uniform place in the rank's part of (0, 1) makes the score continuous, and exactly normal.
        places = (below + planted.secrets["moves"]) / sequences.shape[1]
        scores = torch.special.ndtri(places.clamp(1e-12, 1 - 1e-12))
        excess = means[:, 0] - means[:, 1:].mean(dim=1)
        total = float(scores.sum() / math.sqrt(len(scores)))
        return Reading(float(excess.mean()), details={"T": total, "mean_rank": float(places.mean())})

    def questions(self, planted: Planted, task: Task, split: Split) -> list[Question]:
        """Return the first half of every canary, and the rest as the answer.

        The sequences that were not planted begin otherwise: they are no answers to the same question.
        """
        half, begun = self.tokens // 2, beginning(task)
        canaries = planted.secrets["sequences"][:, 0].tolist()
        return [Question([*begun, *each[:half]], each[half:]) for each in canaries]
