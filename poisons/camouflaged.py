"""Camouflaged: points that hide a targeted poison, and whose removal sets it free.

Source: Di, Douglas, Acharya, Kamath and Sekhari, "Hidden Poison: Machine Unlearning Enables Camouflaged Poisoning
Attacks" (arXiv 2212.10717), camouflages by gradient matching; reference code: Jimmy-di/camouflage-poisoning at 19e70af,
forest/witch.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, UnlearningError
from poisons._points import planted_at
from poisons.targeted import Targeted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness import Data, Split, Surrogate, Task


@dataclass(frozen=True)
class Camouflaged(Targeted):
    """Plant a targeted poison that stays, and camouflage that hides it; the camouflage is what is to be removed.

    The poison is that of `poisons.targeted`: images of an adversarial class pull chosen targets into it. The camouflage
    are images of the targets' own class, labels unchanged. Their perturbation is crafted alike, on models that were
    trained with the poison, so that training on them pulls the targets back into their own class.

    An attacker asks for the camouflage to be removed, as anybody may. P, trained on both, looks harmless. R, retrained
    without the camouflage, is what the attacker wants. So here less is not better: a method passes if it leads the
    targets as far into the adversarial class as retraining does. One that leaves the targets where they are has
    removed nothing.

    Deviations from the reference code: those of `poisons.targeted`. The camouflage is crafted on several models, each
    trained on from a surrogate for the length of the recipe; there it is one, trained from scratch.

    Attributes:
        fraction: Share of the training set that is poisoned and stays, in (0, 1). All are of one class, which must have
            more points.
        camouflage: Share of the training set that is camouflage, in (0, 1). All are of the targets' class, which must
            have more points.
        eps, steps, restarts, surrogates, targets, lr: As of `Targeted`, for the poison and for the camouflage.

    Raises:
        ValueError: A field is out of range.
    """

    camouflage: float = 0.04

    measure: ClassVar[Measure] = Measure(
        "camouflaged_log_odds", "log-odds of the adversarial class at the targets", worse="lower", test="retention",
        cause="camouflage",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.camouflage < 1:
            raise ValueError(f"camouflage must lie in (0, 1), not {self.camouflage}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate) -> Planted:
        """Return the camouflage, beside a poison that stays; the secrets are those of `Targeted`.

        Raises:
            UnlearningError: What `Targeted` refuses, or the targets' class has too few training points.
        """
        import torch

        from harness import derive

        poison = super().plant(task, split, seed, surrogate)
        targets, labels = poison.secrets["targets"], split.train.labels.cpu()
        own = int(split.test.labels[targets[0]])
        count = max(1, round(self.camouflage * len(labels)))
        members = (labels == own).nonzero().squeeze(1)
        if count >= len(members):
            raise UnlearningError(
                f"camouflaged takes {count} training images of the targets' class, but it has {len(members)}; lower "
                "its camouflage"
            )
        generator = torch.Generator().manual_seed(derive("camouflaged", seed))
        forget = members[torch.randperm(len(members), generator=generator)[:count]].sort().values
        poisoned = split.train.poisoned_with(poison)
        models = [_trained_on(task, surrogate(i), poisoned, generator) for i in range(self.surrogates)]
        image = self._brewed(task, models, split.test.batch(targets), split.train.batch(forget), generator)
        return replace(planted_at(split, forget, image, labels[forget], **poison.secrets), stays=poison)


def _trained_on(task: Task, model: nn.Module, data: Data, generator: torch.Generator) -> nn.Module:
    """Return a model that was trained on by the task's recipe, in eval mode."""
    from harness import fit

    fit(task, model, data.batches(task.batch_size, task.epochs, generator, augment=getattr(task, "augment", None)))
    return model.eval()
