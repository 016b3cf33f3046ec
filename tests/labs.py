"""What the tests that run trials share: a lab on the CPU, the tiny task, controls by name, methods that are watched."""

import json
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch

from harness import ForgetRequest, Measure, Planted, Reading, registry
from harness.cells import Cell, Registered, Trial
from harness.isolated import walls
from harness.trials.lab import Lab

TINY = registry.resolve("task", "tiny:Tiny")
BACKDOOR = registry.resolve("poison", "backdoor")
GAUSSIAN = registry.resolve("poison", "gaussian")
NAMES = ("identity", "retrain", "wrecked", "short", "gd", "rewind:to=0.1")
IDENTITY, RETRAIN, WRECKED, SHORT, GD, REWIND = (registry.resolve("unlearner", name) for name in NAMES)
CPU = torch.device("cpu")
#: Marks what needs the walls of isolated methods.
BEHIND_WALLS = pytest.mark.skipif(bool(walls.missing()), reason=f"this system lacks {walls.missing()}")


def method(function, name="method"):
    """Register a function; several of one test are told apart by name."""
    found = registry.register("unlearner", function)
    return Registered("unlearner", name, name, function, {}, "(local)", "", found.source)


def lab_in(folder, run="run", **options):
    return Lab.open(folder, device="cpu", run=run, **options)


def trial(unlearner, poison=BACKDOOR, seed=0):
    return Trial(Cell(unlearner, TINY, poison), seed)


@dataclass(frozen=True)
class Plain:
    """A poison of which nothing is drawn from `forget_block`, for contracts of poisons."""

    forget: tuple[int, ...] = (1, 5)
    rows: int = 2
    name: str = "image"

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure("plain", "plain", worse="higher", test="retention")

    def plant(self, task, split, seed, surrogate=None):
        shape = (self.rows, *split.train.inputs["image"].shape[1:])
        return Planted(
            torch.tensor(self.forget, dtype=torch.int64),
            {self.name: torch.zeros(shape)},
            torch.zeros(2, dtype=torch.int64),
        )

    def probe(self, model, planted, task, split):
        return Reading(0.5, details={"strange": float("inf")})


@dataclass(eq=False)
class Watch:
    """An unlearner that keeps what it was handed; what it does next is a function's business."""

    repeatable: ClassVar[bool] = False  # so that the last request it saw is the last trial's
    then: object = None
    seen: list = field(default_factory=list, repr=False)

    def __call__(self, model, request):
        self.seen.append((model, request, {k: v.clone() for k, v in model.state_dict().items()}, model.training))
        return model if self.then is None else self.then(model, request)

    @property
    def request(self) -> ForgetRequest:
        return self.seen[-1][1]


def built(lab, *args, **kwargs):
    return lab.run(trial(*args, **kwargs)).cost["built"]


def records(folder, kind):
    found = [json.loads(path.read_bytes())["record"] for path in folder.rglob("records/*/*.json")]
    return [record for record in found if record["kind"] == kind]


def blobs(folder):
    return {p.name for p in folder.rglob("*.safetensors")}


def keys_of(lab, of, arm):
    return [lab._models.key(of, arm)]


def registry_seed(seed):
    from harness.training.seeds import derive

    return derive("poison", seed)
