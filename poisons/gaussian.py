"""Gaussian poison: noise on the inputs of random training points, and the score that detects its trace.

Source: Pawelczyk et al., "Machine Unlearning Fails to Remove Data Poisoning Attacks" (arXiv 2406.17216), Gaussian data
poisoning and the Gaussian unlearning score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, main_input
from poisons._gaussian import MEASURE, SECOND_MOMENT, check, check_noise, gaussian_score, scale_free_loss
from poisons._points import Arrival, check_arrival, check_gradients, epochs_of, floating, planted_at

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task


#: Points whose gradient is taken at once; the memory needed grows with this number.
BATCH = 256


@dataclass(frozen=True)
class Gaussian:
    """Add fresh noise ``xi ~ N(0, sd^2 I)`` to the images or rows of random training points; labels stay.

    For each poisoned point i with clean input x_i and label y_i the score is

        z_i = -<grad_x loss(theta; x_i, y_i), xi_i> / (sd * ||grad_x loss||)

    with the model in eval mode. A model that never saw xi is independent of it, so its z_i are exactly independent
    N(0, 1), whatever the model. Training on x_i + xi_i lowers the loss along xi_i and moves their mean up. The audit
    judges the mean over the poisoned points, against retraining, and the sum of their squares, which must be one that
    an independent model could have.

    Deviations from the paper: the sign is reversed, so poisoning makes the score larger (the loss *falls* along the
    noise). Before the loss, the class scores of each point are divided by their standard deviation, held constant, so
    that no scaling of the last layer changes z_i (`poisons._gaussian.scale_free_loss`). The audit judges the mean, not
    the true-positive rate at 1 % false positives, because at these sizes the mean shows the same poison with far fewer
    seeds; the rate is reported beside it. As in the paper, the gradient is taken at the clean input; at the poisoned
    input the null law would not hold.

    Attributes:
        fraction: Share of the training set that is poisoned, in (0, 1).
        sd: Standard deviation of the noise, in the units of the inputs (pixels in [0, 1], or standard deviations of
            standardised columns). Not clipped.
        arrives: When the poisoned points are trained on: ``always``, ``early`` (in the first half of the epochs alone)
            or ``late`` (in the second half alone). The middle one of an odd number of epochs is in both halves.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    sd: float = 0.5
    arrives: Arrival = "always"

    modality: ClassVar[tuple[str, ...]] = ("image", "table")
    measure: ClassVar[Measure] = MEASURE
    traces: ClassVar[tuple[Measure, ...]] = (SECOND_MOMENT,)

    def __post_init__(self) -> None:
        check(self.fraction, self.sd)
        check_arrival(self.arrives)

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the noisy points; the noise itself is the secret ``"noise"``, in units of sd.

        Raises:
            UnlearningError: The task's inputs are not floating-point, have missing values, or are so large that the
                noise is lost in them; or the loss has no gradient by them.
        """
        import torch

        from harness import derive, forget_block

        name = floating(split, "gaussian")
        check_gradients(task, split, "gaussian")
        check_noise(split, name, self.sd)
        forget = forget_block(len(split.train), self.fraction, seed)
        clean = split.train.inputs[name][forget.to(split.train.device)].cpu()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(derive("gaussian", seed)))
        labels = split.train.labels[forget.to(split.train.device)].cpu()
        planted = planted_at(split, forget, clean + self.sd * noise, labels, noise=noise)
        return replace(planted, epochs=epochs_of(self.arrives, task))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the mean score, with what `gaussian_score` reports beside it."""
        import torch

        gradients: list[Tensor] = []
        for part in planted.forget.split(BATCH):
            batch = split.train.batch(part)
            # On the device of the data the batch is ours alone: asking for its gradient touches nothing else.
            values = batch.inputs[main_input(batch.inputs)].requires_grad_(True)
            with torch.enable_grad():
                gradients += torch.autograd.grad(scale_free_loss(task, model, batch), values)
        return gaussian_score(torch.cat(gradients), planted.secrets["noise"])
