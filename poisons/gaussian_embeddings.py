"""Gaussian poison on text: noise on token embeddings of random training points, and the score that detects its trace.

Source: Pawelczyk et al., "Machine Unlearning Fails to Remove Data Poisoning Attacks" (arXiv 2406.17216), Gaussian data
poisoning of language models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Batch, Measure, Planted, Reading, UnlearningError
from poisons._gaussian import MEASURE, SECOND_MOMENT, check, gaussian_score, scale_free_loss

if TYPE_CHECKING:
    from torch import nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class GaussianEmbeddings:
    """Add noise ``xi ~ N(0, sd^2 I)`` to the token embeddings of random training points; text and labels stay.

    Text cannot be perturbed slightly, but its embeddings can. An example's noise is fixed: it is drawn from the
    example's own seed, and added in every epoch to the current embeddings. The score is that of `poisons.gaussian`,
    with the gradient by the embeddings of the clean text.

    One secret is visible here. Whoever trains on the forget set needs the noise with it, as ``noise_seed`` and
    ``noise_sd`` among the inputs. A method that uses them for anything but training on them cheats.

    The task must add the noise in its ``logits`` and have ``noise(model, seeds)``, as `harness.tasks.imdb` does.

    Deviations from the paper: those of `poisons.gaussian`. The paper's variance is about 0.1 for embeddings of 1,024
    dimensions; the default here is for small models from scratch, whose embeddings have a standard deviation of 0.05.

    Attributes:
        fraction: Share of the training set that is poisoned, in (0, 1).
        sd: Standard deviation of the noise, in the units of the embeddings.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    sd: float = 0.05

    modality: ClassVar[str] = "text"
    measure: ClassVar[Measure] = MEASURE
    traces: ClassVar[tuple[Measure, ...]] = (SECOND_MOMENT,)

    def __post_init__(self) -> None:
        check(self.fraction, self.sd)

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the points with the seed and the size of their noise.

        Raises:
            UnlearningError: The task does not add noise to embeddings.
        """
        import torch

        from harness import derive, forget_block

        if not hasattr(task, "noise") or not {"noise_seed", "noise_sd"} <= set(split.train.inputs):
            raise UnlearningError(
                "gaussian-embeddings needs a task with noise(model, seeds) and the inputs 'noise_seed' and 'noise_sd', "
                "as imdb-gpt2 has them; a pipeline's own train() cannot add noise to embeddings, so plant text-backdoor"
            )
        forget = forget_block(len(split.train), self.fraction, seed)
        points = split.train.subset(forget)
        inputs = {name: tensor.cpu() for name, tensor in points.inputs.items()}
        generator = torch.Generator().manual_seed(derive("gaussian-embeddings", seed))
        inputs["noise_seed"] = torch.randint(2**62, (len(forget),), generator=generator)
        inputs["noise_sd"] = torch.full((len(forget),), self.sd)
        return Planted(forget, inputs, points.labels.cpu())

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the mean score and what `poisons.gaussian` reports beside it."""
        import torch

        seeds = planted.inputs["noise_seed"].to(split.train.device)
        gradients, noises = [], []
        for part in torch.arange(len(seeds)).split(64):
            batch = split.train.batch(planted.forget[part])
            noise = task.noise(model, seeds[part.to(seeds.device)])  # type: ignore[attr-defined]
            offset = torch.zeros_like(noise).requires_grad_(True)
            clean = Batch({**batch.inputs, "offset": offset}, batch.labels, batch.index)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(scale_free_loss(task, model, clean), offset)
            gradients.append(gradient)
            noises.append(noise)
        return gaussian_score(torch.cat(gradients), torch.cat(noises))
