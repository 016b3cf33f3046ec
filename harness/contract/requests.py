"""The small problems on which an unlearner is examined: edge cases, and what hypothesis draws."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.training.data import Data

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from harness.api import Batch


CLASSES = 3


PASSES = 4  # of the little networks' own training


GENERATED = 12  # requests that hypothesis draws, beside the edge cases


@dataclass(frozen=True)
class Case:
    """A request, as it is generated.

    Attributes:
        retain, forget: Number of points to keep and to remove.
        batch_size: Of the recipe.
        seed: Of everything that is random.
        whole_class: Whether the forget set is all there is of one class.
    """

    retain: int = 40
    forget: int = 8
    batch_size: int = 16
    seed: int = 0
    whole_class: bool = False

    def __str__(self) -> str:
        of = ", a whole class" if self.whole_class else ""
        return (
            f"{self.retain} points to keep, {self.forget} to forget{of}, batches of {self.batch_size}, seed {self.seed}"
        )


#: What must work beside the ordinary, by line of the contract.
EDGES = {
    "ordinary-request": Case(),
    "one-point": Case(retain=30, forget=1, seed=1),
    "whole-class": Case(retain=30, forget=15, seed=2, whole_class=True),
    "large-batch": Case(retain=20, forget=5, batch_size=256, seed=3),
}


#: Requests on which a sound method shows what it does; the last one as large as methods with batches of their own need.
ORDINARY = (
    Case(),
    Case(seed=1),
    Case(retain=60, forget=4, batch_size=4, seed=2),
    Case(retain=640, forget=20, batch_size=64, seed=3),
)


class Net(nn.Module):
    """Two convolutions with batch normalisation, and a linear head."""

    def __init__(self) -> None:
        super().__init__()

        def convolution(channels: int, out: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

        self.first, self.second = convolution(1, 6), convolution(6, 8)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.second(self.first(images)))
        return scores


@dataclass
class LittleRecipe:
    """The recipe of the little networks."""

    batch_size: int
    epochs: int

    def new_model(self) -> nn.Module:
        return Net()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        scores: Tensor = model(batch.inputs["image"])
        return scores

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(logits, batch.labels)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> Optimizer:
        return torch.optim.SGD(model.parameters(), 0.05 if lr is None else lr, momentum=0.9, weight_decay=5e-4)

    def schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return list(model.children())


@dataclass(frozen=True)
class Problem:
    """The data of a case, the model trained on all of them, and its checkpoints by pass."""

    retain: Data
    forget: Data
    checkpoints: tuple[dict[str, Tensor], ...]


def parted(data: Data, first: int) -> tuple[Data, Data]:
    """Return copies of the first so many points and of the rest."""
    index = torch.arange(len(data))
    return data.subset(index[:first]), data.subset(index[first:])


def joined(first: Data, second: Data) -> Data:
    inputs = {name: torch.cat([tensor, second.inputs[name]]) for name, tensor in first.inputs.items()}
    return Data(inputs, torch.cat([first.labels, second.labels]))


@functools.cache
def generated(count: int) -> tuple[Case, ...]:
    """Return requests that hypothesis draws; once in a process, so that every line is tried on the same ones."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    drawn: list[Case] = []

    def keep(case: Case) -> None:
        drawn.append(case)

    cases = st.builds(
        Case, retain=st.integers(20, 60), forget=st.integers(1, 20), batch_size=st.sampled_from([4, 7, 16, 64]),
        seed=st.integers(4, 999),
    )  # fmt: skip
    settings(
        max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(cases)(keep))()  # fmt: skip
    return tuple(drawn)
