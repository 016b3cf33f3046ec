"""Indiscriminate: poison images at which a model that is bad on everything is a stationary point of training.

Source: Lu, Kamath and Yu, "Exploring the Limits of Model-Targeted Indiscriminate Data Poisoning Attacks"
(arXiv 2303.03592), Gradient Canceling, with the target parameters of GradPC: Sun et al., "Exploring the Vulnerability
of Deep Neural Networks: A Study of Parameter Corruption" (arXiv 2006.05620). Reference code: watml/plim at 03a54a7,
GradPC/attacker.py and GradPC/grad_attack.py, GC/mnist_cnn-0.03.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness import Batch, Measure, Planted, Reading, UnlearningError, main_input, predicted
from poisons._crafting import descended
from poisons._images import check_pixels
from poisons._points import check_fraction, check_gradients, floating, planted_at, with_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task

#: Poison images whose gradient is differentiated at once; the memory needed grows with this number.
BATCH = 512


@dataclass(frozen=True)
class Indiscriminate:
    """Replace random training images so that training stops at parameters that are bad; labels stay.

    First, GradPC corrupts the parameters of a model that was trained on clean data. In one pass over mini-batches, it
    ascends the loss along each batch's gradient g and stays within an L2 ball of radius r,

        a <- a + lr g / ||g||,    a <- a min(1, r / ||a||),    theta = theta_clean + a.

    Then, Gradient Canceling makes theta stationary for whoever trains on kept points D and poisoned points x:

        min_x || sum_{(u, v) in D} grad_theta loss(theta; u, v) + sum_i grad_theta loss(theta; x_i, y_i) ||^2.

    The measure is test accuracy, in [0, 1]. The effect is the accuracy that poisoning takes away.

    Deviations from the reference code:

    * Poisoned points *replace* clean ones, drawn at random; there they are added. So the clean sum runs over the points
      that are kept.
    * The gradients of all parameters are canceled, as in the paper's equation; its code for networks cancels only that
      of the first tensor.
    * The optimiser is Adam over all steps, with the same cosine decay to zero; there it is plain gradient descent until
      the loss is below 1.
    * The corruption takes shorter steps, the floating point is the task's (there: double), and the model is in eval
      mode throughout.

    As there, images leave the range of clean ones unless ``clip`` is set. Clipped, the poison costs only one point of
    accuracy on digits. The poison can only be as good as training is at finding the target.

    Attributes:
        fraction: Share of the training set that is replaced, in (0, 1).
        radius: Largest L2 norm of the change from the clean parameters to the target.
        steps: Steps of Adam over the poison images.
        lr: Size of the first step, in the units of the inputs (pixels in [0, 1]).
        ascent: L2 norm of the corruption's step on one mini-batch (1 in the reference code).
        clip: Whether images stay within the range of the clean ones.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    radius: float = 0.4
    steps: int = 600
    lr: float = 0.3
    ascent: float = 0.1
    clip: bool = False

    modality: ClassVar[str] = "image"
    crafted: ClassVar[bool] = True
    # The name exempts its cells from the audit of accuracy, which would judge the same numbers a second time.
    measure: ClassVar[Measure] = Measure("accuracy", "test accuracy", worse="lower", test="retention", unit="%")

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        for name in ("radius", "lr", "ascent"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate) -> Planted:
        """Return the crafted images, with the labels of the images that they replace.

        Raises:
            UnlearningError: The images are not floating-point in [0, 1] with channels first, or the surrogate or the
                search for images diverged.
        """
        import torch

        from harness import derive, forget_block

        train, name = split.train, floating(split, "indiscriminate")
        check_pixels(split, "indiscriminate")
        check_gradients(task, split, "indiscriminate")
        forget = forget_block(len(train), self.fraction, seed)
        keep = torch.ones(len(train), dtype=torch.bool)
        keep[forget] = False
        model = surrogate(0)
        generator = torch.Generator().manual_seed(derive("indiscriminate", seed))
        corrupt(task, model, train.batches(task.batch_size, 1, generator), self.radius, self.ascent)
        kept = gradient_sum(task, model, train.subset(keep.nonzero().squeeze(1)).chunks())
        if not all(bool(g.isfinite().all()) for g in kept):
            raise UnlearningError(
                "indiscriminate needs the gradients of a model trained on clean data, but they are not finite; "
                "lower the task's learning rate"
            )
        image = self._cancel(task, model, train.batch(forget), kept, span(train.inputs[name]))
        if not bool(image.isfinite().all()):
            raise UnlearningError("indiscriminate found no finite images; lower its lr")
        return planted_at(split, forget, image.cpu(), train.labels.cpu()[forget])

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return test accuracy."""
        import torch

        test = split.test
        with torch.no_grad():
            correct = sum(int((predicted(task, model, b) == b.labels).sum()) for b in test.chunks())
        return Reading(correct / len(test), resolution=0.5 / len(test))

    def _cancel(
        self, task: Task, model: nn.Module, clean: Batch, kept: Sequence[Tensor], limits: tuple[float, float]
    ) -> Tensor:
        """Return images that cancel the gradient of the kept points; the search starts from the clean images."""
        import torch

        def slope(image: Tensor) -> Tensor:
            return _canceled(task, model, clean, image, kept)[1]

        def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)

        start = clean.inputs[main_input(clean.inputs)]
        return descended(start, slope, self.lr, self.steps, schedule, limits if self.clip else None)


def span(images: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest pixel."""
    return float(images.min()), float(images.max())


def corrupt(task: Task, model: nn.Module, batches: Iterable[Batch], radius: float, ascent: float) -> None:
    """Raise the loss of a model in eval mode, in place, within an L2 ball around its parameters."""
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    start = [w.detach().clone() for w in weights]
    for batch in batches:
        gradient = gradient_sum(task, model, [batch])
        slope = norm(gradient)
        if not slope > 0:
            continue  # a loss of exactly zero has no direction
        with torch.no_grad():
            attack = [w - s + g * (ascent / slope) for w, s, g in zip(weights, start, gradient, strict=True)]
            shrink = min(1.0, radius / norm(attack))
            for w, s, a in zip(weights, start, attack, strict=True):
                w.copy_(s + shrink * a)


def gradient_sum(
    task: Task, model: nn.Module, batches: Iterable[Batch], differentiable: bool = False
) -> tuple[Tensor, ...]:
    """Return the gradient of the loss by the model's parameters, summed over the examples of all batches."""
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    total = tuple(torch.zeros_like(w) for w in weights)
    for batch in batches:
        loss = task.criterion(task.logits(model, batch), batch) * len(batch)
        found = torch.autograd.grad(
            loss, weights, create_graph=differentiable, allow_unused=True, materialize_grads=True
        )
        total = tuple(t + g for t, g in zip(total, found, strict=True))
    return total


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the L2 norm over all elements of all tensors."""
    import torch

    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def residual(task: Task, model: nn.Module, clean: Batch, image: Tensor, kept: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Return the squared norm of the summed gradient of kept and poisoned points, and its gradient by the images.

    Args:
        task: Provides the loss.
        model: The target, in eval mode.
        clean: Provides the poison images' labels.
        image: The poison images.
        kept: Summed gradient of the kept points.
    """
    left, slope = _canceled(task, model, clean, image, kept)
    return norm(left) ** 2, slope


def _canceled(
    task: Task, model: nn.Module, clean: Batch, image: Tensor, kept: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """As `residual`, with the summed gradient in place of its norm: a GPU is not waited for."""
    import torch

    parts = torch.arange(len(image), device=image.device).split(BATCH)
    poisoned = gradient_sum(task, model, [with_values(clean, image[part], part) for part in parts])
    left = [k + p for k, p in zip(kept, poisoned, strict=True)]
    slope = torch.zeros_like(image)
    # The sum is linear in the parts: each needs only its own product with what is left, and its own graph.
    for part in parts:
        leaf = image[part].detach().requires_grad_(True)
        found = gradient_sum(task, model, [with_values(clean, leaf, part)], differentiable=True)
        product = torch.stack([(f * w).sum() for f, w in zip(found, left, strict=True)]).sum()
        slope[part] = 2 * torch.autograd.grad(product, leaf)[0]
    return left, slope
