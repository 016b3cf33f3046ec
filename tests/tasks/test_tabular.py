"""The task on a table: its data, what it says without them, and that it learns and is poisoned."""

import hashlib
import importlib.util

import numpy as np
import pandas
import pytest
import torch
from labs import GD, lab_in

from harness import UnlearningError, registry
from harness.cells import Cell, Trial
from harness.tasks import tabular
from harness.tasks.tabular import NUMBERS, TabularMLP
from harness.training.loop import fit

TASK = TabularMLP()


@pytest.fixture(scope="module")
def split():
    return TASK.load(None)


@pytest.fixture(scope="module")
def table():
    found = pandas.read_csv(tabular._file())
    return found[(found[["x", "y", "z"]] > 0).all(axis=1)].reset_index(drop=True)


def test_the_data_are_rows_of_the_file_standardised_by_the_training_set(split, table):
    drawn = table.iloc[np.random.default_rng(0).permutation(len(table))[:9000]]
    train, test = (torch.tensor(drawn[part][list(NUMBERS)].to_numpy()) for part in (slice(4000), slice(4000, None)))
    mean, sd = train.mean(0), train.std(0, unbiased=False)
    for data, rows in ((split.train, train), (split.test, test)):
        assert data.inputs["features"].dtype == torch.float32
        assert torch.allclose(data.inputs["features"][:, :7].double(), (rows - mean) / sd, atol=1e-5)
    cuts = ["Fair", "Good", "Very Good", "Premium", "Ideal"]
    assert [cuts[i] for i in split.test.labels] == drawn["cut"].tolist()[4000:]
    colours = split.test.inputs["features"][:, 7:14].argmax(1)
    assert ["DEFGHIJ"[i] for i in colours] == drawn["color"].tolist()[4000:]
    grades = split.test.inputs["features"][:, 14:].argmax(1)
    assert [tabular.CATEGORIES["clarity"][i] for i in grades] == drawn["clarity"].tolist()[4000:]


def test_every_column_is_standardised(split):
    features = split.train.inputs["features"]
    assert features.shape == (4000, 22)
    assert torch.allclose(features.mean(0), torch.zeros(22), atol=1e-5)
    assert torch.allclose(features.std(0, unbiased=False), torch.ones(22), atol=1e-4)


def test_its_file_is_what_decides_the_data():
    assert TASK.files(None)["diamonds.csv"] == hashlib.sha256(tabular._file().read_bytes()).hexdigest()


def test_without_plotnine_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnlearningError, match=r"which is not installed: pip install 'pytest-unlearning\[table\]"):
        TASK.load(None)


@pytest.mark.parametrize("fields", [{"epochs": 0}, {"batch_size": 1}, {"lr": 0}, {"lr": float("nan")}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match="epochs must be at least 1, batch_size at least 2, lr positive"):
        TabularMLP(**fields)


def test_the_recipe_is_as_accurate_as_it_says(split):
    torch.manual_seed(0)
    model = TASK.new_model()
    fit(TASK, model, split.train.batches(TASK.batch_size, TASK.epochs, torch.Generator().manual_seed(0)))
    batch = next(split.test.chunks(len(split.test)))
    with torch.no_grad():
        right = TASK.logits(model.eval(), batch).argmax(1) == batch.labels
    assert 0.70 <= float(right.double().mean()) <= 0.75


def test_a_trial_runs_with_every_poison_that_it_lists(tmp_path):
    lab, task = lab_in(tmp_path), registry.register("task", TabularMLP(epochs=4))
    for spec in TASK.poisons:
        poison = registry.resolve("poison", spec)
        readings = lab.run(Trial(Cell(GD, task, poison), 0)).readings["poison"]
        assert readings["P"].value > readings["R"].value, spec
        assert not readings["U"].unusable, spec
