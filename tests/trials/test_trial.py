"""One trial from end to end, on a task that trains in milliseconds."""

import contextlib
import copy
import random
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from labs import (
    BACKDOOR,
    CPU,
    GAUSSIAN,
    GD,
    IDENTITY,
    RETRAIN,
    REWIND,
    SHORT,
    TINY,
    WRECKED,
    lab_in,
    method,
    trial,
)
from tiny import Tiny
from torch import nn

from harness import registry
from harness.api import ContractError, ForgetRequest, Measure, Planted, Reading, UnlearningError
from harness.cells import Cell, Trial
from harness.store.artefacts import Busy, DamagedArtefact, Store
from harness.training.loop import train
from harness.trials.lab import Lab


@dataclass(frozen=True)
class Plain:
    """A poison of which nothing is drawn from `forget_block`, for contracts of poisons."""

    forget: tuple[int, ...] = (1, 5)
    rows: int = 2
    name: str = "image"

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure("plain", "plain", worse="higher", test="retention")

    def plant(self, task, split, seed, surrogate=None):
        shape = (self.rows, *split.train.inputs["image"].shape[1:])
        return Planted(
            torch.tensor(self.forget, dtype=torch.int64),
            {self.name: torch.zeros(shape)},
            torch.zeros(2, dtype=torch.int64),
        )

    def probe(self, model, planted, task, split):
        return Reading(0.5, details={"strange": float("inf")})


@dataclass(eq=False)
class Watch:
    """An unlearner that keeps what it was handed; what it does next is a function's business."""

    then: object = None
    seen: list = field(default_factory=list, repr=False)

    def __call__(self, model, request):
        self.seen.append((model, request, {k: v.clone() for k, v in model.state_dict().items()}, model.training))
        return model if self.then is None else self.then(model, request)

    @property
    def request(self) -> ForgetRequest:
        return self.seen[-1][1]


@pytest.fixture
def lab(tmp_path):
    return lab_in(tmp_path / "store")


def built(lab, *args, **kwargs):
    return lab.run(trial(*args, **kwargs)).cost["built"]


def records(folder, kind):
    import json

    found = [json.loads(path.read_bytes())["record"] for path in folder.rglob("records/*/*.json")]
    return [record for record in found if record["kind"] == kind]


def blobs(folder):
    return {p.name for p in folder.rglob("*.safetensors")}


# ---- what is shared


def test_the_second_method_pays_for_its_own_model_only(lab):
    assert built(lab, IDENTITY) == ["P", "R", "U"]
    assert built(lab, GD) == ["U"]
    assert built(lab, SHORT) == ["U"]


def test_poisons_of_one_block_share_retrained_models(lab):
    assert built(lab, RETRAIN) == ["P", "R", "U"]
    assert built(lab, RETRAIN, GAUSSIAN) == ["P"]
    assert built(lab, SHORT, BACKDOOR) == ["U"]
    assert built(lab, SHORT, GAUSSIAN) == []
    assert built(lab, GD, BACKDOOR) == ["U"]
    assert built(lab, GD, GAUSSIAN) == ["U"]


def test_poisons_of_other_blocks_share_nothing(lab):
    assert built(lab, RETRAIN) == ["P", "R", "U"]
    assert built(lab, RETRAIN, registry.resolve("poison", "backdoor:fraction=0.2")) == ["P", "R", "U"]


def test_seeds_share_nothing(lab):
    assert built(lab, RETRAIN) == ["P", "R", "U"]
    assert built(lab, RETRAIN, seed=1) == ["P", "R", "U"]


def test_a_second_run_makes_nothing(lab, tmp_path):
    first = lab.run(trial(GD, GAUSSIAN))
    again = lab_in(tmp_path / "store", "another run").run(trial(GD, GAUSSIAN))
    assert first.made_here
    assert not again.made_here
    assert again.cost["built"] == []
    assert again.readings == first.readings
    assert again.cost["unlearn_fraction"] == first.cost["unlearn_fraction"]


def test_an_edited_field_makes_a_new_unlearned_model_only(lab):
    lab.run(trial(GD))
    assert built(lab, registry.resolve("unlearner", "gd:lr=0.5")) == ["U"]


def test_edited_source_makes_a_new_unlearned_model_only(lab, tmp_path):
    lab.run(trial(GD))
    edited = registry.Registered(
        "unlearner", GD.id, GD.name, GD.value, GD.fields, GD.distribution, GD.version, "edited"
    )
    assert built(lab_in(tmp_path / "store", "later"), edited) == ["U"]


def test_another_budget_makes_a_new_unlearned_model_only(lab, tmp_path):
    lab.run(trial(GD))
    assert built(lab_in(tmp_path / "store", "later", budget=0.3), GD) == ["U"]


def test_another_recipe_makes_everything_anew(lab):
    lab.run(trial(RETRAIN))
    other = registry.resolve("task", "tiny:Tiny:epochs=2")
    assert lab.run(Trial(Cell(RETRAIN, other, BACKDOOR), 0)).cost["built"] == ["P", "R", "U"]


def test_what_is_missing_is_told_without_training(lab, tmp_path):
    assert sorted(lab.missing(trial(GD))) == ["P", "R", "U"]
    assert records(tmp_path, "model") == []
    lab.run(trial(RETRAIN))
    assert sorted(lab.missing(trial(GD))) == ["U"]
    assert lab.missing(trial(RETRAIN)) == {}
    assert sorted(lab.missing(trial(RETRAIN, GAUSSIAN))) == ["P"]


def test_operations_are_counted_once_for_poisons_of_a_size(lab, tmp_path):
    counted = [lab.run(Trial(Cell(GD, TINY, poison), 0)) for poison in (BACKDOOR, GAUSSIAN)]
    assert len(records(tmp_path, "operations")) == 1
    assert counted[0].cost["fractions"]["flops"] == counted[1].cost["fractions"]["flops"]
    lab.run(Trial(Cell(GD, TINY, registry.resolve("poison", "backdoor:size=1,fraction=0.2")), 0))
    assert len(records(tmp_path, "operations")) == 2


def test_equal_weights_are_measured_once(lab, tmp_path):
    lab.run(trial(IDENTITY))
    assert len(records(tmp_path, "value")) == 4  # two measures of P, which is U, and of R
    lab.run(trial(method(Watch(), "another identity")))
    assert len(records(tmp_path, "value")) == 4


# ---- what it costs, and shows


def test_costs_are_exact_fractions_of_retraining(lab):
    fractions = {m.name: lab.run(trial(m)).cost["unlearn_fraction"] for m in (RETRAIN, IDENTITY, WRECKED, SHORT, GD)}
    assert fractions["retrain"] == pytest.approx(1, rel=1e-12)
    assert (fractions["identity"], fractions["wrecked"]) == (0, 0)
    assert fractions["short"] == pytest.approx(0.1, rel=1e-12)
    assert fractions["gd"] == pytest.approx(0.1, rel=1e-12)


def test_retraining_costs_its_epochs_times_the_retain_set(lab):
    cost = lab.run(trial(RETRAIN)).cost
    assert cost["train_examples"] == 10 * (240 - 24)
    assert cost["unlearn_examples"] == pytest.approx(2160)
    assert set(cost["seconds"]) == {"P", "R", "U"}


def test_readings_tell_the_controls_apart(lab):
    identity, retrain, wrecked = (lab.run(trial(m)).readings for m in (IDENTITY, RETRAIN, WRECKED))
    assert identity["poison"]["P"] == identity["poison"]["U"]
    assert identity["poison"]["P"].value > 0.9
    assert identity["poison"]["R"].value < 0.3
    assert retrain["poison"]["U"].value < 0.3
    assert retrain["accuracy"]["U"].value > 0.9
    assert wrecked["accuracy"]["U"].value < 0.8
    assert retrain["accuracy"]["U"].resolution == pytest.approx(0.5 / 180)


def test_retraining_once_more_shares_neither_initialisation_nor_order(lab, tmp_path):
    lab.run(trial(RETRAIN))
    made = records(tmp_path, "model")
    assert len(made) == 3
    assert len({record["blob"] for record in made}) == 3


def test_a_diverged_model_reads_as_no_number(lab):
    def diverge(model, request):
        with torch.no_grad():
            next(model.parameters())[0, 0] = float("nan")
        return model

    for _ in range(2):  # the second time from the store
        readings = lab.run(trial(method(diverge))).readings
        for name in ("poison", "accuracy"):
            assert np.isnan(readings[name]["U"].value)
            assert np.isfinite(readings[name]["P"].value)


def test_a_measure_that_reads_no_number_is_stored_as_none(lab, tmp_path):
    poison = registry.resolve("poison", f"{__name__}:Plain")
    result = lab.run(trial(IDENTITY, poison))
    assert result.readings["poison"]["U"].details == {"strange": None}


# ---- what an unlearner is handed


def test_the_model_arrives_poisoned_and_in_training_mode(lab):
    watch = Watch()
    lab.run(trial(method(watch)))
    _, _, weights, training = watch.seen[0]
    (poisoned,) = [lab.store.tensors(lab.store.get(key)) for key in keys_of(lab, trial(IDENTITY), "P")]
    assert training
    assert all(torch.equal(weights[name], poisoned[name]) for name in weights)


def keys_of(lab, of, arm):
    return [lab._models.key(of, arm)]


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


def registry_seed(seed):
    from harness.training.seeds import derive

    return derive("poison", seed)


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
        (weights_alone, "returned OrderedDict; it must return the cleaned model"),
        (wrapped, "returned another architecture"),
        (wider, r"\(a Sequential whose '1.weight' is \(4, 16\) torch.float32 in place of \(3, 16\) torch.float32\)"),
        (halved, "returned another architecture"),
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
        with pytest.raises(ZeroDivisionError, match="mine"):
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
        ({"forget": (5, 1)}, "ascending"),
        ({"forget": (1, 1)}, "ascending"),
        ({"forget": ()}, "at least one"),
        ({"forget": (1, 240)}, "outside the training set"),
        ({"forget": (-1, 5)}, "outside the training set"),
        ({"rows": 3}, "one row of every input"),
        ({"name": "picture"}, "one row of every input"),
    ],
)
def test_a_poison_that_plants_nonsense_is_refused(lab, tmp_path, fields, message):
    poison = registry.register("poison", Plain(**fields))
    with pytest.raises(ContractError, match=message):
        lab.run(trial(IDENTITY, poison))
    assert records(tmp_path, "planted") == []


# ---- the same anywhere


def random_states():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
        torch.get_rng_state().tolist(),
    )


def gambler(model, request):
    """Draw from every global generator, and leave them seeded by a constant."""
    noise = torch.randn(()) + random.random() + np.random.rand()
    with torch.no_grad():
        model[1].bias += noise.float()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return model


def with_a_loader(model, request):
    optimizer = request.optimizer(model)
    dropout = nn.Dropout(0.5)
    for inputs, labels in torch.utils.data.DataLoader(request.retain, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(dropout(inputs["image"])), labels).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("function", [gambler, with_a_loader])
def test_the_global_random_state_is_put_back(lab, function):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random_states()
    lab.run(trial(method(function)))
    lab.run(trial(SHORT, GAUSSIAN))
    lab.cost(TINY)
    assert random_states() == before


@pytest.mark.parametrize("function", [gambler, with_a_loader])
def test_the_same_trial_has_the_same_weights_wherever_it_is_run(tmp_path, function):
    each = method(function)
    one, other = lab_in(tmp_path / "one"), lab_in(tmp_path / "other")
    one.run(trial(each))
    one.run(trial(each, seed=1))
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    other.run(trial(each, GAUSSIAN, seed=1))  # another order, and more of it
    other.run(trial(each, seed=1))
    other.run(trial(each))
    made = [
        {r["key"]: r["blob"] for r in records(folder, "model")} for folder in (tmp_path / "one", tmp_path / "other")
    ]
    assert made[0].items() <= made[1].items()
    assert len(made[0]) == 6


def test_a_method_draws_differently_for_every_seed(lab):
    firsts = []

    def draw(model, request):
        firsts.append((float(torch.rand(())), float(torch.rand((), generator=request.generator))))
        return model

    for seed in (0, 1):
        lab.run(trial(method(draw), seed=seed))
    assert firsts[0][0] != firsts[1][0]
    assert firsts[0][1] != firsts[1][1]


# ---- beside other processes, and after damage


@contextlib.contextmanager
def held(folder, name):
    """Have another process hold a lock."""
    hold = (
        "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]):\n print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(folder / "locks" / f"{name}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        yield  # the end of the block closes its input, at which it ends


def test_equal_weights_are_read_by_one_process(lab, tmp_path):
    blob = lab.models(trial(IDENTITY))["P"].blob
    with held(tmp_path / "store", blob):
        with pytest.raises(Busy):
            lab.run(trial(IDENTITY))  # whose U has the weights of P
        read = {record["of"]["model"] for record in records(tmp_path, "value")}
        assert read == {lab.models(trial(IDENTITY))["R"].blob}
    assert lab.run(trial(IDENTITY)).made_here


def test_what_can_be_made_is_made_while_the_rest_is_busy(lab, tmp_path):
    (key,) = keys_of(lab, trial(GD), "R")
    with held(tmp_path / "store", key):
        with pytest.raises(Busy):
            lab.run(trial(GD))
        assert sorted(lab.missing(trial(GD))) == ["R"]
    result = lab.run(trial(GD))
    assert result.cost["built"] == ["P", "R", "U"]


def test_damaged_artefacts_are_made_again(lab, tmp_path):
    before = lab.run(trial(GD, GAUSSIAN))
    there = blobs(tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    later = lab_in(tmp_path / "store", "later")
    other = registry.resolve("unlearner", "gd:lr=0.5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedArtefact)
        later.run(trial(other, GAUSSIAN))
        after = later.run(trial(GD, GAUSSIAN))
    assert after.readings == before.readings
    assert len(there & blobs(tmp_path)) >= 2  # what was needed again is as it was


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
    with pytest.raises(ContractError, match=f"left torch's .*{named}.* changed; it must put back"):
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


# ---- what it cost, by every yardstick


@pytest.mark.parametrize("seed", [0, 1])
def test_retraining_is_all_of_retraining_by_every_yardstick(lab, seed):
    cost = lab.run(trial(RETRAIN, seed=seed)).cost
    fractions = dict(cost["fractions"])
    assert 0.01 < fractions.pop("seconds") < 100
    assert fractions == pytest.approx({"examples": 1, "steps": 1}, rel=1e-12)  # operations of controls are not counted
    assert cost["unlearn_fraction"] == cost["fractions"]["examples"]
    assert cost["history_bytes"] == 0


def test_doing_nothing_costs_nothing_by_every_yardstick(lab):
    fractions = lab.run(trial(IDENTITY)).cost["fractions"]
    assert [fractions[name] for name in ("examples", "steps")] == [0, 0]
    assert 0 < fractions["seconds"] < 1


def test_yardsticks_differ_where_work_does(lab):
    def fractions(spec):
        return lab.run(trial(registry.resolve("unlearner", spec))).cost["fractions"]

    gd, teacher, frozen = fractions("gd:epochs=1"), fractions("undo:epochs=1"), fractions("cfk:k=1,epochs=1")
    small = fractions("ga:epochs=1,batch_size=1")
    assert gd["examples"] == pytest.approx(1 / 10)
    assert gd["steps"] == pytest.approx(7 / 70)
    assert gd["flops"] == pytest.approx(1 / 10)
    # A teacher beside it: a third more by examples, no step more.
    assert teacher["examples"] == pytest.approx(4 / 30)
    assert teacher["steps"] == gd["steps"]
    assert teacher["flops"] > gd["flops"]
    # Frozen layers show in operations alone: a step of the whole network has products of 2 * 256 + 3 * 48 (the first
    # layer's input has no gradient), one of its head 256 + 2 * 48.
    assert frozen["examples"] == gd["examples"]
    assert frozen["flops"] == pytest.approx(gd["flops"] * (256 + 2 * 48) / (2 * 256 + 3 * 48))
    # Small batches show in steps alone: 24 points, one by one.
    assert small["examples"] == pytest.approx(24 / 2160)
    assert small["flops"] == pytest.approx(24 / 2160)
    assert small["steps"] == pytest.approx(24 / 70)


def test_what_a_method_cost_is_read_from_the_store_in_a_later_run(lab, tmp_path):
    first = lab.run(trial(GD)).cost
    again = lab_in(tmp_path / "store", "later").run(trial(GD)).cost
    assert again["fractions"] == first["fractions"]


@dataclass(frozen=True)
class Bare(Tiny):
    """A task whose model torch's counter has no formula for: it multiplies and sums, without a matrix product."""

    def new_model(self):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(3, 16))

            def forward(self, x):
                return (x.flatten(1)[:, None] * self.weight).sum(-1)

        return Scale()


def test_a_model_without_operations_that_can_be_counted_can_be_audited(lab):
    task = registry.register("task", Bare())
    cost = lab.run(Trial(Cell(IDENTITY, task, BACKDOOR), 0)).cost
    assert cost["fractions"]["examples"] == 0


# ---- history


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
