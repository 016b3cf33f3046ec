"""Checkpoints of the poisoned model, for methods that want them."""

import copy
from dataclasses import dataclass

import pytest
import torch
from labs import (
    BACKDOOR,
    CPU,
    GAUSSIAN,
    GD,
    IDENTITY,
    REWIND,
    TINY,
    Watch,
    built,
    lab_in,
    method,
    records,
    registry_seed,
    trial,
)

from harness import registry
from harness.api import ContractError, UnlearningError
from harness.cells import Cell, Trial
from harness.store.artefacts import DamagedArtefact
from harness.training.loop import train


@dataclass(eq=False)
class Wants(Watch):
    """An unlearner that wants checkpoints."""

    wanted: object = ()

    def history(self, epochs):
        return self.wanted(epochs) if callable(self.wanted) else self.wanted


def wanting(*epochs, name="wanting"):
    watch = Wants(wanted=list(epochs))
    return watch, method(watch, name)


class Trainings:
    """Notes what is trained: an arm for every training that begins, and how far each came."""

    def __init__(self):
        self.begun = []
        self.passes = []

    def __call__(self, trial, arm, done, of):
        if done == 0 and arm != "U":
            self.begun.append((arm, trial.seed))
        self.passes.append((arm, done, of))


def trained_until(seed, epoch, poison=BACKDOOR):
    """Return P's weights after an epoch, by the training loop itself."""
    split = TINY.value.load(None)
    planted = poison.value.plant(TINY.value, split, registry_seed(seed))
    data = split.train.poisoned_with(planted)
    model, _ = train(TINY.value, data, torch.ones(len(data), dtype=torch.bool), seed, stop=epoch)
    return model.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoints(folder):
    """Return the epochs that are stored, beside the finished models."""
    return sorted(r["of"]["epoch"] for r in records(folder, "model") if "epoch" in r["of"])


def test_the_declared_checkpoints_are_p_as_it_was_in_training(lab):
    watch, wants = wanting(7, 0, 3, 3, 10)
    lab.will_need([trial(wants).cell])
    lab.run(trial(wants))
    _, request, poisoned, _ = watch.seen[0]
    assert list(request.history) == [0, 3, 7, 10]
    for epoch, state in request.history.items():
        assert same(state, trained_until(0, epoch))
    assert same(request.history[10], poisoned)
    assert not same(request.history[7], poisoned)
    assert {tensor.device for state in request.history.values() for tensor in state.values()} == {CPU}


def test_the_declaration_is_asked_with_the_epochs_of_the_recipe(lab):
    watch = Wants(wanted=lambda epochs: [epochs // 2])
    lab.run(trial(method(watch)))
    assert list(watch.request.history) == [5]


def test_checkpoints_are_kept_while_p_is_trained(tmp_path):
    trainings = Trainings()
    lab = lab_in(tmp_path, show=trainings)
    first, second = wanting(2, name="first"), wanting(2, 6, name="second")
    lab.will_need([trial(wants).cell for _, wants in (first, second)])
    for seed in (0, 1):
        for watch, wants in (first, second):
            lab.run(trial(wants, seed=seed))
            assert all(same(state, trained_until(seed, epoch)) for epoch, state in watch.request.history.items())
    assert sorted(trainings.begun) == [("P", 0), ("P", 1), ("R", 0), ("R", 1)]
    assert checkpoints(tmp_path) == [2, 2, 6, 6]


def test_where_p_is_there_it_is_trained_again_only_as_far_as_needed(tmp_path):
    lab_in(tmp_path).run(trial(IDENTITY))
    before = {r["key"]: r["blob"] for r in records(tmp_path, "model")}
    trainings = Trainings()
    lab = lab_in(tmp_path, "later", show=trainings)
    watch, wants = wanting(3)
    lab.will_need([trial(wants).cell])
    assert lab.run(trial(wants)).cost["built"] == ["U"]
    assert [(done, of) for arm, done, of in trainings.passes if arm == "P again"] == [
        (0, 10),
        (1, 10),
        (2, 10),
        (3, 10),
    ]
    assert trainings.begun == [("P again", 0)]
    assert same(watch.request.history[3], trained_until(0, 3))
    after = {r["key"]: r["blob"] for r in records(tmp_path, "model")}
    assert before.items() <= after.items()


def test_the_initialisation_alone_needs_no_training(tmp_path):
    lab_in(tmp_path).run(trial(IDENTITY))
    trainings = Trainings()
    watch, wants = wanting(0)
    lab_in(tmp_path, "later", show=trainings).run(trial(wants))
    assert [(done, of) for arm, done, of in trainings.passes if arm == "P again"] == [(0, 10)]
    assert same(watch.request.history[0], trained_until(0, 0))


def test_stored_checkpoints_serve_later_methods_and_later_runs(tmp_path):
    lab_in(tmp_path).run(trial(wanting(3, name="first")[1]))
    trainings = Trainings()
    watch, wants = wanting(3, name="second")
    lab_in(tmp_path, "later", show=trainings).run(trial(wants))
    assert trainings.begun == []
    assert same(watch.request.history[3], trained_until(0, 3))


def test_checkpoints_are_of_the_poisoned_model_of_the_same_trial(lab):
    watch, wants = wanting(3)
    for poison, seed in ((BACKDOOR, 0), (GAUSSIAN, 0), (BACKDOOR, 1)):
        lab.run(trial(wants, poison, seed))
        assert same(watch.request.history[3], trained_until(seed, 3, poison))


def test_methods_that_declare_nothing_get_no_history_and_nothing_more_is_stored(lab, tmp_path):
    watch, empty = Watch(), Wants()
    for name, each in (("watch", watch), ("empty", empty)):
        lab.will_need([trial(method(each, name)).cell])
        cost = lab.run(trial(method(each, name))).cost
        assert cost["history_bytes"] == 0
    assert checkpoints(tmp_path) == []
    assert dict(watch.request.history) == dict(empty.request.history) == {}
    lab.run(trial(wanting(3)[1]))
    lab.run(trial(method(watch, "once more")))  # though there is one by now
    assert len(watch.seen) == 2
    assert dict(watch.request.history) == {}


def test_methods_from_scratch_get_no_history(lab, tmp_path):
    watch, wants = wanting(3)
    watch.from_scratch = True
    lab.will_need([trial(wants).cell])
    lab.run(trial(wants))
    assert dict(watch.request.history) == {}
    assert checkpoints(tmp_path) == []


def test_the_bytes_of_the_history_are_reported(lab, tmp_path):
    weights = 16 * 16 + 16 + 16 * 3 + 3
    assert lab.run(trial(wanting(3, name="one")[1])).cost["history_bytes"] == 4 * weights
    assert lab.run(trial(wanting(1, 3, 1, name="two")[1])).cost["history_bytes"] == 2 * 4 * weights
    later = lab_in(tmp_path / "store", "later").run(trial(wanting(3, name="one")[1]))
    assert later.cost["history_bytes"] == 4 * weights


def test_what_a_method_does_to_its_history_reaches_nobody_else(lab):
    def vandalise(model, request):
        for state in request.history.values():
            for tensor in state.values():
                tensor.zero_()
        return model

    vandal = Wants(then=vandalise, wanted=[3, 10])
    lab.will_need([trial(method(vandal, "vandal")).cell])
    before = lab.run(trial(IDENTITY)).readings
    lab.run(trial(method(vandal, "vandal")))
    watch, wants = wanting(3, 10)
    lab.run(trial(wants))
    assert all(same(state, trained_until(0, epoch)) for epoch, state in watch.request.history.items())
    assert lab.run(trial(IDENTITY)).readings == before


@pytest.mark.parametrize("epochs", [[11], [-1], [3, 99], [2.0], ["3"], [None]], ids=str)
def test_epochs_that_there_are_not_are_refused_for_that_method_alone(lab, tmp_path, epochs):
    _, wants = wanting(*epochs)
    lab.will_need([trial(wants).cell, trial(REWIND).cell])
    for _ in range(2):
        with pytest.raises(
            ContractError, match=r"the unlearner 'wanting' wants the model after epochs .*; there are 0 to 10"
        ):
            lab.run(trial(wants))
    assert sorted(lab.missing(trial(wants))) == ["U"]
    assert built(lab, GD) == ["U"]
    assert built(lab, REWIND) == ["U"]
    assert checkpoints(tmp_path) == [REWIND.value.history(10)[0]]


def test_a_declaration_that_raises_is_an_error_of_that_method_alone(lab):
    def broken(epochs):
        raise ZeroDivisionError("mine")

    watch = Wants(wanted=broken)
    lab.will_need([trial(method(watch)).cell, trial(GD).cell])
    with pytest.raises(ZeroDivisionError, match="mine"):
        lab.run(trial(method(watch)))
    assert built(lab, GD) == ["U"]


def test_a_damaged_checkpoint_is_made_again(lab, tmp_path):
    lab.run(trial(wanting(3, name="first")[1]))
    (record,) = [r for r in records(tmp_path, "model") if r["of"].get("epoch") == 3]
    (path,) = tmp_path.rglob(f"{record['blob']}.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    later = lab_in(tmp_path / "store", "later")
    watch, wants = wanting(3, name="second")
    with pytest.warns(DamagedArtefact):
        later.run(trial(wants))
    assert same(watch.request.history[3], trained_until(0, 3))


def test_rewinding_is_handed_the_checkpoint_that_it_wants(lab):
    handed = {}

    @dataclass(frozen=True)
    class Spied(type(REWIND.value)):
        def __call__(self, model, request):
            handed.update({epoch: copy.deepcopy(state) for epoch, state in request.history.items()})
            return super().__call__(model, request)

    result = lab.run(trial(method(Spied(to=0.6))))
    assert list(handed) == [6]
    assert same(handed[6], trained_until(0, 6))
    assert result.cost["fractions"]["examples"] == pytest.approx(0.1)
    assert result.readings["accuracy"]["U"].value > 0.9


def test_a_gpu_that_is_full_is_told_with_what_to_lower(lab):
    def full(model, request):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trial = Trial(Cell(registry.register("unlearner", full), TINY, BACKDOOR), 0)
    with pytest.raises(UnlearningError, match=r"the GPU ran out of memory in .*-seed0; lower batch_size .* \(-n\)"):
        lab.run(trial)
    assert lab.run(Trial(Cell(IDENTITY, TINY, BACKDOOR), 0)).cost["built"] == ["U"]
