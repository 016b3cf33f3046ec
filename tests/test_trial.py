"""One trial from end to end, on a task that trains in milliseconds."""

import random
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from harness import registry
from harness.api import Cell, ContractError, ForgetRequest, Measure, Planted, Reading, Trial
from harness.store import Busy, DamagedArtefact, Store, key_of
from harness.trial import Lab

TINY = registry.resolve("task", "tiny:Tiny")
BACKDOOR = registry.resolve("poison", "backdoor")
GAUSSIAN = registry.resolve("poison", "gaussian")
NAMES = ("identity", "retrain", "wrecked", "short", "gd")
IDENTITY, RETRAIN, WRECKED, SHORT, GD = (registry.resolve("unlearner", name) for name in NAMES)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plain:
    """A poison of which nothing is drawn from `forget_block`, for contracts of poisons."""

    forget: tuple[int, ...] = (1, 5)
    rows: int = 2
    name: str = "image"

    modality: ClassVar[str] = "image"
    measure: ClassVar[Measure] = Measure("plain", "plain", worse="higher", test="retention")

    def plant(self, task, split, seed):
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


def method(function, name="method"):
    """Register a function; several of one test are told apart by name."""
    found = registry.register("unlearner", function)
    return registry.Registered("unlearner", name, name, function, {}, "(local)", "", found.source)


def lab_in(folder, run="run", **options):
    return Lab(Store(folder, run), CPU, options.pop("budget", 0.1), **options)


@pytest.fixture
def lab(tmp_path):
    return lab_in(tmp_path / "store")


def trial(unlearner, poison=BACKDOOR, seed=0):
    return Trial(Cell(unlearner, TINY, poison), seed)


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
    planted = lab._plant(of)
    return [key_of("model", lab._determinants(of, planted, arm))]


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
    from harness.seeds import derive

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
    planted = lab._plant(trial(IDENTITY, poison)).planted
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
        (wider, r"returned another architecture \(Sequential in place of Sequential, first at '1.bias'\)"),
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


def test_what_can_be_made_is_made_while_the_rest_is_busy(lab, tmp_path):
    (key,) = keys_of(lab, trial(GD), "R")
    hold = (
        "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]):\n print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "store/locks" / f"{key}.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(Busy):
            lab.run(trial(GD))
        assert sorted(lab.missing(trial(GD))) == ["R"]
        holder.stdin.close()
        holder.wait(60)
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
        for _ in range(5):
            try:
                later.run(trial(other, GAUSSIAN))
                after = later.run(trial(GD, GAUSSIAN))
                break
            except Busy:
                continue
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

    def plant(self, task, split, seed):
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
    planted = lab._plant(trial)
    retrained = lab.model(TINY, lab.store.get(key_of("model", lab._determinants(trial, planted, "R"))))

    def forget(model, request):
        model.load_state_dict(retrained.state_dict())
        return model

    with pytest.raises(ContractError, match="returned the retrained model of seed 0, bit by bit"):
        lab.run(Trial(Cell(method(forget), TINY, BACKDOOR), 0))
