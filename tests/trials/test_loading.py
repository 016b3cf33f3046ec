"""The models of a trial: out of the store in one line, and nothing trained for it unless that is asked for."""

from __future__ import annotations

import pytest
import torch
from tiny import Tiny  # noqa: F401 - what "tiny:Tiny" resolves to must be importable

import harness
from harness import registry
from harness.api import UnlearningError
from harness.cells import Cell, Trial
from harness.report.pictures import stored_picture
from harness.store.artefacts import blob_name
from harness.trials.lab import Lab

POISON = "backdoor:size=1"


def trial(method="gd", seed=1):
    named = (("unlearner", method), ("task", "tiny:Tiny"), ("poison", POISON))
    return Trial(Cell(*(registry.resolve(*of) for of in named)), seed)


def load(store, method="gd", **changes):
    return harness.load_models(method, **({"task": "tiny:Tiny", "poison": POISON, "seed": 1, "store": store} | changes))


def records(store):
    return sorted(path.name for path in store.glob("records/*/*.json"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    Lab.open(folder, device="cpu").run(trial())
    return folder


def test_models_come_out_of_the_store_and_nothing_is_made(store):
    before = records(store)
    found = load(store)
    assert records(store) == before
    lab = Lab.open(store, device="cpu")
    planted, artefacts = lab.stored(trial())
    for arm in "PRU":
        model = getattr(found, arm)
        assert not model.training
        for name, tensor in lab.model(trial().cell.task, artefacts[arm]).state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
    assert torch.equal(found.planted.forget, planted.forget)
    # They are the models that were judged: P has the backdoor, R has not.
    poison = trial().cell.poison.value
    task = trial().cell.task.value
    success = {arm: poison.probe(getattr(found, arm), found.planted, task, found.split).value for arm in "PR"}
    assert success["P"] > 0.9
    assert success["R"] < 0.3


def test_they_may_be_changed(store):
    with torch.no_grad():
        next(load(store).U.parameters()).zero_()
    assert next(load(store).U.parameters()).abs().sum() > 0


def test_what_is_not_there_is_one_sentence(store, tmp_path):
    before = records(store)
    with pytest.raises(harness.UnlearningError, match=r"has no unlearned model of gd:lr=0.5-tiny.*train=True"):
        load(store, "gd:lr=0.5")
    with pytest.raises(harness.UnlearningError, match=r"has nothing of gd-tiny.*seed9"):
        load(store, seed=9)
    with pytest.raises(harness.UnlearningError, match="made on cuda"):
        load(store, made_on="cuda")
    with pytest.raises(harness.UnlearningError, match="found no store at"):
        load(tmp_path / "nowhere")
    with pytest.raises(harness.UnlearningError, match="unknown unlearner"):
        load(store, "gdd")
    with pytest.raises(ValueError, match="made_on"):
        load(store, made_on="tpu")
    assert records(store) == before
    assert not (tmp_path / "nowhere").exists()


def test_what_is_not_there_is_made_where_that_is_asked_for(tmp_path):
    with pytest.raises(harness.UnlearningError, match="cannot be trained here"):
        load(tmp_path, made_on="cuda", train=True)
    made = load(tmp_path, "scrub", seed=3, train=True)
    assert not made.U.training
    assert load(tmp_path, "scrub", seed=3).seed == 3


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
def test_a_damaged_model_is_missing_or_made_again(tmp_path):
    lab = Lab.open(tmp_path, device="cpu")
    whole = {arm: artefact.blob for arm, artefact in lab.models(trial()).items()}

    poisoned = load(tmp_path).P.state_dict()

    def damage(blob):
        path = tmp_path / blob_name(blob)
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    damage(whole["P"])
    with pytest.raises(UnlearningError, match="no poisoned model"):
        load(tmp_path)
    again = load(tmp_path, train=True).P.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in poisoned.items())
    damage(whole["U"])
    load(tmp_path, train=True)
    assert {arm: artefact.blob for arm, artefact in lab.stored(trial())[1].items()} == whole


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
def test_what_was_planted_and_is_damaged_is_not_made_by_looking(tmp_path):
    Lab.open(tmp_path, device="cpu").planted(trial())
    for path in tmp_path.glob("blobs/*/*"):
        path.write_bytes(b"?")
    assert Lab.open(tmp_path, device="cpu").stored(trial()) == (None, {})
    assert not list(tmp_path.glob("blobs/*/*"))


def test_pictures_are_of_what_is_stored(store):
    lab = Lab.open(store, device="cpu")
    before = records(store)
    assert stored_picture(lab, "tiny:Tiny", POISON, seed=1, count=2) is not None
    assert stored_picture(lab, "tiny:Tiny", POISON, seed=9) is None
    assert records(store) == before
