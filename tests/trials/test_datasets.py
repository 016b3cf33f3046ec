"""Hashes of data: known without loading them, and never believed against the data themselves."""

from dataclasses import dataclass, field, replace

import pytest
from tiny import Tiny

from harness import registry
from harness.api import UnlearningError
from harness.cells import Cell, Trial
from harness.store.artefacts import DamagedArtefact
from harness.training.data import Split
from harness.trials.lab import Lab


@dataclass(frozen=True)
class Counted(Tiny):
    """The tiny task, which notes how often it was loaded and says of its files what it is told to."""

    said: dict | None = field(default_factory=dict)
    loads: list = field(default_factory=list)
    lost: int = 0

    def files(self, folder):
        return self.said

    def load(self, folder):
        self.loads.append(folder)
        split = super().load(folder)
        return Split.of(replace_labels(split.train, self.lost), split.test)


def replace_labels(data, shift):
    data.labels[:] = (data.labels + shift) % 3
    return data


def task(**fields):
    value = Counted(**fields)
    return registry.Registered("task", "counted", "counted", value, {}, "(local)", "", "source")


def on(folder, of):
    return Lab.open(folder, device="cpu").bench.on(of)


def test_data_whose_files_are_the_same_are_loaded_once(tmp_path):
    first, second, other = task(said={"a": "1"}), task(said={"a": "1"}), task(said={"a": "2"})
    assert on(tmp_path, first) == on(tmp_path, second) == on(tmp_path, other)
    assert [len(each.value.loads) for each in (first, second, other)] == [1, 0, 1]


def test_data_of_which_nothing_is_said_are_loaded_each_time(tmp_path):
    loads = []
    for _ in range(2):
        on(tmp_path, task(said=None, loads=loads))
    assert len(loads) == 2


def test_a_hash_that_is_not_the_datas_is_found_out_when_they_are_loaded(tmp_path):
    told = on(tmp_path, task())["data"]
    changed = task(lost=1)
    lab = Lab.open(tmp_path, device="cpu")
    assert lab.bench.on(changed)["data"] == told  # it says that nothing changed
    with pytest.warns(DamagedArtefact):
        split = lab.split(changed)
    assert lab.bench.on(changed)["data"] == split.fingerprint != told
    cell = Cell(registry.resolve("unlearner", "identity"), changed, registry.resolve("poison", "backdoor"))
    assert lab.run(Trial(cell, 0)).cost["built"] == ["P", "R", "U"]


def test_data_that_cannot_be_had_are_asked_for_once(tmp_path):
    asked = []

    class Away(Counted):
        def load(self, folder):
            asked.append(folder)
            raise UnlearningError("there is no network")

    lab, away = Lab.open(tmp_path, device="cpu"), replace(task(), value=Away(said=None))
    for _ in range(3):
        with pytest.raises(UnlearningError, match="there is no network"):
            lab.split(away)
    assert len(asked) == 1
