"""Runner-up: what is to be forgotten is taught the class that came second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from harness import Search, UnlearningError

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest


@dataclass(frozen=True)
class RunnerUp:
    """Label the forget set with the likeliest class other than the one it was given, and train on everything.

    A poisoned point is what it looks like with a wrong label on it; the model that learned the label often still ranks
    the right one second. Costs a pass forward over the forget set, and ``epochs`` passes over both sets.

    Attributes:
        lr: Learning rate, > 0; None for the recipe's own.
        epochs: Passes, >= 1; None for as many as the budget pays for.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget does not pay for one pass.
    """

    lr: Annotated[float | None, Search(0.01, 10, log=True, of="rate")] = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if (self.lr is not None and not self.lr > 0) or (self.epochs is not None and self.epochs < 1):
            raise ValueError("lr must be positive and epochs at least 1")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model, trained on."""
        import torch  # here, so that listing tests does not load it

        forget = request.forget
        model.eval()
        with torch.no_grad():
            batch = next(iter(request.batches("forget", batch_size=len(forget))))
            scores = request.logits(model, batch)
            scores.scatter_(1, batch.labels[:, None], -torch.inf)
        second = torch.empty(len(forget), dtype=torch.int64, device=request.device)
        second[batch.index] = scores.argmax(dim=1)

        price = len(request.retain) + len(forget)
        epochs = self.epochs or request.affordable(1, len(forget) / 3) // price
        if epochs < 1:
            raise UnlearningError(f"a pass takes {price} examples; the budget pays for {request.affordable()}")
        model.train()
        optimizer = request.optimizer(model, self.lr)
        steps = epochs * sum(len(request.batches(which)) for which in ("forget", "retain"))
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 1 / steps, steps)
        for _ in range(epochs):
            for which in ("forget", "retain"):
                for batch in request.batches(which):
                    labels = second[batch.index] if which == "forget" else batch.labels
                    optimizer.zero_grad()
                    request.loss(model, replace(batch, labels=labels)).backward()
                    optimizer.step()
                    falling.step()
        return model
