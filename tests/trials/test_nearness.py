"""How far a model is from a retrained one."""

import pytest
import torch
from tiny import Tiny

from harness.trials.nearness import nearness


class OneNumber(Tiny):
    """A task of yes or no, whose models answer with one number per point."""

    def logits(self, model, batch):
        return model(batch.inputs["image"])[:, 0]

    def predict(self, logits):
        return (logits > 0).long()


class InAColumn(OneNumber):
    def logits(self, model, batch):
        return super().logits(model, batch)[:, None]


@pytest.mark.parametrize("task", [Tiny(), OneNumber(), InAColumn()], ids=lambda task: type(task).__name__)
def test_a_copy_is_near_and_another_model_is_not(task):
    torch.manual_seed(0)
    test, (model, other) = task.load(None).test, (task.new_model(), task.new_model())

    assert nearness(task, model, model, test) == {"weights": 0.0, "logits": 0.0}
    assert min(nearness(task, model, other, test).values()) > 0.2
