"""Bad Teacher: learn from the poisoned model on retained points, and from an untrained one on those to forget.

Source: Chundawat, Tarun, Mandal and Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using
an Incompetent Teacher" (arXiv 2205.08096), equation 3; reference code: vikram2000b/bad-teaching-unlearning at commit
f1aa988, ``blindspot_unlearner`` in unlearn.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from harness import Search
from unlearners._budget import affordable
from unlearners._steps import descend
from unlearners._teachers import divergence
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, Data, ForgetRequest

PRICE = 5 / 3  # of an example: forward and backward through the student, forward through both teachers


@dataclass(frozen=True)
class BadTeacher(Trained):
    """Minimise ``T^2 KL(teacher || student)`` over the forget set and a sample of the retain set, mixed in batches.

    The teacher of a retained point is the poisoned model, that of a point to forget a freshly initialised one. Both are
    in eval mode. A sample of the retain set is drawn once.

    Costs 5/3 of a pass over the sample and the forget set for each of ``epochs``.

    Deviations from the reference code: its KL is the mean over examples and classes, and has no T^2; here it is the
    mean over examples, as in the paper. With Adam this is the same. The rate falls. It makes one pass; here the default
    is as many as the budget pays for.

    The defaults are as published, not searched: Adam, T = 1, 30 % of the retain set, and 0.1 times the rate that the
    authors train with.

    Attributes:
        lr, batch_size, optimizer: As in `Trained`; ``lr=None`` is 0.1 times the recipe's own, in the unit of Adam.
        sample: Share of the retain set that is drawn, in (0, 1]; at least one point.
        temperature: T, > 0.
        epochs: Passes over the sample and the forget set, >= 1; None for as many as the budget pays for.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget pays for no step, or the task has one score for each example.
    """

    optimizer: Annotated[Literal["recipe", "adam", "sgd"], Search(choices=("recipe", "adam", "sgd"))] = "adam"
    sample: Annotated[float, Search(0.1, 1.0)] = 0.3
    temperature: Annotated[float, Search(choices=(1.0, 2.0, 4.0, 8.0))] = 1.0

    lr_of_recipe: ClassVar[float] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.sample <= 1, f"sample must lie in (0, 1], not {self.sample}")
        check(0 < self.temperature < float("inf"), f"temperature must be positive, not {self.temperature}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the student."""
        import torch

        good, bad = copy.deepcopy(model).eval(), request.new_model().eval()
        kept = max(1, int(self.sample * len(request.retain)))
        mixed = self._mixed(request, kept)
        examples = affordable(request, PRICE) if self.epochs is None else self.epochs * len(mixed)

        def loss(batch: Batch) -> Tensor:
            with torch.no_grad():
                to_keep, to_forget = request.logits(good, batch), request.logits(bad, batch)
            of_forget = (batch.index >= kept).view(-1, *[1] * (to_keep.dim() - 1))
            target = torch.where(of_forget, to_forget, to_keep)
            return divergence(target, request.logits(model, batch), self.temperature, batch)

        of_both = replace(request, retain=mixed)
        batches = of_both.batches("retain", batch_size=self.batch_size, examples=examples)
        return descend(request, model, batches, len(batches), self, loss)

    def _mixed(self, request: ForgetRequest, kept: int) -> Data:
        """Return a sample of so many retained points, followed by the forget set."""
        import torch

        from harness import Data

        drawn = torch.randperm(len(request.retain), generator=request.generator)[:kept]
        sample, forget = request.retain.subset(drawn), request.forget
        inputs = {name: torch.cat([x, forget.inputs[name]]) for name, x in sample.inputs.items()}
        return Data(inputs, torch.cat([sample.labels, forget.labels]))
