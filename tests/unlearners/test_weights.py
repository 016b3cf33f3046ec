"""Every method on networks some of whose weights are frozen or take no part, and on a last batch of one point."""

from dataclasses import dataclass

import pytest
import torch
from labs import lab_in
from tiny import Tiny
from torch import nn

from harness import UnlearningError, registry
from harness.cells import Cell, Trial

METHODS = (
    "gd", "ngd", "ga", "euk", "cfk", "scrub", "neggrad_plus", "ssd", "undo", "rewind", "short", "retrain", "scrub_r",
    "salun", "l1_sparse", "bad_teacher", "msa", "influence", "potion", "certified", "graddiff", "npo", "simnpo", "rmu",
    "undial", "task_arithmetic",
)  # fmt: skip


class Adapter(nn.Module):
    """A frozen layer of random features, with an adapter of rank four beside it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(16, 32, bias=False).requires_grad_(False)
        self.down, self.up = nn.Linear(16, 4, bias=False), nn.Linear(4, 32, bias=False)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(torch.relu(self.base(x) + self.up(self.down(x))))


@dataclass(frozen=True)
class Adapted(Tiny):
    head: bool = True

    def new_model(self):
        model = Adapter()
        model.head.requires_grad_(self.head)
        return model

    def optimizer(self, model, lr=None):
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        return torch.optim.SGD(weights, self.lr if lr is None else lr, momentum=0.9)


class Spare(nn.Module):
    """A second head that is there for something else and takes no part."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(5, 5)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))


@dataclass(frozen=True)
class Unused(Tiny):
    def new_model(self):
        return Spare()


@dataclass(frozen=True)
class Normed(Tiny):
    batch_size: int = 43  # 216 points are kept: five batches and one point

    def new_model(self):
        first = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())
        return nn.Sequential(first, nn.Linear(16, 3))


def states(folder, task, name, poison="backdoor:size=1"):
    """Return the weights of a trial's models by arm."""
    method = registry.resolve("unlearner", name)
    trial = Trial(Cell(method, registry.register("task", task), registry.resolve("poison", poison)), 0)
    lab = lab_in(folder, budget=0.5)
    lab.run(trial)
    return {arm: lab.store.tensors(artefact) for arm, artefact in lab.models(trial).items()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("task", [Adapted(), Unused(), Normed()], ids=["frozen", "unused", "a batch of one"])
def test_every_method_serves_them(tmp_path, task, name):
    found = states(tmp_path, task, name)
    assert all(bool(tensor.isfinite().all()) for tensor in found["U"].values())
    if isinstance(task, Adapted) and name not in (
        "euk",
        "short",
        "retrain",
        "rewind",
    ):  # which begin from other features
        assert torch.equal(found["U"]["base.weight"], found["P"]["base.weight"])
    if isinstance(task, Unused) and name in (
        "ssd", "gd", "scrub", "salun", "bad_teacher", "influence", "potion", "graddiff", "npo", "simnpo", "rmu",
        "undial", "task_arithmetic",
    ):  # fmt: skip
        assert torch.equal(found["U"]["spare.weight"], found["P"]["spare.weight"])


@pytest.mark.parametrize("poison", ["targeted:steps=2,fraction=0.05", "indiscriminate:steps=2"])
@pytest.mark.parametrize("task", [Adapted(), Unused()], ids=["frozen", "unused"])
def test_crafted_poisons_serve_them(tmp_path, task, poison):
    assert states(tmp_path, task, "gd", poison)["P"]


@pytest.mark.parametrize("name", ["cfk:k=1", "euk:k=1"])
def test_blocks_without_a_weight_that_can_be_trained_are_refused(tmp_path, name):
    with pytest.raises(UnlearningError, match="k=1, but the last 1 blocks have no weights that can be trained"):
        states(tmp_path, Adapted(head=False), name)
