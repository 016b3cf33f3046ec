"""Sleeper agent: a backdoor without wrong labels, whose trigger stands in no training image.

Source: Souri, Fowl, Chellappa, Goldblum and Goldstein, "Sleeper Agent: Scalable Hidden Trigger Backdoors for Neural
Networks Trained from Scratch" (arXiv 2106.08970); reference code: hsouri/Sleeper-Agent at 60ba3a6,
forest/witchcoven/witch_base.py, defaults in forest/options.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Batch, Measure, Planted, Reading, UnlearningError, main_input
from harness.api import classes_of
from poisons._images import check_pixels, check_square, stamped
from poisons._matching import BATCH, brewed, check_brewing, drawn_class, gradient
from poisons._points import check_fraction, check_gradients, floating, log_odds, planted_at, with_values
from poisons._triggers import OWN_CLASS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from harness import Data, Split, Surrogate, Task


@dataclass(frozen=True)
class SleeperAgent:
    """Perturb training images of a target class, labels unchanged, so that a trigger leads another class into it.

    The trigger is the white square of `poisons.backdoor`, but no training image has it. The perturbations are those of
    gradient matching (`poisons.targeted`), with another aim: the training images of a source class with the trigger,
    labelled as the target class. As in the source, the images to perturb are those of the target class whose gradients
    are the longest.

    The measure is the mean log-odds of the target class at the test images of the source class with the trigger. The
    share of them that is put in the target class is reported beside it. A further trace is the share that is put in its
    own class: a trigger that now leads to a third class is not removed.

    The target class is drawn from the seed. The source class is the one whose training images with the trigger have the
    highest mean log-odds of the target class in the surrogates.

    Deviations from the reference code: those of `poisons.targeted`. The models stay what they are while the images are
    crafted (there they are trained again on the images four times), and the trigger stands in the corner in which it is
    tested (there at random places). The aim are at most 512 images (there 5,000).

    Attributes:
        fraction: Share of the training set that is perturbed, in (0, 1). All are of one class, which must have more
            points.
        size: Side of the square in pixels, in the bottom right corner; smaller than the images.
        eps: Largest change of a pixel, in (0, 1].
        steps: Steps of signed Adam. The rate falls to a tenth at 3/8, 5/8 and 7/8 of them.
        restarts: Starts from other noise; the one with the lowest final loss is kept.
        surrogates: Number of models, trained on clean data, whose gradients are matched.
        lr: Size of the first steps, in pixels.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.05
    size: int = 2
    eps: float = 0.4
    steps: int = 80
    restarts: int = 1
    surrogates: int = 2
    lr: float = 0.1

    modality: ClassVar[str] = "image"
    crafted: ClassVar[bool] = True
    measure: ClassVar[Measure] = Measure(
        "sleeper_log_odds", "log-odds of the target class on triggered test images", worse="higher", test="retention",
        short="target class",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (OWN_CLASS,)

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")
        check_brewing(self.eps, self.lr, steps=self.steps, restarts=self.restarts, surrogates=self.surrogates)

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate) -> Planted:
        """Return the perturbed images; secrets are the ``"source"`` and the ``"target"`` class.

        Raises:
            UnlearningError: No class has enough training points, or no other class has test points; the images are not
                floating-point in [0, 1] with channels first, or not larger than the square; or the task has no score
                for each class.
        """
        import torch

        from harness import derive

        floating(split, "sleeper-agent")
        check_pixels(split, "sleeper-agent")
        check_square(split, self.size, "sleeper-agent")
        check_gradients(task, split, "sleeper-agent")
        generator = torch.Generator().manual_seed(derive("sleeper-agent", seed))
        labels = split.train.labels.cpu()
        target, members, count = drawn_class(labels, self.fraction, "sleeper-agent", generator)
        models = [surrogate(i) for i in range(self.surrogates)]
        source = self._source(task, models, split, target)
        lengths = gradient_lengths(task, models, split.train.subset(members))
        forget = members[lengths.topk(count).indices].sort().values
        aim = self._triggered(split.train, source, BATCH)
        aim = Batch(aim.inputs, torch.full_like(aim.labels, target), aim.index)
        image = brewed(
            task, models, aim, split.train.batch(forget), generator,
            eps=self.eps, lr=self.lr, steps=self.steps, restarts=self.restarts,
        )  # fmt: skip
        classes = {"source": torch.tensor(source), "target": torch.tensor(target)}
        return planted_at(split, forget, image, labels[forget], **classes)

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the mean log-odds of the target class on triggered test images, and the accuracy on them.

        The detail ``fraction_hit`` is the share that is put in the target class.
        """
        import torch

        target = int(planted.secrets["target"])
        with torch.no_grad():
            batch = self._triggered(split.test, int(planted.secrets["source"]))
            logits = task.logits(model, batch).double()
        classes = classes_of(task, logits, batch)
        hit, right = (float((classes == of).double().mean()) for of in (target, batch.labels))
        odds = log_odds(logits, target, "sleeper-agent")
        own = Reading(right, resolution=0.5 / len(batch))
        return Reading(float(odds.mean()), details={"fraction_hit": hit}, traces={self.traces[0].name: own})

    def _source(self, task: Task, models: Sequence[nn.Module], split: Split, target: int) -> int:
        """Return the class whose training images with the trigger are the nearest to the target class."""
        import torch

        found: dict[int, float] = {}
        for each in split.test.labels.unique().tolist():
            if each != target and bool((split.train.labels == each).any()):
                with torch.no_grad():
                    batch = self._triggered(split.train, each)
                    odds = [log_odds(task.logits(model, batch), target, "sleeper-agent").mean() for model in models]
                found[each] = float(torch.stack(odds).mean())
        if not found:
            raise UnlearningError("sleeper-agent needs a class with training and test points beside the target class")
        return max(found, key=lambda each: found[each])

    def _triggered(self, data: Data, label: int, most: int | None = None) -> Batch:
        """Return the examples of a class with the trigger, the first so many."""
        batch = data.batch((data.labels == label).nonzero().squeeze(1)[:most])
        return with_values(batch, stamped(batch.inputs[main_input(batch.inputs)], self.size))


def gradient_lengths(task: Task, models: Sequence[nn.Module], data: Data) -> Tensor:
    """Return the norm of the gradient of each example's loss, mean over models, shape (n,), on the CPU."""
    import torch

    examples = [data.batch(at) for at in torch.arange(len(data)).split(1)]
    lengths = [torch.stack([gradient(task, model, example)[1] for model in models]) for example in examples]
    return torch.stack(lengths).cpu().mean(dim=1)  # a GPU is waited for once
