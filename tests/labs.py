"""What the tests that run trials share: a lab on the CPU, the tiny task, controls by name."""

import torch

from harness import registry
from harness.cells import Cell, Registered, Trial
from harness.trials.lab import Lab

TINY = registry.resolve("task", "tiny:Tiny")
BACKDOOR = registry.resolve("poison", "backdoor")
GAUSSIAN = registry.resolve("poison", "gaussian")
NAMES = ("identity", "retrain", "wrecked", "short", "gd", "rewind")
IDENTITY, RETRAIN, WRECKED, SHORT, GD, REWIND = (registry.resolve("unlearner", name) for name in NAMES)
CPU = torch.device("cpu")


def method(function, name="method"):
    """Register a function; several of one test are told apart by name."""
    found = registry.register("unlearner", function)
    return Registered("unlearner", name, name, function, {}, "(local)", "", found.source)


def lab_in(folder, run="run", **options):
    return Lab.open(folder, device="cpu", run=run, **options)


def trial(unlearner, poison=BACKDOOR, seed=0):
    return Trial(Cell(unlearner, TINY, poison), seed)
