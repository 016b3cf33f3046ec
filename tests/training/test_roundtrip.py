"""Whether a state dict holds all that a model's answers depend on."""

import pytest
import torch
from tiny import Tiny
from torch import nn

from harness.api import Batch
from harness.training.roundtrip import survives

BATCH = Batch({"image": torch.rand(4, 1, 4, 4)}, torch.zeros(4, dtype=torch.int64), torch.arange(4))


class Scaled(nn.Module):
    """Multiplies by a buffer that no state dict has."""

    def __init__(self):
        super().__init__()
        self.inner = Tiny().new_model()
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, inputs):
        return self.inner(inputs) * self.scale


class ScaledTask(Tiny):
    def new_model(self):
        return Scaled()


@pytest.mark.parametrize("scale", [1.0, 0.5, float("nan")])
def test_a_state_dict_holds_what_the_answers_depend_on(scale):
    model = Scaled()
    model.scale[1] = scale

    assert survives(ScaledTask(), model, BATCH) == (scale == 1.0)


def test_a_model_that_diverged_survives():
    model = Tiny().new_model()
    nn.init.constant_(model[1].weight, float("nan"))

    assert survives(Tiny(), model, BATCH)
