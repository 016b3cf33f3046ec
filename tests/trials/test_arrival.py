"""When a poison arrives: the poisoned model alone sees it, in these epochs alone."""

from dataclasses import replace

import pytest
import torch
from labs import IDENTITY, REWIND, TINY, lab_in, records
from poisoned import SPLIT
from tiny import Tiny

from harness import registry
from harness.api import ContractError
from harness.cells import Cell, Trial
from harness.specs import SpecError
from harness.training.loop import train
from harness.trials.checks import check_planted
from harness.trials.planting import Points, pack, unpack
from poisons.backdoor import Backdoor
from poisons.gaussian import Gaussian

POISONS = pytest.mark.parametrize("poison", [Backdoor(size=1), Gaussian()], ids=["backdoor", "gaussian"])


def trial(arrives, method=IDENTITY, discovery=1.0):
    return Trial(Cell(method, TINY, registry.resolve("poison", f"backdoor:size=1,arrives={arrives}"), discovery), 0)


def weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@POISONS
@pytest.mark.parametrize(
    ("arrives", "epochs", "when"),
    [("always", 10, None), ("early", 10, range(5)), ("late", 10, range(5, 10)), ("early", 5, range(3)),
     ("late", 5, range(2, 5)), ("early", 1, range(1)), ("late", 1, range(1))],
)  # fmt: skip
def test_a_poison_is_there_in_one_half_of_the_epochs(poison, arrives, epochs, when):
    planted = replace(poison, arrives=arrives).plant(Tiny(epochs=epochs), SPLIT, 0)
    always = poison.plant(Tiny(epochs=epochs), SPLIT, 0)
    assert planted.epochs == when
    assert unpack(pack(planted)).epochs == when
    assert torch.equal(planted.inputs["image"], always.inputs["image"])
    assert torch.equal(planted.forget, always.forget)


def test_the_poisoned_model_sees_it_then_and_nothing_of_these_points_otherwise(tmp_path):
    lab, each = lab_in(tmp_path, budget=0.5), trial("late")
    models, planted = lab.models(each), lab.planted(each)
    keep = torch.ones(10, 240, dtype=torch.bool)
    keep[:5, planted.forget] = False
    data = lab.split(TINY).train.poisoned_with(planted)
    model, examples = train(Tiny(), data, keep, 0)
    assert torch.equal(weights(lab.model(TINY, models["P"])), weights(model))
    assert models["P"].info["examples"] == examples == 5 * 216 + 5 * 240
    assert models["P"].info["steps"] == 5 * 7 + 5 * 8


def test_retrained_models_are_shared_by_poisons_that_arrive_at_other_times(tmp_path):
    lab = lab_in(tmp_path, budget=0.5)
    made = {arrives: lab.models(trial(arrives, discovery=0.5)) for arrives in ("always", "early", "late")}
    assert len({models["R"].blob for models in made.values()}) == 1
    assert len({models["D"].key for models in made.values()}) == 1
    assert len({models["P"].blob for models in made.values()}) == 3


def test_a_checkpoint_from_before_it_arrived_is_that_of_retraining_so_far(tmp_path):
    """So a method that goes back there has nothing to do: why a poison that arrives late tells little about it."""
    lab, each = lab_in(tmp_path, budget=0.5), trial("late", REWIND)
    lab.run(each)
    (kept,) = [record for record in records(tmp_path, "model") if "epoch" in record["of"]]
    planted, keep = lab.planted(each), torch.ones(240, dtype=torch.bool)
    keep[planted.forget] = False
    retrained, _ = train(Tiny(), lab.split(TINY).train, keep, 0, stop=kept["of"]["epoch"])
    history = lab._models._history(each)[kept["of"]["epoch"]]
    assert all(torch.equal(history[name], tensor) for name, tensor in retrained.state_dict().items())


def test_what_is_undiscovered_remains_in_every_epoch_as_it_does_for_the_method():
    planted = Backdoor(size=1, arrives="early").plant(Tiny(epochs=4), SPLIT, 0)
    points = Points.of(planted, 240, trial("early", discovery=0.5))
    seen = {arm: points.trained_on(arm, 4).sum(dim=1).tolist() for arm in ("P", "R", "D")}
    assert seen == {"P": [240, 240, 216, 216], "R": [216] * 4, "D": [228] * 4}


@pytest.mark.parametrize("name", ["backdoor", "gaussian"])
def test_other_times_are_refused(name):
    with pytest.raises(SpecError, match="arrives"):
        registry.resolve("poison", f"{name}:arrives=never")


@pytest.mark.parametrize("epochs", [3, range(0), range(0, 6, 2), range(-1, 3)])
def test_epochs_that_are_no_range_of_some_are_refused(epochs):
    poison = registry.resolve("poison", "backdoor:size=1")
    planted = replace(Backdoor(size=1).plant(Tiny(), SPLIT, 0), epochs=epochs)
    with pytest.raises(ContractError, match=r"planted in the epochs .*; they must be a range of some"):
        check_planted(poison, planted, SPLIT, 10)


def test_epochs_after_the_training_are_refused_in_a_sentence_and_not_as_a_weak_poison():
    poison = registry.resolve("poison", "backdoor:size=1")
    planted = replace(Backdoor(size=1).plant(Tiny(), SPLIT, 0), epochs=range(9, 12))
    check_planted(poison, planted, SPLIT, 10)
    with pytest.raises(ContractError, match="from epoch 9 on, but the task trains for the epochs 0 to 8; plant"):
        check_planted(poison, planted, SPLIT, 9)
