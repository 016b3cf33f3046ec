"""What a task loads, a poison plants and a probe reads: what cannot be used is refused in one sentence."""

from dataclasses import dataclass, replace

import pytest
import torch
from labs import IDENTITY, Plain, records
from tiny import Tiny

from harness import Reading, UnlearningError, registry
from harness.api import ContractError
from harness.cells import Cell, Registered, Trial
from harness.training.data import Data
from harness.trials.checks import check_planted, check_reading

SPLIT = Tiny().load(None)
BACKDOOR = registry.resolve("poison", "backdoor:size=1")
PLAIN = registry.resolve("poison", "labs:Plain")


def named(kind, value, name):
    found = registry.register(kind, value)
    return Registered(kind, name, name, value, {}, "(local)", "", found.source)


def refused(lab, tmp_path, task, message, poison=BACKDOOR, kind=UnlearningError):
    """Run a trial of a task, and see that it is refused in a sentence that is not the method's, before any training."""
    task = task if isinstance(task, Registered) else named("task", task, "odd")
    with pytest.raises(kind, match=message) as caught:
        lab.run(Trial(Cell(IDENTITY, task, poison), 0))
    said = str(caught.value)
    assert "identity" not in said
    assert "\n" not in said
    assert records(tmp_path, "model") == []


# ---- tasks


@dataclass(frozen=True)
class Odd(Tiny):
    """The tiny task, but one of its functions returns something else."""

    what: str = ""
    then: object = None

    def files(self, folder):
        return None

    def load(self, folder):
        return self.then(super().load(folder)) if self.what == "load" else super().load(folder)

    def new_model(self):
        return self.then(super().new_model()) if self.what == "new_model" else super().new_model()

    def logits(self, model, batch):
        return self.then(super().logits(model, batch)) if self.what == "logits" else super().logits(model, batch)

    def criterion(self, logits, batch):
        loss = super().criterion(logits, batch)
        return self.then(loss) if self.what == "criterion" else loss


def fail(error):
    raise error


def frozen(model):
    return model.requires_grad_(False)


ONE = torch.arange(1)
TRAIN, TEST = SPLIT.train, SPLIT.test
JUNK = [
    ("load", lambda s: None, r"the task 'odd' loaded None; load\(\) must return a harness.Split"),
    ("load", lambda s: (s.train, s.test), "the task 'odd' loaded a tuple"),
    ("load", lambda s: replace(s, test=None), "has None as its test set"),
    ("load", lambda s: replace(s, test=TEST.subset(ONE[:0])), "the test set .* is too small: 0 examples"),
    ("load", lambda s: replace(s, train=Data({"image": TRAIN.inputs["image"][:9]}, TRAIN.labels)),
     "has 240 labels, but 9 rows of the input 'image'"),
    ("load", lambda s: replace(s, train=Data({}, TRAIN.labels)), "must have inputs, by name"),
    ("load", lambda s: replace(s, train=Data(TRAIN.inputs, TRAIN.labels.float())),
     r"the labels of the training set .* are float32 of shape \(240,\); labels must be int64"),
    ("load", lambda s: replace(s, train=Data(TRAIN.inputs, TRAIN.labels[:, None])), "labels must be int64, of shape"),
    ("load", lambda s: replace(s, train=Data(TRAIN.inputs, TRAIN.labels.tolist())), "labels .* are a list;"),
    ("load", lambda s: replace(s, train=Data(TRAIN.inputs, TRAIN.labels - 1)), "begin at -1; classes are counted"),
    ("load", lambda s: replace(s, train=Data({"image": TRAIN.inputs["image"] / 0}, TRAIN.labels)), "are not finite"),
    ("load", lambda s: replace(s, test=Data({"other": TEST.inputs["image"]}, TEST.labels)),
     "inputs image to train on and other to test on; they must be the same"),
    ("load", lambda s: replace(s, test=Data({"image": TEST.inputs["image"].double()}, TEST.labels)),
     "the input 'image' of the task 'odd' is float32 .* to train on and float64 .* to test on"),
    ("load", lambda s: replace(s, train=Data(TRAIN.inputs, TRAIN.labels * 2)),
     "has labels up to 4, but its model has scores for 3 classes, 0 to 2"),
    ("load", lambda s: fail(KeyError("test")), r"cannot be loaded: KeyError: 'test' \(.*test_checks"),
    ("new_model", lambda m: None, r"made None as its model; new_model\(\) must return a torch.nn.Module"),
    ("new_model", lambda m: fail(RuntimeError("no disk")), "cannot use a new model of its own: RuntimeError: no disk"),
    ("new_model", frozen, "has a model without a weight that can be trained"),
    ("logits", lambda x: x.sum(dim=0), r"has logits of shape \(3,\) for 2 examples; their first"),
    ("logits", lambda x: x[:, 0], r"has one score for each example \(logits of shape \(2,\)\); give it predict"),
    ("logits", lambda x: x[:, :1], r"has one score for each example \(logits of shape \(2, 1\)\); give it predict"),
    ("logits", lambda x: None, "has None as its logits"),
    ("criterion", lambda x: x.expand(2), r"has a tensor of shape \(2,\) as its loss"),
    ("criterion", lambda x: x.detach(), "has a number without a gradient as its loss"),
    ("criterion", lambda x: 0.5, "has a float as its loss"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "then", "message"), JUNK, ids=[f"{what}-{i}" for i, (what, *_) in enumerate(JUNK)])
def test_a_task_that_cannot_be_used_says_so(lab, tmp_path, what, then, message):
    refused(lab, tmp_path, Odd(what=what, then=then), message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "the task 'odd' has epochs=0; it must be an integer of at least 1"),
        ("epochs", 1.5, "epochs=1.5; it must be an integer"),
        ("batch_size", 0, "batch_size=0; it must be an integer of at least 1"),
        ("threads", 0, "threads=0; it must be an integer of at least 1"),
        ("utility_margin", -0.1, r"utility_margin=-0.1; it must lie in \(0, 1\)"),
        ("utility_margin", 2, r"utility_margin=2; it must lie in \(0, 1\)"),
    ],
)
def test_numbers_of_a_recipe_that_are_out_of_range_are_refused(lab, tmp_path, name, value, message):
    refused(lab, tmp_path, type("Ranged", (Odd,), {name: value})() if name in ("threads", "utility_margin")
            else Odd(**{name: value}), message)  # fmt: skip


# ---- what is planted


GOOD = BACKDOOR.value.plant(Tiny(), SPLIT, 0)


def with_image(image):
    return replace(GOOD, inputs={"image": image})


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (None, r"the poison 'backdoor:size=1' planted None; plant\(\) must return a harness.Planted"),
        ((GOOD.forget, GOOD.inputs, GOOD.labels), "planted a tuple"),
        (replace(GOOD, forget=GOOD.forget.tolist()), "planted a list as forget; it must be a tensor"),
        (replace(GOOD, forget=GOOD.forget.flip(0)), "must plant ascending int64 indices"),
        (replace(GOOD, forget=GOOD.forget + 230), "the training set has 0 to 239"),
        (replace(GOOD, forget=GOOD.forget - 200), "planted the indices -"),
        (replace(GOOD, labels=GOOD.labels.float()), r"labels that are float32 of shape \(24,\); they must be int64"),
        (replace(GOOD, labels=GOOD.labels[:5]), r"labels that are int64 of shape \(5,\); .* of shape \(24,\)"),
        (replace(GOOD, labels=GOOD.labels + 7), "planted labels from 7 to 7; the task has the classes 0 to 2"),
        (replace(GOOD, inputs={}), "planted the inputs nothing; the task has 'image'"),
        (replace(GOOD, inputs=None), "planted None as inputs; it must be a dictionary"),
        (replace(GOOD, inputs={"image": None}), r"planted None as inputs\['image'\]; it must be a tensor"),
        (replace(GOOD, secrets={"noise": 1.0}), r"planted a float as secrets\['noise'\]; it must be a tensor"),
        (
            with_image(GOOD.inputs["image"][:3]),
            r"'image' that is float32 of shape \(3, 1, 4, 4\); it must be float32 of",
        ),
        (
            with_image(GOOD.inputs["image"].flatten(1)),
            r"of shape \(24, 16\); it must be float32 of shape \(24, 1, 4, 4\)",
        ),
        (with_image(GOOD.inputs["image"].double()), "'image' that is float64"),
        (with_image(GOOD.inputs["image"] / 0), "values of the input 'image' that are not finite"),
    ],
)
def test_what_cannot_have_been_planted_is_refused(planted, message):
    check_planted(BACKDOOR, GOOD, SPLIT, 10)
    with pytest.raises(ContractError, match=message):
        check_planted(BACKDOOR, planted, SPLIT, 10)


def test_a_planted_set_is_checked_before_anything_is_trained(lab, tmp_path):
    class Nothing(Plain):
        def plant(self, task, split, seed, surrogate=None):
            return None

    poison = named("poison", Nothing(), "nothing")
    refused(lab, tmp_path, registry.resolve("task", "tiny:Tiny"), "the poison 'nothing' planted None", poison)


# ---- what is read


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (None, r"the poison 'backdoor:size=1' read None; probe\(\) must return a harness.Reading"),
        (0.5, "read a float; probe"),
        (torch.tensor(0.5), "read a Tensor; probe"),
        (Reading(None), "read None as value; it must be a number"),
        (Reading(torch.zeros(2)), "read a Tensor as value"),
        (Reading("much"), "read a str as value"),
        (Reading(0.5, resolution=-1), "returned the resolution -1.0; it must be finite and not negative"),
        (Reading(0.5, details={"rate": None}), r"read None as details\['rate'\]"),
        (Reading(0.5, details=None), "read None as details"),
        (Reading(0.5, unusable=None), "read None as unusable"),
    ],
)
def test_what_is_no_reading_is_refused(lab, reading, message):
    class Probing(Plain):
        def probe(self, model, planted, task, split):
            return reading

    with pytest.raises(ContractError, match=message):
        check_reading(BACKDOOR, reading)
    cell = Cell(IDENTITY, registry.resolve("task", "tiny:Tiny"), named("poison", Probing(), "backdoor:size=1"))
    with pytest.raises(ContractError, match=message):
        lab.run(Trial(cell, 0))


@pytest.mark.parametrize("value", [0.5, 1, float("nan"), torch.tensor(0.5)])
def test_numbers_of_every_kind_are_read(value):
    assert check_reading(PLAIN, Reading(value)) is not None


OWN = {"triggered_accuracy": Reading(0.5)}


def test_a_reading_has_exactly_the_traces_that_are_declared(lab):
    assert check_reading(BACKDOOR, Reading(0.5, traces=OWN)).traces == OWN
    assert check_reading(BACKDOOR, Reading(float("nan"))) is not None  # of a model that diverged nothing else is read


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(0.5), "declares a trace 'triggered_accuracy' that it did not read"),
        (Reading(0.5, traces={**OWN, "more": Reading(1)}), "a trace 'more' that it does not declare; add its measure"),
        (Reading(0.5, traces=[Reading(1)]), "read a list as traces; they must be readings by name"),
        (Reading(0.5, traces={"triggered_accuracy": 0.5}), "trace 'triggered_accuracy', read a float; probe"),
        (Reading(0.5, traces={"triggered_accuracy": Reading("x")}), "trace 'triggered_accuracy', read a str as value"),
        (Reading(0.5, traces={"triggered_accuracy": Reading(0.5, traces=OWN)}), "side by side"),
    ],
)
def test_traces_that_are_not_those_declared_are_refused(lab, reading, message):
    @dataclass(frozen=True)
    class Probing(type(BACKDOOR.value)):
        def probe(self, model, planted, task, split):
            return reading

    with pytest.raises(ContractError, match=message):
        check_reading(BACKDOOR, reading)
    cell = Cell(IDENTITY, registry.resolve("task", "tiny:Tiny"), named("poison", Probing(), "backdoor:size=1"))
    with pytest.raises(ContractError, match=message):
        lab.run(Trial(cell, 0))


def test_a_task_that_can_be_used_passes(lab):
    lab.check(registry.resolve("task", "tiny:Tiny"))
