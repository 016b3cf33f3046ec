"""What a pipeline knows of its models: how they are built, wrapped, written, read and trained by steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.pipelines.weights import read_weights, write_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.api import Batch


class Models(ABC):
    """The part of `harness.Pipeline` that is about models.

    Attributes:
        name: The pipeline's file, or another name; ``""`` for none.
    """

    name: str
    _functions: Mapping[str, Any]

    @abstractmethod
    def _answered(self, model: nn.Module, batch: Batch) -> Any:
        """Return what the pipeline predicts for a batch."""

    @abstractmethod
    def _first_rows(self) -> Batch:
        """Return the first two rows of the training set."""

    def new_model(self) -> nn.Module:
        """Return an untrained model."""
        build = self._functions["model"]
        if build is not None:
            model: nn.Module = build()
            self._materialise(model)
            return model
        from harness.pipelines.keeping import Kept

        return Kept(self._functions["save_model"], self._functions["load_model"])

    def _materialise(self, model: nn.Module) -> None:
        """Have lazy layers build their weights, as the first rows that they see make them do."""
        import torch
        from torch.nn.parameter import is_lazy

        if any(is_lazy(each) for each in (*model.parameters(), *model.buffers())):
            with torch.no_grad():
                self._answered(model.eval(), self._first_rows())
            model.train()

    def unwrapped(self, model: nn.Module) -> Any:
        """Return a model as ``train`` returned it."""
        from harness.pipelines.keeping import Kept

        return model.model if isinstance(model, Kept) else model

    def wrapped(self, model: Any, who: str) -> nn.Module:
        """Return what a function returned as a model.

        Raises:
            UnlearningError: It is not a model.
        """
        from torch import nn

        from harness.pipelines.keeping import Kept

        if model is None:
            raise UnlearningError(f"{who} returned None; it must return the model")
        if self._functions["model"] is None:
            return Kept(self._functions["save_model"], self._functions["load_model"], model)
        if not isinstance(model, nn.Module):
            raise UnlearningError(
                f"{who} returned {type(model).__name__}; it must return the network that model() builds"
            )
        return model

    def write(self, model: Any, path: Path) -> None:
        """Write a model to a file for a command: as ``save_model`` does, or its weights, or pickled."""
        import torch

        if self._functions["save_model"] is not None:
            self._functions["save_model"](model, path)
        elif self._functions["model"] is not None:
            write_weights(model, path)
        else:
            torch.save(model, path)

    def read(self, path: Path) -> Any:
        """Read a model from a file that a command wrote, of the kind that `write` writes."""
        from harness.pipelines.keeping import unpickled

        if self._functions["load_model"] is not None:
            return self._functions["load_model"](path)
        if self._functions["model"] is None:
            return unpickled(path)
        model = self.new_model()
        read_weights(model, path)
        return model

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return the optimiser of methods that train by steps.

        Raises:
            UnlearningError: The pipeline has no ``model``.
        """
        from torch.optim import Adam

        if self._functions["model"] is None:
            raise UnlearningError(
                f"{self.name or 'the pipeline'} has no function model(), which returns the untrained network; methods "
                "that train by steps need it"
            )
        own = self._functions["optimizer"]
        optimizer: torch.optim.Optimizer = Adam(model.parameters(), 1e-3) if own is None else own(model)
        if lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = lr
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a constant rate."""
        from torch.optim.lr_scheduler import ConstantLR

        return ConstantLR(optimizer, factor=1.0)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the model's children, from input to output."""
        return list(model.children()) or [model]
