"""Sources that a function of a team's own names."""

from __future__ import annotations

import sys

import pytest
from labs import lab_in

from harness import UnlearningError, registry
from harness.cells import Cell, Trial
from harness.cli.drill import source_of
from harness.cli.main import main

PIPELINE = """
import numpy as np
import pandas as pd
import torch

def load():
    rows = pd.DataFrame({"a": np.arange(60) % 7 / 7, "day": np.arange(60), "label": np.arange(60) % 2})
    return rows, rows

def train(data, seed):
    return {"mean": float(data["a"].mean()), "seed": seed}

def predict(model, inputs):
    return np.asarray(inputs["a"]) * model["mean"] + model["seed"] / 2**32

def remove(model, retain, forget):
    return train(retain, 0)

def old(rows):
    return rows["day"] < 12

def numbers(rows):
    return [5, 2, 2, len(rows) - 1]

def tensor(rows):
    return torch.tensor(rows["day"].to_numpy() == 3)

def everything(rows):
    return rows["day"] >= 0

def nobody(rows):
    return []

def outside(rows):
    return [60]

def words(rows):
    return rows["day"].astype(str)

def flags(rows):
    return (rows["day"] < 12).astype(int)

def short(rows):
    return [True, False]

def nothing(rows):
    pass

def fails(rows):
    return rows["vendor"] == "acme"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own_rows.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_rows", None)


def rows(name: str) -> list[int]:
    task = registry.resolve("task", "own_rows.py").value
    poison = registry.resolve("poison", f"source:where=own_rows.py:{name}").value
    return poison.plant(task, task.load(None), 0).forget.tolist()


@pytest.mark.parametrize(("name", "found"), [("old", list(range(12))), ("numbers", [2, 5, 59]), ("tensor", [3])])
def test_a_function_names_rows_by_truth_values_or_numbers(here, name, found):
    assert rows(name) == found


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("everything", "the source is the whole training set"),
        ("nobody", "names no row"),
        ("outside", "returned int64 of shape (1,); it must return a truth value for each of the 60 rows"),
        ("words", "returned Series"),
        ("flags", "returned 60 numbers that are all 0 or 1; return truth values (dtype bool), or row numbers"),
        ("short", "returned bool of shape (2,)"),
        ("nothing", "returned NoneType"),
        ("fails", "cannot be found: KeyError: 'vendor'"),
        ("absent", "own_rows.py has no function 'absent'"),
    ],
)
def test_what_names_no_rows_is_refused_in_a_sentence(here, name, sentence):
    with pytest.raises(UnlearningError) as refused:
        rows(name)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_task_without_rows_of_a_team_is_refused(here):
    task = registry.resolve("task", "digits-mlp").value

    with pytest.raises(UnlearningError, match="needs a pipeline"):
        registry.resolve("poison", "source:where=own_rows.py:old").value.plant(task, task.load(None), 0)


@pytest.mark.parametrize("fields", ["where=nowhere.py:old", "where=own_rows.py:old,rows=own_rows.py"])
def test_fields_that_do_not_go_together_are_refused(here, fields):
    with pytest.raises(UnlearningError, match="source"):
        registry.resolve("poison", f"source:{fields}")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("own_rows.py:old", "source:where=own_rows.py:old"),
        ("own_rows.py", "source:rows=own_rows.py"),
        ("vendor=a.py:b", "source:column=vendor,value=a.py:b"),
        ("path=*/a b:c", 'source:column=path,value="*/a b:c"'),
    ],
)
def test_a_source_is_told_by_its_form(here, text, spec):
    found, name = source_of(text)

    assert (found, name) == (spec, text)
    assert registry.resolve("poison", found).id == spec


def test_an_edit_that_names_the_same_rows_trains_nothing_again(here):
    def missing(edit: str = "") -> set[str]:
        (here / "own_rows.py").write_text(PIPELINE + edit)
        sys.modules.pop("own_rows", None)
        specs = {"unlearner": "own_rows.py:remove", "task": "own_rows.py", "poison": "source:where=own_rows.py:old"}
        trial = Trial(Cell(*(registry.resolve(kind, spec) for kind, spec in specs.items())), 0)
        lab = lab_in(here / "store")
        found = {*lab.missing(trial)}
        lab.run(trial)
        return found & {"P", "R"}

    assert missing() == {"P", "R"}
    assert missing("\n# an edit beside") == set()
    assert missing("\ndef old(rows):\n    return rows['day'] < 13") == {"P", "R"}


def test_a_drill_refuses_a_poison_for_other_data_before_it_trains(here, capsys):
    words = ["drill", "own_rows.py", "--source", "own_rows.py:old", "--poison", "targeted", "--store", "store"]

    code = main(words)

    assert code == 2
    assert "--poison targeted cannot be planted: targeted is for data of the kind image" in capsys.readouterr().err
    assert not (here / "store").exists()
