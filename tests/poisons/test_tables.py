"""Poisons on tables: the backdoor in its columns, and those that serve images or any inputs, too."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from labs import GD, lab_in
from tiny import Tiny

from harness import UnlearningError, registry
from harness.cells import Cell, Trial
from harness.specs import SpecError
from harness.training.data import Data, Split
from poisons.table_backdoor import TableBackdoor


@dataclass(frozen=True)
class Rows(Tiny):
    """The tiny images as rows of 16 numbers, and three columns of a category; another input stays as it is."""

    modality: ClassVar[str] = "table"
    scale: float = 1.0

    def load(self, folder):
        split = super().load(folder)

        def rows(data):
            category = torch.arange(len(data)) % 3
            numbers = data.inputs["image"].flatten(1) * self.scale
            features = torch.cat([numbers, torch.nn.functional.one_hot(category, 3).float()], dim=1)
            return Data({"weight": torch.ones(len(data)), "features": features}, data.labels)

        return Split.of(rows(split.train), rows(split.test))

    def logits(self, model, batch):
        return model(batch.inputs["features"][:, :16] * batch.inputs["weight"][:, None])


TASK = Rows()
SPLIT = TASK.load(None)
TRAIN = SPLIT.train.inputs["features"]


def run(folder, poison, task=TASK):
    cell = Cell(GD, registry.register("task", task), registry.resolve("poison", poison))
    return lab_in(folder, budget=0.5).run(Trial(cell, 0)).readings["poison"]


def test_the_backdoor_sets_its_columns_and_the_label_only():
    planted = TableBackdoor(target=2).plant(TASK, SPLIT, 0)
    columns, values = planted.secrets["columns"], planted.secrets["values"]
    rows, clean = planted.inputs["features"], TRAIN[planted.forget]
    others = [c for c in range(19) if c not in columns]
    assert len(columns) == 3
    assert torch.equal(rows[:, columns], values.expand(24, 3))
    assert torch.equal(rows[:, others], clean[:, others])
    assert planted.labels.tolist() == [2] * 24
    assert torch.equal(planted.inputs["weight"], torch.ones(24))


def test_its_values_are_rare_but_in_range_and_no_category_is_drawn():
    drawn = set()
    for seed in range(40):
        secrets = TableBackdoor().plant(TASK, SPLIT, seed).secrets
        drawn |= set(secrets["columns"].tolist())
        for column, value in zip(secrets["columns"], secrets["values"], strict=True):
            assert 0 < float((TRAIN[:, column] >= value).double().mean()) <= 0.1
    assert drawn == set(range(16))


def test_the_trigger_is_drawn_by_seed_whatever_the_size():
    one, same, other = (TableBackdoor(f).plant(TASK, SPLIT, s).secrets for f, s in ((0.1, 3), (0.3, 3), (0.1, 4)))
    assert torch.equal(one["columns"], same["columns"])
    assert torch.equal(one["values"], same["values"])
    assert not torch.equal(one["columns"], other["columns"])


@pytest.mark.parametrize("poison", ["table-backdoor:fraction=0.2", "label-noise:fraction=0.4", "gaussian:fraction=0.4"])
def test_a_poison_of_tables_bites_and_retraining_forgets_it(tmp_path, poison):
    readings = run(tmp_path, poison, Rows(epochs=30))
    assert readings["P"].value > readings["R"].value + 0.1
    assert abs(readings["R"].value) < 0.35


def test_noise_stays_off_the_other_inputs():
    planted = registry.resolve("poison", "gaussian:sd=0.3").value.plant(TASK, SPLIT, 7)
    assert torch.equal(planted.inputs["features"], TRAIN[planted.forget] + 0.3 * planted.secrets["noise"])
    assert torch.equal(planted.inputs["weight"], torch.ones(24))


@pytest.mark.parametrize(
    ("task", "poison", "message"),
    [
        (Rows(), "table-backdoor:target=3", "table-backdoor: target=3, but the task has no training points of that"),
        (Rows(), "table-backdoor:columns=17", "columns=17, but the task has 16 columns of which at most 0.1 of the"),
        (Rows(scale=1000.0), "gaussian", "gaussian: sd=0.5, but the task's input 'features' has values of standard"),
    ],
)
def test_what_would_be_planted_weakly_is_refused_before_anything_is_trained(tmp_path, task, poison, message):
    with pytest.raises(UnlearningError, match=message):
        run(tmp_path, poison, task)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torch.Tensor.int, "table-backdoor needs floating-point inputs, but the task's input 'features' is int32"),
        (lambda x: x[:, None], r"needs rows of numbers, but the task's input is of shape \(240, 1, 19\)"),
        (lambda x: (x > 2).float(), "columns=3, but the task has 0 columns"),
    ],
)
def test_inputs_that_are_no_table_of_numbers_are_refused(change, message):
    split = Split.of(*(Data({"features": change(d.inputs["features"])}, d.labels) for d in (SPLIT.train, SPLIT.test)))
    with pytest.raises(UnlearningError, match=message):
        TableBackdoor().plant(TASK, split, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("columns=0", "columns must be at least 1"),
        ("target=-1", "target must be a class"),
        ("arrives=soon", "arrives"),
        *[(f"quantile={x}", r"quantile must lie in \(0.5, 1\)") for x in (0.5, 1, "nan")],
        *[(f"fraction={x}", r"fraction must lie in \(0, 1\)") for x in (0, 1, "nan")],
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(SpecError, match=message):
        registry.resolve("poison", f"table-backdoor:{fields}")


def test_label_noise_is_refused_where_scores_are_those_of_tokens():
    class Causal(Rows):
        causal = True

    with pytest.raises(UnlearningError, match="label-noise needs a score for each class, but the task is a causal"):
        registry.resolve("poison", "label-noise").value.plant(Causal(), SPLIT, 0)
