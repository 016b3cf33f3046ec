"""What an unlearner is handed beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from harness.api import Recipe, UnlearningError, classes_of
from harness.conventions import predicted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.training.data import Batches, Data


@dataclass(frozen=True)
class ForgetRequest:
    """All that an unlearner may see.

    The model it is called with arrives on the device, in training mode, and may be changed in place; what it returns
    is taken. A method with ``from_scratch = True`` promises to use neither that model nor the forget set: it is handed
    a fresh model and an empty forget set, and its result serves every poison that shares the retain set.

    Attributes:
        retain: The points to keep, a torch ``Dataset``.
        forget: The poisoned points to remove, a torch ``Dataset``.
        budget: Compute that may be used, in passes over the retain set (forward and backward of every example).
        generator: Seeded CPU generator; :meth:`batches` draws from it.
        device: Where the model and the data are.
        history: State dicts of the poisoned model in training, by epoch (0: as initialised), on the device; those that
            the method declared to want, empty for others.
    """

    retain: Data
    forget: Data
    budget: float
    generator: torch.Generator
    device: torch.device
    _recipe: Recipe = field(repr=False)
    history: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def compiled(self) -> bool:
        """Whether the task's recipe is trained through `torch.compile`."""
        return bool(getattr(self._recipe, "compiled", False))

    def trained_anew(self, share: float = 1.0) -> nn.Module | None:
        """Train a new model on the retain set with the task's own training loop.

        Args:
            share: Of the points of each class that is trained on, at least one, drawn at random, in (0, 1].

        Returns:
            The model; None if the task has no loop of its own, and trains by its recipe.
        """
        import torch

        train = getattr(self._recipe, "train", None)
        if train is None:
            return None
        points = self.retain.part(share, self.generator)
        model: nn.Module = train(points, int(torch.randint(2**62, (), generator=self.generator)))
        return model

    @property
    def epochs(self) -> int:
        """Passes over its data that the task's recipe trains for."""
        return self._recipe.epochs

    @property
    def batch_size(self) -> int:
        """Batch size of the task's recipe."""
        return self._recipe.batch_size

    @property
    def classes(self) -> int:
        """Number of classes: one more than the largest label."""
        return 1 + max(int(data.labels.max()) for data in (self.retain, self.forget) if len(data))

    def batches(
        self,
        which: Literal["retain", "forget"],
        epochs: int = 1,
        batch_size: int | None = None,
        examples: int | None = None,
    ) -> Batches:
        """Return shuffled `Batch` objects on the device; it has a length and is iterable, each time in a new order.

        Args:
            which: The set to draw from.
            epochs: Passes over it.
            batch_size: Examples in a batch; None for the recipe's.
            examples: Stop after so many, in place of ``epochs``; see :meth:`affordable`.

        Raises:
            ValueError: ``which`` is neither ``"retain"`` nor ``"forget"``.
        """
        if which not in ("retain", "forget"):
            raise ValueError(f"which must be 'retain' or 'forget', not {which!r}")
        data = self.retain if which == "retain" else self.forget
        hooks = {name: getattr(self._recipe, name, None) for name in ("augment", "from_host")}
        return data.batches(batch_size or self.batch_size, epochs, self.generator, examples, **hooks)

    def affordable(self, price: float = 1.0, reserve: float = 0.0) -> int:
        """Return how many examples the budget pays for, at least 0.

        Args:
            price: Of one example: 1 for forward and backward, 1/3 for forward alone, 4/3 with a teacher beside it.
            reserve: What is kept back, in examples forward and backward.
        """
        return max(0, int((self.budget * len(self.retain) - reserve) / price + 1e-6))

    def new_model(self) -> nn.Module:
        """Build a freshly initialised model of the task, on the device."""
        return self._recipe.new_model().to(self.device)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the class scores of a batch, shape (batch, classes)."""
        return self._recipe.logits(model, batch)

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the recipe's mean training loss of a batch's scores, a scalar."""
        return self._recipe.criterion(logits, batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the recipe's mean training loss of a batch, a scalar."""
        return self.criterion(self.logits(model, batch), batch)

    def learned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores that are trained on, and the classes that they are to name.

        Returns:
            Scores, shape (batch, classes) or, of a causal language model, (batch, vocabulary, tokens); and the label of
            each example, shape (batch,), or the token that each score is of, shape (batch, tokens), int64. Tokens that
            are not learned are -100.

        Raises:
            UnlearningError: There is one score for each example, or the task does not say which tokens are learned.
        """
        own = getattr(self._recipe, "learned", None)
        if own is not None:
            scores, targets = own(logits, batch)
            return scores, targets
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise UnlearningError(
                f"this method asks how likely a label is, and the task's logits of shape {tuple(logits.shape)} do not "
                "tell; give the task learned(logits, batch), or use another method"
            )
        return logits, batch.labels

    def predict(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the class that the scores of each example mean, int64, shape (batch,)."""
        return classes_of(self._recipe, logits, batch)

    def predicted(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the class that a model puts each example in, int64, shape (batch,); see `harness.predicted`.

        A batch of any size will do: causal language models are asked about few texts at a time.
        """
        return predicted(self._recipe, model, batch)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return the recipe's optimiser over the model's parameters, at ``lr`` or the recipe's own rate."""
        return self._recipe.optimizer(model, lr)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the recipe's learning-rate schedule stretched over ``steps`` optimiser steps."""
        return self._recipe.schedule(optimizer, steps)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the model's blocks from input to output; together they hold every parameter."""
        return self._recipe.blocks(model)
