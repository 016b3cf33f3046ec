"""Poisons on tasks of other forms: other classes, names and types of inputs, one score for each example."""

from dataclasses import dataclass

import pytest
import torch
from labs import lab_in
from poisoned import SPLIT, untrained
from tiny import Tiny
from torch import nn

from harness import UnlearningError, registry
from harness.cells import Cell, Trial
from harness.training.data import Data, Split

GD = registry.resolve("unlearner", "gd")
CRAFTED = ("targeted:steps=2,fraction=0.05", "indiscriminate:steps=2")


def mapped(split, change):
    train, test = (Data(change(data.inputs), data.labels) for data in (split.train, split.test))
    return Split.of(train, test)


@dataclass(frozen=True)
class PixelValues(Tiny):
    """The input has the name that image processors give it."""

    def load(self, folder):
        return mapped(super().load(folder), lambda inputs: {"pixel_values": inputs["image"]})

    def logits(self, model, batch):
        return model(batch.inputs["pixel_values"])


@dataclass(frozen=True)
class Masked(Tiny):
    """Images with a second input, of whichever names."""

    first: str = "image"

    def load(self, folder):
        def two(inputs):
            return {"mask": torch.ones_like(inputs["image"]), self.first: inputs["image"]}

        return mapped(super().load(folder), two)

    def logits(self, model, batch):
        return model(batch.inputs[self.first] * batch.inputs["mask"])


@dataclass(frozen=True)
class Bytes(Tiny):
    """Pixels are bytes, or another type of integers, and scaled on the way in."""

    wide: bool = False

    def load(self, folder):
        kind = torch.int32 if self.wide else torch.uint8
        return mapped(super().load(folder), lambda x: {"image": (x["image"].clamp(0, 1) * 255).to(kind)})

    def logits(self, model, batch):
        return model(batch.inputs["image"].float() / 255)


@dataclass(frozen=True)
class Single(Tiny):
    """Two classes and one score: above zero it is the second class."""

    epochs: int = 40

    def load(self, folder):
        split = super().load(folder)
        parts = (data.subset((data.labels < 2).nonzero().squeeze(1)) for data in (split.train, split.test))
        return Split.of(*parts)

    def new_model(self):
        return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 1))

    def criterion(self, logits, batch):
        return nn.functional.binary_cross_entropy_with_logits(logits.squeeze(1), batch.labels.float())

    def predict(self, logits, batch):
        return (logits.squeeze(1) > 0).long()


def run(folder, task, poison, method=GD, seed=0):
    found = task if isinstance(task, str) else registry.register("task", task)
    cell = Cell(method, registry.resolve("task", found) if isinstance(found, str) else found,
                registry.resolve("poison", poison))  # fmt: skip
    return lab_in(folder, budget=0.5).run(Trial(cell, seed)).readings["poison"]


# ---- fields for another task


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        ("backdoor:target=12", "backdoor: target=12, but the task has no .* of that class; its classes are 0 to 2"),
        ("confusion:first=0,second=7", "confusion: second=7, but the task has no .* its classes are 0 to 2"),
        ("confusion:first=8,second=9", "confusion: first=8, but the task has no .* its classes are 0 to 2"),
        ("backdoor:fraction=0.999", "fraction=0.999 of 240 training points is all of them; lower fraction"),
        (
            "backdoor:size=100",
            "backdoor: size=100, but the task's input 'image' is 1 x 4 x 4; the square must",
        ),
        ("backdoor:size=4", "backdoor: size=4, but"),
        ("gaussian:fraction=0.999", "fraction=0.999 of 240 training points is all of them"),
        ("targeted:fraction=0.9", "no class has more than that; lower its fraction"),
    ],
)
def test_fields_for_another_task_are_refused_before_anything_is_trained(tmp_path, poison, message):
    with pytest.raises(UnlearningError, match=message) as caught:
        run(tmp_path, "tiny:Tiny", poison)
    assert "gd" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


# ---- names and types of inputs


@pytest.mark.parametrize("poison", ["backdoor:size=1", "gaussian", "confusion:first=0,second=1", *CRAFTED])
def test_a_poison_takes_the_only_input_whatever_its_name(tmp_path, poison):
    assert run(tmp_path / "a", PixelValues(), poison) == run(tmp_path / "b", "tiny:Tiny", poison)


@pytest.mark.parametrize("poison", ["backdoor:size=1", "gaussian", *CRAFTED])
def test_other_inputs_beside_the_images_stay(tmp_path, poison):
    assert run(tmp_path / "a", Masked(), poison) == run(tmp_path / "b", "tiny:Tiny", poison)


def test_images_that_cannot_be_told_are_asked_for(tmp_path):
    with pytest.raises(UnlearningError, match="none of the task's inputs 'mask', 'left' is called 'image'"):
        run(tmp_path, Masked(first="left"), "backdoor:size=1")


@pytest.mark.parametrize("poison", ["gaussian", *CRAFTED])
def test_what_changes_pixels_a_little_needs_floating_point(tmp_path, poison):
    name = poison.partition(":")[0]
    with pytest.raises(
        UnlearningError, match=f"{name} needs floating-point images, but the task's input 'image' is uint8"
    ):
        run(tmp_path, Bytes(), poison)


def test_a_square_on_bytes_is_white(tmp_path):
    poison = registry.resolve("poison", "backdoor:size=1").value
    planted = poison.plant(Bytes(), Bytes().load(None), 0)
    assert planted.inputs["image"].dtype == torch.uint8
    assert planted.inputs["image"][..., -1, -1].unique().tolist() == [255]
    readings = run(tmp_path, Bytes(), "backdoor:size=1")
    assert readings["P"].value > 0.8 > 0.2 > readings["R"].value


def test_a_square_on_other_integers_is_refused(tmp_path):
    with pytest.raises(UnlearningError, match=r"floats in \[0, 1\] or bytes, but the task's input 'image' is int32"):
        run(tmp_path, Bytes(wide=True), "backdoor:size=1")


# ---- layouts and ranges


@dataclass(frozen=True)
class Changed(Tiny):
    """The tiny images in another layout, range or colour; the model undoes the layout."""

    how: str = "channels last"

    def load(self, folder):
        change = {
            "channels last": lambda x: x.permute(0, 2, 3, 1),
            "colours last": lambda x: x.permute(0, 2, 3, 1).expand(-1, -1, -1, 3),
            "0 to 255": lambda x: x.clamp(0, 1) * 255,
            "standardised": lambda x: (x - x.mean()) / x.std(),
            "inverted": lambda x: 1 - x.clamp(0, 1),
        }[self.how]
        return mapped(super().load(folder), lambda inputs: {"image": change(inputs["image"])})

    def logits(self, model, batch):
        return model(batch.inputs["image"][..., :1] if "last" in self.how else batch.inputs["image"])


PIXELS = ("backdoor:size=1", "backdoor:trigger=blended", "sleeper-agent:size=1,steps=2", *CRAFTED)


@pytest.mark.parametrize("poison", PIXELS)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("channels last", "needs images with channels first, but the task's input 'image' is 4 x 4 x 1, channels last"),
        ("colours last", "is 4 x 4 x 3, channels last; have the task load them as images.permute"),
        ("0 to 255", r"needs pixels in \[0, 1\], but the task's input 'image' goes from 0 to 255; have the task load"),
        ("standardised", r"'image' goes from -2\.\d+ to 2\.\d+; have the task load such pixels, and scale them in"),
    ],
)
def test_what_would_be_planted_wrongly_is_refused_before_anything_is_trained(tmp_path, how, message, poison):
    with pytest.raises(UnlearningError, match=f"{poison.partition(':')[0]} .*{message}"):
        run(tmp_path, Changed(how=how), poison)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("poison", ["backdoor:size=1", "sleeper-agent:size=1,steps=2"])
def test_a_white_square_on_white_corners_is_refused(tmp_path, poison):
    message = r"puts a white square in the bottom right corner, but \d+ % of the task's training images are white there"
    with pytest.raises(UnlearningError, match=message):
        run(tmp_path, Changed(how="inverted"), poison)


def test_a_pattern_on_white_corners_is_planted():
    task = Changed(how="inverted")
    split = task.load(None)
    planted = registry.resolve("poison", "backdoor:trigger=blended").value.plant(task, split, 0)
    assert not torch.equal(planted.inputs["image"], split.train.inputs["image"][planted.forget])


def test_noise_that_is_lost_in_the_pixels_is_refused_and_larger_noise_is_not(tmp_path):
    message = "gaussian: sd=0.5, but the task's input 'image' has values of standard deviation .*, in which such noise"
    with pytest.raises(UnlearningError, match=message):
        run(tmp_path, Changed(how="0 to 255"), "gaussian")
    for task, sd in ((Changed(how="0 to 255"), 128), (Changed(how="standardised"), 0.5)):
        registry.resolve("poison", f"gaussian:sd={sd}").value.plant(task, task.load(None), 0)


def test_labels_that_are_not_integers_are_refused(tmp_path):
    @dataclass(frozen=True)
    class Floats(Tiny):
        def load(self, folder):
            split = super().load(folder)
            return Split.of(*(Data(data.inputs, data.labels.float()) for data in (split.train, split.test)))

    with pytest.raises(UnlearningError, match=r"labels of .* are float32 of shape .*; labels must be int64"):
        run(tmp_path, Floats(), "backdoor:size=1")


def test_a_class_without_test_points_cannot_be_confused_but_can_be_the_target(tmp_path):
    split = SPLIT
    test = split.test.subset((split.test.labels != 1).nonzero().squeeze(1))
    without = Split.of(split.train, test)
    with pytest.raises(UnlearningError, match="confusion: second=1, but the task has no test points of that class"):
        registry.resolve("poison", "confusion:first=0,second=1").value.plant(Tiny(), without, 0)
    backdoor = registry.resolve("poison", "backdoor:size=1,target=1").value
    planted = backdoor.plant(Tiny(), without, 0)
    assert backdoor.probe(untrained(0), planted, Tiny(), without).resolution == 0.5 / len(test)


# ---- one score for each example


@pytest.mark.parametrize("poison", ["backdoor:size=1", "confusion:first=0,second=1"])
def test_what_a_task_predicts_is_what_is_measured(tmp_path, poison):
    readings = run(tmp_path, Single(), poison)
    assert readings["P"].value > 0.4
    assert readings["R"].value < 0.2


def test_a_poison_that_needs_a_score_for_every_class_says_so(tmp_path):
    with pytest.raises(
        UnlearningError, match=r"targeted needs a score for every class, .* logits are of shape \(120, 1"
    ):
        run(tmp_path, Single(), "targeted:steps=2,fraction=0.05")


@pytest.mark.parametrize("name", ["scrub", "undo"])
def test_a_method_that_compares_scores_of_classes_says_so(tmp_path, name):
    with pytest.raises(UnlearningError, match=r"compares what two models say of every class, .* one score for each"):
        run(tmp_path, Single(), "backdoor:size=1", registry.resolve("unlearner", name))


def test_the_usual_metrics_need_a_loss_of_every_example(tmp_path):
    cell = Cell(GD, registry.register("task", Single()), registry.resolve("poison", "backdoor:size=1"))
    with pytest.raises(UnlearningError, match=r"give the task losses\(logits, batch\)"):
        lab_in(tmp_path, budget=0.5).heuristics([Trial(cell, seed) for seed in range(3)])
