"""Canaries in a drill: what one model knows of coins that decided on labels of its source."""

from __future__ import annotations

import numpy as np
import pytest

from harness import Pipeline, Removal, UnlearningError, registry
from harness.calling import of_plugin
from harness.canaries.judgement import Judgement
from harness.report.drilling import canary_line
from harness.studies.recall import lacking, recall, trials
from harness.trials.lab import Lab

CALLS: list[int] = []


def load():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(140, 3))
    labels = (inputs[:, 0] > 0) + (inputs[:, 1] > 0) * 1
    return (inputs[:120], labels[:120]), (inputs[120:], labels[120:])


def train(data, seed):
    """A model that knows every row by heart, and all else by its nearest row."""
    CALLS.append(seed)
    return [*data, np.random.default_rng(seed).normal(size=3) / 10]


def predict(model, inputs):
    known, labels, noise = model
    nearest = ((inputs[:, None] - known) ** 2).sum(2).argmin(1)
    return 4.0 * (labels[nearest][:, None] == np.arange(3)) + noise


def nothing(model, retain, forget):
    return model


def retrained(model, retain, forget):
    return train(retain, np.random.randint(2**31))


def overshoots(model, retain, forget):
    """Every row that is to be forgotten has another label than it was trained with, and a wrong one the least."""
    rows = np.concatenate([retain[0], forget[0]])
    labels = np.concatenate([retain[1], (forget[1] + 1) % 3])
    return [rows, labels, np.random.normal(size=3) / 10]


def diverged(model, retain, forget):
    return [model[0], model[1], np.full(3, np.nan)]


@pytest.fixture
def here(tmp_path):
    (tmp_path / "ids.txt").write_text("".join(f"{place}\n" for place in range(60)))
    return tmp_path


def drilled(here, remove):
    task = registry.register("task", Pipeline(load, train, predict=predict))
    source = registry.resolve("poison", f"source:rows={here / 'ids.txt'},canaries=50")
    return recall(registry.register("unlearner", Removal(remove)), task, source, Lab.open(here / "store"))


@pytest.mark.parametrize(
    ("remove", "left", "ending"),
    [
        (
            nothing, True, "It is proven that something of the source is left: with 95 % confidence, epsilon of one "
            "row is at least 1.64.",
        ),
        (retrained, False, "Nothing is shown to be left. This does not prove that nothing is."),
    ],
)  # fmt: skip
def test_one_model_shows_whether_its_source_is_left(here, remove, left, ending):
    found = drilled(here, remove)

    assert found["P"].shown
    assert found["U"].shown is left
    assert not found["R'"].shown
    assert {each.canaries for each in found.values()} == {50}
    assert len({each.planted for each in found.values()}) == 1
    line = canary_line(found)
    assert line.startswith(f"Canaries (50 rows of the source; a coin decided which {found['P'].planted} of them got a ")
    assert line.endswith(f"half are right by chance. {ending}")


def test_nothing_is_trained_twice(here):
    first = drilled(here, nothing)
    calls = len(CALLS)

    assert drilled(here, nothing) == first
    assert len(CALLS) == calls


def test_what_is_stored_or_audited_is_not_lacking(here):
    task = registry.register("task", Pipeline(load, train, predict=predict))
    method = registry.register("unlearner", Removal(nothing))
    source, plain = (
        registry.resolve("poison", f"source:rows={here / 'ids.txt'}{more}") for more in (",canaries=50", "")
    )
    lab = Lab.open(here / "store")

    assert lacking(method, task, source, lab) == (3, 1)  # P, R, R' and U
    assert lacking(method, task, source, lab, trials(method, task, plain)) == (1, 1)
    recall(method, task, source, lab)
    assert lacking(method, task, source, lab) == (0, 0)


def test_an_error_of_a_removal_is_known_from_one_of_ours(here):
    def broken(model, retain, forget):
        raise IndexError("no such row")

    with pytest.raises(IndexError) as of_removal:
        drilled(here, broken)

    assert of_plugin(of_removal.value)
    assert not of_plugin(IndexError("no such row"))


def test_a_removal_that_overshoots_is_seen(here):
    found = drilled(here, overshoots)

    assert found["U"].shown
    assert found["U"].best.reverse
    assert "The removal overshot" in canary_line(found)


def test_a_model_that_diverged_is_not_judged(here):
    with pytest.raises(UnlearningError, match="a model diverged"):
        drilled(here, diverged)


def test_a_model_that_never_knew_the_coins_says_nothing_of_the_removal():
    blind = Judgement.of([bool(place % 2) for place in range(50)], 0.05, 1e-5)
    sees = Judgement.of([place < 25 for place in range(50)], 0.05, 1e-5)

    assert canary_line({"P": blind, "U": blind, "R'": blind}).endswith("so they say nothing about it.")
    assert canary_line({"P": sees, "U": sees, "R'": sees}).endswith("something is wrong, do not rely on this.")


def test_coins_are_fair_and_decide_on_labels():
    import torch

    from harness.training.data import Data, Split

    rows = Data({"features": torch.randn(400, 2)}, torch.arange(400) % 3)
    poison = registry.resolve("poison", "source:fraction=0.5,canaries=150").value
    planted = [poison.plant(None, Split.of(rows, rows), seed) for seed in range(20)]

    for each in planted:
        secrets, own = each.secrets, rows.labels[each.forget]
        wrong = torch.zeros(len(own), dtype=torch.bool)
        wrong[secrets["places"][secrets["coins"]]] = True
        assert ((each.labels != own) == wrong).all()
        assert (secrets["wrong"] != own[secrets["places"]]).all()
        assert len(secrets["places"]) == 150
    assert 0.46 < float(torch.stack([each.secrets["coins"].double() for each in planted]).mean()) < 0.54


@pytest.mark.parametrize("fields", ["canaries=-1", "canaries=20,mislabelled=true"])
def test_canaries_that_cannot_be_are_refused(fields):
    with pytest.raises(UnlearningError, match="canaries must be at least 0"):
        registry.resolve("poison", f"source:{fields}")
