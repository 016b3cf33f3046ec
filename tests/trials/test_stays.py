"""A poison that stays beside what is to be removed: who sees it, and what is kept of it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from labs import IDENTITY, Watch, lab_in, trial
from tiny import Tiny

from harness import registry
from harness.api import ContractError, Measure, Planted, Reading
from harness.cells import Cell, Trial
from harness.training.loop import train
from harness.trials.checks import check_planted
from harness.trials.planting import pack, unpack

TASK = registry.resolve("task", "tiny:Tiny")
SPLIT = Tiny().load(None)
REMOVED, STAYING = torch.tensor([1, 5, 9]), torch.tensor([2, 6])


@dataclass(frozen=True)
class Beside:
    """Blackens some images, whose labels it changes; whitens others, which stay so."""

    white: float = 1.0

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure("first", "first class", worse="higher", test="retention")

    def plant(self, task, split, seed, surrogate=None):
        removed, staying = (split.train.subset(at) for at in (REMOVED, STAYING))
        stays = Planted(STAYING, {"image": torch.full_like(staying.inputs["image"], self.white)}, staying.labels)
        return Planted(REMOVED, {"image": 0 * removed.inputs["image"]}, (removed.labels + 1) % 3, stays=stays)

    def probe(self, model, planted, task, split):
        with torch.no_grad():
            return Reading(float(task.logits(model, split.test.batch(torch.arange(9)))[:, 0].double().mean()))


def of(method, white=1.0, discovery=1.0):
    poison = registry.register("poison", Beside(white))
    found = method if not callable(method) else registry.register("unlearner", method)
    return Trial(Cell(found, TASK, poison, discovery), 0)


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_retrained_models_see_what_stays_and_not_what_is_removed(tmp_path):
    lab, each = lab_in(tmp_path, budget=0.5), of(IDENTITY)
    retrained = lab.model(TASK, lab.models(each)["R"])
    images, keep = SPLIT.train.inputs["image"].clone(), torch.ones(240, dtype=torch.bool)
    images[STAYING], keep[REMOVED] = 1, False
    by_hand = train(Tiny(), type(SPLIT.train)({"image": images}, SPLIT.train.labels), keep, 0)[0]
    assert torch.equal(weights(retrained), weights(by_hand))


def test_an_unlearner_keeps_what_stays(tmp_path):
    for discovery in (1.0, 0.5):
        watch = Watch()
        lab_in(tmp_path, budget=0.5).unlearn(of(watch, discovery=discovery))
        retain, forget = watch.request.retain, watch.request.forget
        assert int((retain.inputs["image"].flatten(1) == 1).all(1).sum()) == 2
        assert int((forget.inputs["image"].flatten(1) == 0).all(1).sum()) == len(forget) == (3 if discovery == 1 else 2)


def test_retrained_models_are_shared_only_by_what_stays_alike(tmp_path):
    lab = lab_in(tmp_path, budget=0.5)
    one, other, clean = (lab.models(each)["R"].blob for each in (of(IDENTITY), of(IDENTITY, 0.5), trial(IDENTITY)))
    assert len({one, other, clean}) == 3
    assert lab_in(tmp_path, run="later", budget=0.5).models(of(IDENTITY))["R"].made["run"] == "run"


def test_what_is_planted_comes_back_from_the_store():
    planted = Beside().plant(Tiny(), SPLIT, 0)
    again = unpack(pack(planted))
    assert again.stays is not None
    assert torch.equal(again.stays.forget, STAYING)
    assert torch.equal(again.stays.inputs["image"], planted.stays.inputs["image"])
    assert torch.equal(again.forget, REMOVED)
    assert unpack(pack(planted.stays)).stays is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: replace(p, stays=replace(p.stays, forget=torch.tensor([2, 5]))),
            "planted point 5 both to be removed",
        ),
        (lambda p: replace(p, stays=replace(p.stays, inputs={})), "in what stays, planted the inputs nothing"),
        (lambda p: replace(p, stays=p), "planted a Planted that stays; it must be a harness.Planted of every epoch"),
        (lambda p: replace(p, stays=(1,)), "planted a tuple that stays"),
    ],
)
def test_what_cannot_stay_is_refused(change, message):
    planted, poison = Beside().plant(Tiny(), SPLIT, 0), registry.register("poison", Beside())
    check_planted(poison, planted, SPLIT, 10)
    with pytest.raises(ContractError, match=message):
        check_planted(poison, change(planted), SPLIT, 10)
