"""The contract of a method that serves one task alone: on which of its data, and how often these are loaded."""

from dataclasses import dataclass, field

import pytest
import torch
from tiny import Tiny

from harness import examine, registry
from harness.contract.examination import on_cpu
from harness.contract.lines import Clause
from harness.store.artefacts import Store, key_of
from harness.training.data import Split
from harness.training.isolation import isolated_rng
from harness.training.loop import fit
from harness.trials import keys

LINES = ("ordinary-request", "same-architecture", "finite-weights")


@dataclass(frozen=True)
class Own(Tiny):
    """The tiny task with a training loop of its own, which notes the folders that it was loaded from."""

    loads: list = field(default_factory=list)

    def load(self, folder):
        self.loads.append(folder)
        split = super().load(folder)
        if folder is not None:  # other data
            split.train.labels[:] = (split.train.labels + 1) % 3
        return Split.of(split.train, split.test)

    def train(self, data, seed):
        with isolated_rng(seed):
            model = self.new_model()
            fit(self, model, data.batches(self.batch_size, 1, torch.Generator().manual_seed(seed)))
        return model


def removal(model, request):
    return model


removal.needs_task = True


@pytest.fixture
def task():
    return registry.Registered("task", "own", "own", Own(), {}, "(local)", "", "source")


def clauses(task, store, **more):
    method = registry.register("unlearner", removal)
    return [Clause(method, line, 1.0, task.value.epochs, store, task, **more) for line in LINES]


def is_stored(clause, data):
    """Return whether it is stored what was found of a line on such data."""
    of = keys.contract(clause.method, clause.line, clause.budget, clause.epochs, clause.task, data.fingerprint)
    return clause.store.get(key_of("contract", of)) is not None


def test_the_data_come_from_the_folder_of_data_sets_and_are_loaded_once(task, tmp_path):
    store = Store(tmp_path / "store", "run")
    asked = clauses(task, store, datasets=on_cpu(store, tmp_path))
    for clause in asked:
        examine(clause)
    assert task.value.loads == [tmp_path]
    assert all(is_stored(clause, Own().load(tmp_path)) for clause in asked)
    assert not is_stored(asked[0], Own().load(None))


@pytest.mark.parametrize("kept", [True, False])
def test_without_a_folder_the_tasks_own_data_are_loaded_once(task, tmp_path, kept):
    asked = clauses(task, Store(tmp_path / "store", "run") if kept else None)
    for clause in asked:
        examine(clause)
    assert task.value.loads == [None]
    assert not kept or all(is_stored(clause, Own().load(None)) for clause in asked)
