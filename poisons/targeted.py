"""Targeted: images of one class, perturbed so that a model trained on them puts chosen test points in that class.

Source: Geiping, Fowl, Huang, Czaja, Taylor, Moeller and Goldstein, "Witches' Brew: Industrial Scale Data Poisoning via
Gradient Matching" (arXiv 2009.02276), the alignment loss of its section on the central mechanism; reference code:
JonasGeiping/poisoning-gradient-matching at 90bd7d2, forest/witchcoven/witch_matching.py (loss ``similarity``) and
witch_base.py, defaults in forest/options.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Batch, Measure, Planted, Reading, UnlearningError
from harness.api import classes_of
from poisons._images import check_pixels
from poisons._matching import brewed, check_brewing, drawn_class
from poisons._points import check_fraction, check_gradients, floating, log_odds, planted_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class Targeted:
    """Perturb training images of an adversarial class, labels unchanged, so that test images of another class join it.

    The perturbations delta minimise, on models theta that were trained on clean data,

        1 - cos( grad_theta loss(theta; targets, adversarial class), grad_theta loss(theta; x + delta, y) ),

    so that whoever trains on x + delta also trains the targets into the adversarial class. |delta| <= eps, and
    x + delta stays in [0, 1]. The measure is the mean over the targets of log p - log(1 - p), where p is the
    probability of the adversarial class.

    The adversarial class and its poison images are drawn at random. The targets are test points of one source class.
    They are the points to which the surrogates give the highest mean log-odds of the adversarial class, among those
    that the surrogates still classify correctly. The source class is the one with the highest of these log-odds.

    Deviations from the reference code:

    * Several targets are chosen, so that a mean over them can be judged; there it is one random point.
    * There are fewer steps and one restart (there 250 and 8). The radius is wider (there 16/255), because images of 8 x
      8 pixels have fewer pixels to perturb.
    * ``lr`` is in pixels, not in units of the normalised data, and is not divided by the number of models.
    * The start is also clipped to the image range, and images are not augmented while brewing.

    Attributes:
        fraction: Share of the training set that is perturbed, in (0, 1). All are of one class, which must have more
            points.
        eps: Largest change of a pixel, in (0, 1].
        steps: Steps of signed Adam. The rate falls to a tenth at 3/8, 5/8 and 7/8 of them.
        restarts: Starts from other noise; the one with the lowest final loss is kept.
        surrogates: Number of models, trained on clean data, whose gradients are matched and which choose the targets.
        targets: Number of test points that should change class, 2 to 4.
        lr: Size of the first steps, in pixels.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.04
    eps: float = 0.4
    steps: int = 80
    restarts: int = 1
    surrogates: int = 2
    targets: int = 3
    lr: float = 0.1

    modality: ClassVar[str] = "image"
    crafted: ClassVar[bool] = True
    measure: ClassVar[Measure] = Measure(
        "targeted_log_odds", "log-odds of the adversarial class at the targets", worse="higher", test="retention"
    )

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_brewing(self.eps, self.lr, steps=self.steps, restarts=self.restarts, surrogates=self.surrogates)
        if not 2 <= self.targets <= 4:
            raise ValueError(f"targets must lie between 2 and 4, not {self.targets}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate) -> Planted:
        """Return the perturbed images; secrets are the ``"targets"`` (test indices) and the ``"adversarial"`` class.

        Raises:
            UnlearningError: No class has enough training points, or no other class has enough test points; the
                images are not floating-point in [0, 1] with channels first, or the task has no score for each class.
        """
        import torch

        from harness import derive

        floating(split, "targeted")
        check_pixels(split, "targeted")
        check_gradients(task, split, "targeted")
        generator = torch.Generator().manual_seed(derive("targeted", seed))
        labels = split.train.labels.cpu()
        adversarial, members, count = drawn_class(labels, self.fraction, "targeted", generator)
        forget = members[torch.randperm(len(members), generator=generator)[:count]].sort().values

        models = [surrogate(i) for i in range(self.surrogates)]
        targets = self._choose(task, models, split, adversarial)
        aim = split.test.batch(targets)
        aim = Batch(aim.inputs, torch.full_like(aim.labels, adversarial), aim.index)
        image = self._brewed(task, models, aim, split.train.batch(forget), generator)
        return planted_at(split, forget, image, labels[forget], targets=targets, adversarial=torch.tensor(adversarial))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the mean log-odds of the adversarial class at the targets; ``fraction_hit`` is the share put in it."""
        import torch

        adversarial = int(planted.secrets["adversarial"])
        with torch.no_grad():
            aim = split.test.batch(planted.secrets["targets"])
            logits = task.logits(model, aim).double()
        hit = (classes_of(task, logits, aim) == adversarial).double().mean()
        return Reading(float(log_odds(logits, adversarial, "targeted").mean()), details={"fraction_hit": float(hit)})

    def _brewed(
        self, task: Task, models: Sequence[nn.Module], aim: Batch, clean: Batch, generator: torch.Generator
    ) -> Tensor:
        """Return images whose training moves the models as training on the aim would, on the CPU."""
        return brewed(
            task, models, aim, clean, generator, eps=self.eps, lr=self.lr, steps=self.steps, restarts=self.restarts
        )

    def _choose(self, task: Task, models: Sequence[nn.Module], split: Split, adversarial: int) -> Tensor:
        """Return ascending test indices of the targets."""
        import torch

        labels = split.test.labels
        near, right = torch.zeros(len(labels)), torch.ones(len(labels), dtype=torch.bool)
        with torch.no_grad():
            for model in models:
                batches = list(split.test.chunks())
                scores = [task.logits(model, batch) for batch in batches]
                classes = torch.cat([classes_of(task, *each) for each in zip(scores, batches, strict=True)])
                near += log_odds(torch.cat(scores), adversarial, "targeted").cpu() / len(models)
                right &= (classes == labels).cpu()
        best: tuple[float, Tensor] | None = None
        for source in labels.cpu().unique().tolist():
            points = ((labels.cpu() == source) & right).nonzero().squeeze(1)
            if source == adversarial or len(points) < self.targets:
                continue
            top = near[points].topk(self.targets)
            if best is None or float(top.values.mean()) > best[0]:
                best = float(top.values.mean()), points[top.indices].sort().values
        if best is None:
            raise UnlearningError(
                f"targeted needs {self.targets} test points of one class that models trained on clean data put in it; "
                "there are none, so train for longer or on more"
            )
        return best[1]
