"""Whether models answer alike: they may be sure of many rows and differ on a few."""

import pytest
import torch

from harness.training.data import Data
from harness.trials.sameness import answers


class Sure:
    """A task whose models are sure of all rows but one, at a place of their own."""

    def logits(self, model, batch):
        return torch.where(batch.inputs["features"] == 2999, model.weight, 1.0)


@pytest.mark.parametrize("source", [True, False])
def test_models_that_differ_on_one_row_differ(source):
    many, few = (Data({"features": torch.arange(n).unsqueeze(1)}, torch.zeros(n).long()) for n in (3000, 10))
    one, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    rows = (few, many) if source else (many, few)

    assert answers(Sure(), one, *rows) != answers(Sure(), other, *rows)
    assert answers(Sure(), one, few) == answers(Sure(), other, few) != ""
