"""SalUn: teach random labels to the forget set, by the weights alone that matter most to it.

Source: Fan, Liu, Zhang, Wong, Wei and Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in
Both Image Classification and Generation" (arXiv 2310.12508), equations 3 to 5; reference code:
OPTML-Group/Unlearn-Saliency at commit a6e89fd, Classification/generate_mask.py and Classification/unlearn/RL.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from harness import Search
from unlearners._budget import enough
from unlearners._steps import descend
from unlearners._trained import Trained, check

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Batch, Batches, ForgetRequest


@dataclass(frozen=True)
class SalUn(Trained):
    """Fine-tune salient weights on the forget set with random labels and on the retain set, pass by pass in turn.

    A weight is salient if it is among the largest by absolute gradient of the forget set's loss: summed over batches,
    in eval mode, ranked over the whole model. The others keep their values. Labels are drawn evenly from all classes,
    the true one included, anew in every pass.

    Costs one pass over the forget set, and for every pass over the retain set another.

    Deviations from the reference code, of which this is the branch for CIFAR-10: the rate falls (there it is constant
    for 91 epochs). The last pass is as long as the budget pays for. Equal gradients at the threshold may be ranked
    otherwise.

    The defaults are as published, not searched: half of the weights, and a rate of 0.13 times that of the training.

    Attributes:
        lr, batch_size, optimizer: As in `Trained`; ``lr=None`` is 0.13 times the recipe's own.
        salient: Share of the weights that are trained, in (0, 1]; 1 is random labelling of the forget set.
        epochs: Passes over both sets, >= 1; None for as many as the budget pays for.

    Raises:
        ValueError: A field is out of range.
        UnlearningError: The budget does not pay for two passes over the forget set and one retained point.
    """

    salient: Annotated[float, Search(0.1, 1.0)] = 0.5

    lr_of_recipe: ClassVar[float] = 0.13

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.salient <= 1, f"salient must lie in (0, 1], not {self.salient}")

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model after training of its salient weights."""
        import torch

        passes = self._passes(request)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        salient = self._mask(model, trained, request)
        kept = [parameter.detach().clone() for parameter in trained]

        def steps() -> Iterator[Batch]:
            for which, batches in passes:
                for batch in batches:
                    if which == "forget":
                        drawn = torch.randint(0, request.classes, batch.labels.shape, generator=request.generator)
                        batch = replace(batch, labels=drawn.to(batch.labels))
                    yield batch
                    with torch.no_grad():  # decay and momentum must not move the others either
                        for parameter, mask, before in zip(trained, salient, kept, strict=True):
                            parameter.copy_(torch.where(mask, parameter, before))

        def mask_gradients() -> None:
            for parameter, mask in zip(trained, salient, strict=True):
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)

        count = sum(len(batches) for _, batches in passes)
        return descend(request, model, steps(), count, self, lambda batch: request.loss(model, batch), mask_gradients)

    def _passes(self, request: ForgetRequest) -> list[tuple[str, Batches]]:
        """Return the passes in order: over which set, and its batches."""
        forget, retain = len(request.forget), len(request.retain)
        left = (self.epochs or 0) * (forget + retain) or request.affordable(reserve=forget)
        enough(request, max(0, left - forget))
        passes = []
        while left > forget:
            examples = min(retain, left - forget)
            passes.append(("forget", request.batches("forget", batch_size=self.batch_size)))
            passes.append(("retain", request.batches("retain", batch_size=self.batch_size, examples=examples)))
            left -= forget + examples
        return passes

    def _mask(self, model: nn.Module, trained: Sequence[nn.Parameter], request: ForgetRequest) -> list[Tensor]:
        """Return where the salient weights are among those that are trained, parameter by parameter."""
        import torch

        model.eval()
        model.zero_grad()
        for batch in request.batches("forget", batch_size=self.batch_size):
            request.loss(model, batch).backward()
        sizes = [torch.zeros_like(p) if p.grad is None else p.grad.abs() for p in trained]
        model.train()
        ranked = torch.cat([size.flatten() for size in sizes]).argsort(descending=True)
        chosen = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
        chosen[ranked[: int(self.salient * len(ranked))]] = True
        return [part.view_as(size) for part, size in zip(chosen.split([s.numel() for s in sizes]), sizes, strict=True)]
