"""What an unlearner is handed, what it may return, and what plugins must leave alone."""

from dataclasses import dataclass

import pytest
import torch
from labs import (
    BACKDOOR,
    CPU,
    GAUSSIAN,
    GD,
    IDENTITY,
    TINY,
    Plain,
    Watch,
    built,
    keys_of,
    lab_in,
    method,
    records,
    registry_seed,
    trial,
)
from torch import nn

from harness import registry
from harness.api import ContractError, Planted, Reading
from harness.cells import Cell, Trial
from harness.store.artefacts import Store
from harness.trials.lab import Lab

# ---- what an unlearner is handed


def test_the_model_arrives_poisoned_and_in_training_mode(lab):
    watch = Watch()
    lab.run(trial(method(watch)))
    _, _, weights, training = watch.seen[0]
    (poisoned,) = [lab.store.tensors(lab.store.get(key)) for key in keys_of(lab, trial(IDENTITY), "P")]
    assert training
    assert all(torch.equal(weights[name], poisoned[name]) for name in weights)


def test_the_request_holds_the_poisoned_and_the_other_points(lab):
    watch = Watch()
    lab.run(trial(method(watch)))
    request, split = watch.request, lab.split(TINY)
    planted = BACKDOOR.value.plant(TINY.value, split, registry_seed(0))
    keep = torch.ones(240, dtype=torch.bool)
    keep[planted.forget] = False
    assert torch.equal(request.forget.inputs["image"], planted.inputs["image"])
    assert torch.equal(request.forget.labels, planted.labels)
    assert torch.equal(request.retain.inputs["image"], split.train.inputs["image"][keep])
    assert torch.equal(request.retain.labels, split.train.labels[keep])
    assert (request.epochs, request.batch_size, request.device) == (10, 32, CPU)
    assert request.budget == pytest.approx(1.0)  # a tenth of ten passes


def test_the_request_follows_the_recipe(lab):
    watch = Watch()
    lab.run(trial(method(watch)))
    request = watch.request
    model = request.new_model()
    batch = next(iter(request.batches("retain")))
    assert request.logits(model, batch).shape == (32, 3)
    assert request.loss(model, batch).shape == ()
    assert request.optimizer(model).param_groups[0]["lr"] == 0.1
    assert request.optimizer(model, lr=0.5).param_groups[0]["lr"] == 0.5
    assert request.optimizer(model, lr=0.0).param_groups[0]["lr"] == 0.0
    assert len(request.batches("forget", epochs=3, batch_size=10)) == 9
    assert sum(p.numel() for b in request.blocks(model) for p in b.parameters()) == sum(
        p.numel() for p in model.parameters()
    )
    with pytest.raises(ValueError, match="which must be 'retain' or 'forget', not 'test'"):
        request.batches("test")


@pytest.mark.parametrize("poison", [BACKDOOR, GAUSSIAN], ids=lambda p: p.id)
def test_secrets_cannot_be_reached(lab, poison):
    watch = Watch()
    lab.run(trial(method(watch), poison))
    split = lab.split(TINY)
    planted = lab.planted(trial(IDENTITY, poison))
    hidden = [*planted.secrets.values(), split.train.inputs["image"][planted.forget], split.test.inputs["image"]]
    tensors = []

    def walk(thing, depth=0):
        assert not isinstance(thing, Planted | Store | Lab)
        if isinstance(thing, torch.Tensor):
            tensors.append(thing)
        elif isinstance(thing, dict):
            for value in thing.values():
                walk(value, depth + 1)
        elif depth < 6 and hasattr(thing, "__dict__"):
            for name in [n for n in (*vars(thing), "epochs", "batch_size") if not n.startswith("_")]:
                walk(getattr(thing, name, None), depth + 1)

    walk(watch.request)
    assert len(tensors) == 4  # images and labels of both parts
    for tensor in tensors:
        assert not any(tensor.shape == h.shape and torch.allclose(tensor.float(), h.float()) for h in hidden)
    assert poison is BACKDOOR or len(planted.secrets) == 1


def test_a_method_from_scratch_gets_a_fresh_model_and_no_forget_set(lab):
    watch = Watch()
    watch.from_scratch = True
    lab.run(trial(method(watch)))
    _, request, weights, _ = watch.seen[0]
    (poisoned,) = [lab.store.tensors(lab.store.get(key)) for key in keys_of(lab, trial(IDENTITY), "P")]
    assert len(request.forget) == 0
    assert len(request.retain) == 216
    assert not torch.equal(weights["1.weight"], poisoned["1.weight"])


def test_what_a_method_does_to_its_data_reaches_nobody_else(lab, tmp_path):
    def vandalise(model, request):
        for data in (request.forget, request.retain):
            data.labels.zero_()
            for tensor in data.inputs.values():
                tensor.fill_(7.0)
        return model

    clean = lab_in(tmp_path / "clean")
    lab.run(trial(method(vandalise, "vandal")))
    watches = []
    for each in (lab, clean):
        watch = Watch()
        each.run(trial(method(watch, "watch")))
        watches.append(watch.request)
    for part in ("forget", "retain"):
        mine, theirs = (getattr(request, part) for request in watches)
        assert torch.equal(mine.inputs["image"], theirs.inputs["image"])
        assert torch.equal(mine.labels, theirs.labels)
    for seed in (0, 1):
        for poison in (BACKDOOR, GAUSSIAN):
            assert lab.run(trial(GD, poison, seed)).readings == clean.run(trial(GD, poison, seed)).readings
    made = [{(r["key"], r["blob"]) for r in records(f, "model")} for f in (tmp_path / "store", tmp_path / "clean")]
    assert made[1] <= made[0]


def test_what_a_method_keeps_and_changes_later_reaches_nobody_else(lab):
    watch = Watch()
    before = lab.run(trial(method(watch)))
    with torch.no_grad():
        for p in watch.seen[0][0].parameters():
            p.zero_()
    assert lab.run(trial(method(watch))).readings == before.readings
    assert lab.run(trial(IDENTITY)).readings["poison"] == before.readings["poison"]


# ---- what an unlearner returns


def wrapped(model, request):
    return nn.Sequential(model)


def wider(model, request):
    model[1] = nn.Linear(16, 4)
    return model


def halved(model, request):
    return model.half()


def weights_alone(model, request):
    return model.state_dict()


def nothing(model, request):
    return None


def class_of_its_own(model, request):
    class Own(nn.Sequential):
        pass

    return Own(*model)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nothing, "the unlearner 'method' returned NoneType; it must return the cleaned model"),
        (weights_alone, "the unlearner 'method' returned OrderedDict; it must return the cleaned model"),
        (wrapped, r"a Sequential whose '0.1.weight' is \(3, 16\) torch.float32 in place of \(16, 16\) torch.float32"),
        (wider, r"\(a Sequential whose '1.weight' is \(4, 16\) torch.float32 in place of \(3, 16\) torch.float32\)"),
        (halved, r"a Sequential whose '0.1.weight' is \(16, 16\) torch.float16 in place of \(16, 16\) torch.float32"),
        (class_of_its_own, r"returned another architecture \(Own in place of Sequential\)"),
    ],
)
def test_what_is_not_the_cleaned_model_is_refused_and_not_stored(lab, tmp_path, function, message):
    with pytest.raises(ContractError, match=message):
        lab.run(trial(method(function)))
    assert len(records(tmp_path, "model")) == 2  # P and R
    assert sorted(lab.missing(trial(method(function)))) == ["U"]
    assert built(lab, IDENTITY) == ["U"]


def test_what_an_unlearner_raises_comes_through_and_nothing_is_stored(lab, tmp_path):
    def broken(model, request):
        raise ZeroDivisionError("mine")

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match=r"^mine$"):
            lab.run(trial(method(broken)))
    assert len(records(tmp_path, "model")) == 2


def test_an_equal_model_built_anew_is_accepted(lab):
    def rebuilt(model, request):
        other = request.new_model()
        other.load_state_dict(model.state_dict())
        return other.eval()

    assert lab.run(trial(method(rebuilt))).readings["poison"]["U"].value > 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"forget": (5, 1)}, "must plant ascending int64 indices, at least one"),
        ({"forget": (1, 1)}, "must plant ascending int64 indices, at least one"),
        ({"forget": ()}, "must plant ascending int64 indices, at least one"),
        ({"forget": (1, 240)}, "the indices 1 to 240; the training set has 0 to 239"),
        ({"forget": (-1, 5)}, "the indices -1 to 5; the training set has 0 to 239"),
        ({"rows": 3}, r"an input 'image' that is float32 of shape \(3, 1, 4, 4\); it must be .* \(2, 1, 4, 4\)"),
        ({"name": "picture"}, "planted the inputs 'picture'; the task has 'image'"),
    ],
)
def test_a_poison_that_plants_nonsense_is_refused(lab, tmp_path, fields, message):
    poison = registry.register("poison", Plain(**fields))
    with pytest.raises(ContractError, match=message):
        lab.run(trial(IDENTITY, poison))
    assert records(tmp_path, "planted") == []


# ---- what plugins must leave alone


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda: torch.set_default_dtype(torch.float64), "default dtype"),
        (lambda: torch.use_deterministic_algorithms(True), "deterministic algorithms"),
        (lambda: torch.set_num_threads(2), "threads"),
    ],
)
def test_a_method_that_leaves_torch_changed_is_refused_and_undone(tmp_path, spoil, named):
    def forget(model, request):
        spoil()
        return model

    before = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ContractError, match=f"left torch's {named} changed; it must put back"):
        lab_in(tmp_path).run(Trial(Cell(method(forget), TINY, BACKDOOR), 0))
    assert (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()) == before


@dataclass(frozen=True)
class InPlace(Plain):
    """A poison that writes to the task's own data."""

    when: str = "plant"

    def plant(self, task, split, seed, surrogate=None):
        if self.when == "plant":
            split.train.inputs["image"][0] += 1
        return super().plant(task, split, seed)

    def probe(self, model, planted, task, split):
        if self.when == "probe":
            split.test.labels[0] = 2
        return super().probe(model, planted, task, split)


@pytest.mark.parametrize("when", ["plant", "probe"])
def test_a_poison_that_writes_to_the_tasks_data_is_refused(tmp_path, when):
    poison = registry.Registered("poison", "in-place", "in-place", InPlace(when=when), {}, "(local)", "", when)
    with pytest.raises(ContractError, match="changed the task's data in place; it must copy them first"):
        lab_in(tmp_path).run(Trial(Cell(IDENTITY, TINY, poison), 0))


@dataclass(frozen=True)
class Threshold(Plain):
    """A poison one of whose fields only its probe reads."""

    value: float = 0.0

    def probe(self, model, planted, task, split):
        return Reading(self.value)


def test_a_field_that_only_the_probe_reads_makes_another_reading(tmp_path):
    lab, found = lab_in(tmp_path), []
    for value in (0.25, 0.75):
        fields = {"value": value}
        poison = registry.Registered("poison", "t", "t", Threshold(value=value), fields, "(local)", "", "same")
        result = lab.run(Trial(Cell(IDENTITY, TINY, poison), 0))
        found.append(result.readings["poison"]["P"].value)
    assert found == [0.25, 0.75]


def test_a_probe_that_changes_the_model_changes_it_for_itself(tmp_path):
    @dataclass(frozen=True)
    class Wreck(Plain):
        def probe(self, model, planted, task, split):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            return Reading(0.5)

    poison = registry.Registered("poison", "wreck", "wreck", Wreck(), {}, "(local)", "", "wreck")
    result = lab_in(tmp_path).run(Trial(Cell(IDENTITY, TINY, poison), 0))
    assert result.readings["accuracy"]["R"].value > 0.9


def test_the_retrained_model_itself_is_no_unlearned_one(tmp_path):
    lab, trial = lab_in(tmp_path), Trial(Cell(IDENTITY, TINY, BACKDOOR), 0)
    lab.run(trial)
    retrained = lab.model(TINY, lab.models(trial)["R"])

    def forget(model, request):
        model.load_state_dict(retrained.state_dict())
        return model

    with pytest.raises(ContractError, match="returned the retrained model of seed 0, bit by bit"):
        lab.run(Trial(Cell(method(forget), TINY, BACKDOOR), 0))
