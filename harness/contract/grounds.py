"""What the contract is examined on: little networks on generated images, or a task's own models and rows."""

from __future__ import annotations

import functools
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from harness.cells import Registered
from harness.contract.requests import CLASSES, PASSES, Case, LittleRecipe, Net, Problem, joined, parted
from harness.store.artefacts import patiently
from harness.training.data import Data
from harness.training.isolation import isolated_rng
from harness.training.loop import fit

if TYPE_CHECKING:
    from harness.api import Recipe
    from harness.training.data import Split
    from harness.trials.datasets import Datasets


class Ground(Protocol):
    """Where requests and models come from.

    Attributes:
        classes: Number of classes.
        network: The class of its models.
        trainable: Names of their parameters that require gradients.
        counted: Whether the meter counts what a method computes.
        weighed: Whether results are compared by their weights; if not, by their scores.
    """

    network: type[nn.Module]
    counted: bool
    weighed: bool

    @property
    def classes(self) -> int: ...
    @property
    def trainable(self) -> frozenset[str]: ...

    def recipe(self, case: Case, epochs: int) -> Recipe:
        """Return the recipe of a request."""

    def points(self, case: Case) -> tuple[Data, Data]:
        """Return the points to keep and those to remove."""

    def problem(self, case: Case) -> Problem:
        """Return the points with a model that is trained on all of them; the same one for the same case."""


class LittleImages:
    """Little networks on generated images of three classes."""

    classes = CLASSES
    network: type[nn.Module] = Net
    counted = weighed = True

    @cached_property
    def trainable(self) -> frozenset[str]:
        with isolated_rng(0):
            return frozenset(name for name, _ in Net().named_parameters())

    def recipe(self, case: Case, epochs: int) -> Recipe:
        return LittleRecipe(case.batch_size, epochs)

    def points(self, case: Case) -> tuple[Data, Data]:
        """Return the points to keep and those to remove."""
        generator = torch.Generator().manual_seed(case.seed)
        n = case.retain + case.forget
        truth = torch.arange(n) % CLASSES
        if case.whole_class:  # the last class is what is forgotten
            truth = torch.cat([torch.arange(case.retain) % (CLASSES - 1), torch.full((case.forget,), CLASSES - 1)])
        images = torch.randn(CLASSES, 1, 8, 8, generator=generator)[truth] + 0.5 * torch.randn(
            n, 1, 8, 8, generator=generator
        )
        labels = truth.clone()
        if not case.whole_class:
            labels[case.retain :] = (labels[case.retain :] + 1) % CLASSES
        return parted(Data({"image": images}, labels), case.retain)

    @functools.lru_cache(maxsize=512)  # noqa: B019 - there is one of it
    def problem(self, case: Case) -> Problem:
        retain, forget = self.points(case)
        checkpoints: list[dict[str, Tensor]] = []
        with isolated_rng(case.seed):
            recipe = LittleRecipe(case.batch_size, PASSES)
            model = recipe.new_model()

            def keep(model: nn.Module, *_: int) -> None:
                checkpoints.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

            keep(model)
            order = torch.Generator().manual_seed(case.seed)
            fit(recipe, model, joined(retain, forget).batches(case.batch_size, PASSES, order), keep)
        return Problem(retain, forget, tuple(checkpoints))


class OfTask:
    """A task's own models, trained by its own loop on a few of its rows."""

    counted = weighed = False

    def __init__(self, task: Registered, datasets: Datasets | None = None) -> None:
        self._of = task
        self._task: Any = task.value
        self._datasets = datasets
        model = self._task.new_model()
        self.network = type(model)
        self.trainable = frozenset(name for name, each in model.named_parameters() if each.requires_grad)
        self._problems: dict[Case, Problem] = {}

    @cached_property
    def _split(self) -> Split:
        if self._datasets is None:
            split: Split = self._task.load(None)
            return split
        return patiently(functools.partial(self._datasets.split, self._of))

    @property
    def classes(self) -> int:
        return self._split.classes

    def recipe(self, case: Case, epochs: int) -> Recipe:
        recipe: Recipe = self._task
        return recipe

    def points(self, case: Case) -> tuple[Data, Data]:
        train, classes = self._split.train, self.classes
        generator = torch.Generator().manual_seed(case.seed)
        order = torch.randperm(len(train), generator=generator)
        of = [order[train.labels[order] == label] for label in range(classes)]
        if case.whole_class and classes > 2:  # the last class is what is forgotten; one class alone is no task
            index = torch.cat([_in_turn(of[:-1], case.retain), _in_turn(of[-1:], case.forget)])
        else:
            index = _in_turn(of, case.retain + case.forget)
        data = train.subset(index)
        if not (case.whole_class and classes > 2):
            data.labels[case.retain :] = (data.labels[case.retain :] + 1) % classes
        return parted(data, case.retain)

    def problem(self, case: Case) -> Problem:
        if case not in self._problems:
            retain, forget = self.points(case)
            with isolated_rng(case.seed):
                model = self._task.train(joined(retain, forget), case.seed)
            self._problems[case] = Problem(retain, forget, (model.state_dict(),))
        return self._problems[case]


def _in_turn(of: list[Tensor], n: int) -> Tensor:
    """Return so many places, of every class in turn; again from the first where a class has too few."""
    return torch.stack([of[k % len(of)][k // len(of) % len(of[k % len(of)])] for k in range(n)])
