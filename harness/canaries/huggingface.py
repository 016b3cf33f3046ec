"""The check that canaries reach the model, as a callback of Hugging Face's ``Trainer``.

The module is imported when `CanaryCallback` is first asked for, because ``transformers`` imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from harness.api import UnlearningError
from harness.canaries.reaching import reached
from harness.canaries.secret import Secret

if TYPE_CHECKING:
    from torch import Tensor, nn


class CanaryCallback(TrainerCallback):
    """Check before the first step that every canary reaches the model, by the trainer's own collator and loss.

    ``trainer.add_callback(CanaryCallback(trainer, "secret.json"))``. It costs one forward and one backward pass for
    each canary that is in. An error stops the training.

    Args:
        trainer: The trainer.
        canaries: The secret file, if the rows of the training set are those of the planted data, in their order; else
            the position in the training set of each canary that is in, by id.

    Raises:
        UnlearningError: The secret file cannot be used. When training begins: a canary is not in the training set, or
            does not reach the model (`harness.canaries.reached`).
    """

    def __init__(self, trainer: Any, canaries: str | Path | Mapping[str, int]) -> None:
        self._trainer = trainer
        self._places = canaries if isinstance(canaries, Mapping) else Secret.read(canaries).planted

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check all canaries."""
        loader = kwargs["train_dataloader"]
        data = getattr(loader, "dataset", None)
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise UnlearningError("canaries cannot be found in a streaming training set; use one that can be indexed")
        assert data is not None
        examples = {}
        for name, place in self._places.items():
            if not isinstance(place, int):
                raise UnlearningError(
                    f"the canary {name} is the picture {place}; give the callback the position of each canary in the "
                    "training set, by id"
                )
            if not 0 <= place < len(data):
                raise UnlearningError(
                    f"the canary {name} is in row {place}, but the training set has {len(data)}: rows were dropped or "
                    "packed; give the callback the position of each canary in the training set, by id"
                )
            examples[name] = data[place]

        def loss_of(model: nn.Module, example: Any) -> Tensor:
            batch = loader.collate_fn([example])
            inputs = {name: value.to(args.device) if hasattr(value, "to") else value for name, value in batch.items()}
            loss: Tensor = self._trainer.compute_loss(model, inputs)
            return loss

        reached(kwargs["model"], loss_of, examples)
