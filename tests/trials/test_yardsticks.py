"""What a trial costs, by every yardstick."""

from dataclasses import dataclass

import pytest
import torch
from labs import (
    BACKDOOR,
    GD,
    IDENTITY,
    RETRAIN,
    lab_in,
    trial,
)
from tiny import Tiny
from torch import nn

from harness import registry
from harness.cells import Cell, Trial


@pytest.mark.parametrize("seed", [0, 1])
def test_retraining_is_all_of_retraining_by_every_yardstick(lab, seed):
    cost = lab.run(trial(RETRAIN, seed=seed)).cost
    fractions = dict(cost["fractions"])
    assert 0.01 < fractions.pop("cpu_seconds") < 100
    assert fractions == pytest.approx({"examples": 1, "steps": 1}, rel=1e-12)
    assert cost["unlearn_fraction"] == pytest.approx(1)
    assert set(cost["seconds"]) == set(cost["cpu_seconds"]) == {"P", "R", "U"}
    assert cost["history_bytes"] == 0


def test_doing_nothing_costs_nothing_by_every_yardstick(lab):
    fractions = lab.run(trial(IDENTITY)).cost["fractions"]
    assert [fractions[name] for name in ("examples", "steps")] == [0, 0]
    assert 0 < fractions["cpu_seconds"] < 1


def test_yardsticks_differ_where_work_does(lab):
    def fractions(spec):
        return lab.run(trial(registry.resolve("unlearner", spec))).cost["fractions"]

    gd, teacher, frozen = fractions("gd:epochs=1"), fractions("undo:epochs=1"), fractions("cfk:k=1,epochs=1")
    small = fractions("ga:epochs=1,batch_size=1")
    assert gd["examples"] == pytest.approx(1 / 10)
    assert gd["steps"] == pytest.approx(7 / 70)
    assert gd["flops"] == pytest.approx(1 / 10)
    # A teacher beside it: a third more by examples, no step more.
    assert teacher["examples"] == pytest.approx(4 / 30)
    assert teacher["steps"] == gd["steps"]
    assert teacher["flops"] > gd["flops"]
    # Frozen layers show in operations alone: a step of the whole network has products of 2 * 256 + 3 * 48 (the first
    # layer's input has no gradient), one of its head 256 + 2 * 48.
    assert frozen["examples"] == gd["examples"]
    assert frozen["flops"] == pytest.approx(gd["flops"] * (256 + 2 * 48) / (2 * 256 + 3 * 48))
    # Small batches show in steps alone: 24 points, one by one.
    assert small["examples"] == pytest.approx(24 / 2160)
    assert small["flops"] == pytest.approx(24 / 2160)
    assert small["steps"] == pytest.approx(24 / 70)


def test_what_a_method_cost_is_read_from_the_store_in_a_later_run(lab, tmp_path):
    first = lab.run(trial(GD)).cost
    again = lab_in(tmp_path / "store", "later").run(trial(GD)).cost
    assert again["fractions"] == first["fractions"]


@dataclass(frozen=True)
class Bare(Tiny):
    """A task whose model torch's counter has no formula for: it multiplies and sums, without a matrix product."""

    def new_model(self):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3, 16))

            def forward(self, x):
                return (x.flatten(1)[:, None] * self.weight).sum(-1)

        return Scale()


def test_a_model_without_operations_that_can_be_counted_can_be_audited(lab):
    task = registry.register("task", Bare())
    cost = lab.run(Trial(Cell(IDENTITY, task, BACKDOOR), 0)).cost
    assert cost["fractions"]["examples"] == 0
