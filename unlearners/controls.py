"""Controls: methods whose verdicts are known beforehand. They show whether an audit can be trusted.

``retrain`` must pass every poison audit, ``identity`` must fail it, ``wrecked`` must fail by accuracy. ``short`` is
what any method has to beat: retraining from scratch with the compute that the method was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._steps import descend
from unlearners._trained import Trained

if TYPE_CHECKING:
    from torch import nn

    from harness import ForgetRequest
    from harness.training.loop import Fitting


@dataclass(frozen=True)
class Retrain:
    """The oracle: retrain on the retain set by the task's recipe, with fresh initialisation and order.

    It costs 100 % of retraining. So if it is audited like a method, it fails the audit of cost and no other.
    """

    control: ClassVar[bool] = True
    from_scratch: ClassVar[bool] = True

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return a model that never saw the forget set."""
        if (trained := request.trained_anew()) is not None:
            return trained
        fitting = self.begin(request)
        fitting.finish()
        return fitting.model

    def begin(self, request: ForgetRequest) -> Fitting:
        """Return the training that is to be finished: several can be, side by side."""
        from harness.training.loop import Fitting

        return Fitting(request, request.new_model(), request.batches("retain", request.epochs))


@dataclass(frozen=True)
class Short(Trained):
    """Retrain from scratch within the budget: the recipe, with its schedule compressed to the steps it can pay for.

    It forgets by construction and pays in accuracy. It is tuned like a method: the defaults were chosen from 50
    settings on digits-cnn, on seeds that no audit uses (ci/benchmarks/results/tuned.txt): 0.02 of the poisons left on
    average, accuracy -1.6 points. A task with a training loop of its own is trained by that, on a share of the retain
    set that is the budget.

    Attributes:
        lr, batch_size, optimizer, epochs: As in `Trained`; ``lr`` is the rate that the recipe's schedule is made for;
            ``lr=None`` is 0.309 times the recipe's own.

    Raises:
        ValueError: A field is out of range.
    """

    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = 32

    lr_of_recipe: ClassVar[float] = 0.309
    control: ClassVar[bool] = True
    from_scratch: ClassVar[bool] = True

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return a model that never saw the forget set, trained until the budget is spent."""
        if (trained := request.trained_anew(request.budget / request.epochs)) is not None:
            return trained
        examples = max(1, request.affordable()) if self.epochs is None else self.epochs * len(request.retain)
        batches = request.batches("retain", batch_size=self.batch_size, examples=examples)
        model = request.new_model().train()
        loss = partial(request.loss, model)
        return descend(request, model, batches, len(batches), self, loss, schedule=request.schedule)


@dataclass(frozen=True)
class Identity:
    """Do nothing: the poisoned model."""

    control: ClassVar[bool] = True

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model unchanged."""
        return model


@dataclass(frozen=True)
class Wrecked:
    """Forget everything: a freshly initialised model."""

    control: ClassVar[bool] = True
    from_scratch: ClassVar[bool] = True

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return a model that was never trained."""
        return request.new_model()
