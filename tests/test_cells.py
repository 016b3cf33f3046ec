"""Several objects at once, and what is audited on what."""

import pickle
from dataclasses import dataclass, replace

import pytest

from harness.cells import Registered
from harness.registry import available, cells, resolve, resolve_all
from harness.specs import SpecError


def test_all_are_the_registered_ones_without_the_controls():
    names = [each.id for each in resolve_all("unlearner", ["all"])]
    assert {"cfk", "euk", "ga", "gd", "neggrad_plus", "ngd", "rewind", "scrub", "ssd", "undo"} <= set(names)
    assert {"bad_teacher", "certified", "influence", "l1_sparse", "msa", "potion", "salun", "scrub_r"} <= set(names)
    assert {"graddiff", "npo", "rmu", "simnpo", "task_arithmetic", "undial"} <= set(names)
    assert not {"retrain", "identity", "wrecked", "short"} & set(names)
    assert [each.id for each in resolve_all("unlearner", ["gd", "identity", "gd"])] == ["gd", "identity"]


def test_cells_pair_every_method_with_the_poisons_that_a_task_lists():
    found = cells(resolve_all("unlearner", ["gd", "scrub"]), [resolve("task", "digits-cnn")])
    strengths = ["backdoor:fraction=0.025", "backdoor", "gaussian:fraction=0.025", "gaussian"]
    assert [cell.id for cell in found] == [f"{m}-digits-cnn-{each}" for m in ("gd", "scrub") for each in strengths]


def listing(*poisons):
    """Return digits-cnn with another list of poisons."""
    task = resolve("task", "digits-cnn")
    return replace(task, value=type("Listing", (type(task.value),), {"poisons": poisons})())


def poisons_of(task, *specs):
    return [cell.poison.id for cell in cells([resolve("unlearner", "gd")], [task], specs)]


def test_a_task_lists_the_same_poison_at_several_strengths_and_in_units_of_its_own():
    specs = ("gaussian:fraction=0.015,sd=0.14", "gaussian:sd=0.14", "backdoor")
    assert poisons_of(listing(*specs)) == list(specs)
    first, second = cells([resolve("unlearner", "gd")], [listing(*specs)])[:2]
    assert (first.poison.value.fraction, first.poison.value.sd) == (0.015, 0.14)
    assert first.poison != second.poison


def test_equal_specs_of_a_poison_are_one_row():
    """However they are spelled: in another order or notation, or with a default written out."""
    specs = ("gaussian", "gaussian:fraction=0.1", "gaussian:sd=0.50,fraction=1e-1", "gaussian:fraction=.10")
    assert poisons_of(listing(*specs)) == ["gaussian"]
    assert poisons_of(listing("backdoor"), *specs) == ["gaussian"]
    assert poisons_of(listing(), "gaussian:sd=.14,fraction=.025", "gaussian:fraction=0.025,sd=0.14") == [
        "gaussian:fraction=0.025,sd=0.14"
    ]


def test_specs_of_the_command_line_are_in_place_of_those_of_the_task():
    assert poisons_of(listing("backdoor:fraction=0.025"), "gaussian", "gaussian:fraction=0.015") == [
        "gaussian",
        "gaussian:fraction=0.015",
    ]


def test_all_poisons_have_the_strengths_that_the_task_lists_for_them():
    found = poisons_of(listing("gaussian:sd=0.14", "gaussian:fraction=0.015,sd=0.14"), "all", "gaussian:sd=2")
    assert found[:2] == ["gaussian:sd=0.14", "gaussian:fraction=0.015,sd=0.14"]
    assert set(found[2:-1]) >= {"backdoor", "confusion", "targeted"}
    assert "gaussian" not in found
    assert found[-1] == "gaussian:sd=2"


@pytest.mark.parametrize(
    ("poisons", "sentence"),
    [
        (("gausian",), "the task 'digits-cnn' lists a poison that cannot be used: unknown poison 'gausian'; did you"),
        (("gaussian:share=1",), "lists a poison that cannot be used: the poison 'gaussian' has no field 'share'"),
        ((0.025,), r"must list its poisons as a tuple of specs, not as \(0.025,\)"),
    ],
)
def test_a_bad_list_of_a_task_is_said_to_be_the_tasks(poisons, sentence):
    with pytest.raises(SpecError, match=sentence):
        poisons_of(listing(*poisons))


def test_a_single_spec_in_place_of_a_list_is_refused():
    task = resolve("task", "digits-cnn")
    text = replace(task, value=type("Text", (type(task.value),), {"poisons": "gaussian"})())
    with pytest.raises(SpecError, match="must list its poisons as a tuple of specs, not as 'gaussian'"):
        poisons_of(text)


def needs_two(strength: float, size: int) -> object:
    from poisons.gaussian import Gaussian

    return Gaussian(fraction=strength, sd=size)


def test_fields_without_defaults_are_one_row_in_either_order(monkeypatch):
    here = f"{__name__}:needs_two"
    one, other = (f"{here}:strength=0.1,size=2", f"{here}:size=2,strength=0.1")
    assert poisons_of(listing(), one, other) == [one]


@pytest.mark.parametrize("task", sorted(available("task")))
def test_every_poison_that_a_task_lists_is_one_of_its_modality(task):
    made = resolve("task", task)
    found = poisons_of(made)
    assert len(found) == len(made.value.poisons) == len(set(found))


def test_the_noise_on_cifar10_is_that_of_the_paper_in_pixels():
    from harness.tasks._normalise import SD

    noise = {c.poison.value.sd for c in cells([resolve("unlearner", "gd")], [resolve("task", "cifar10-resnet18")])
             if c.poison.name == "gaussian"}  # fmt: skip
    assert noise == {round(0.32**0.5 * sum(SD) / 3, 2)}


def test_a_poison_of_another_modality_is_refused_by_name():
    @dataclass(frozen=True)
    class Letters:
        modality = "text"
        poisons = ()

    task = replace(resolve("task", "digits-cnn"), id="letters", value=Letters())
    with pytest.raises(SpecError, match=r"no poison fits the text task 'letters' \(given: backdoor\)"):
        cells([resolve("unlearner", "gd")], [task], ["backdoor"])
    with pytest.raises(SpecError, match=r"no poison fits the text task .* \(given: none\)"):
        cells([resolve("unlearner", "gd")], [task])


def test_poisons_and_methods_serve_the_modalities_that_they_declare_or_any():
    @dataclass(frozen=True)
    class Letters:
        modality = "text"
        poisons = ("label-noise",)

    class Both:
        modality = ("image", "table")

        def __call__(self, model, request):
            return model

    letters = replace(resolve("task", "digits-cnn"), id="letters", value=Letters())
    digits, table = resolve("task", "digits-cnn"), resolve("task", "tabular-mlp")
    gd = resolve("unlearner", "gd")
    both = replace(gd, id="both", value=Both())
    given = ["gaussian", "backdoor", "table-backdoor", "label-noise", "instruction"]

    def served(task):
        return {(cell.unlearner.id, cell.poison.name) for cell in cells([gd, both], [task], given)}

    assert served(digits) == {(m, p) for m in ("gd", "both") for p in ("gaussian", "backdoor", "label-noise")}
    assert served(table) == {(m, p) for m in ("gd", "both") for p in ("gaussian", "table-backdoor", "label-noise")}
    assert served(letters) == {("gd", "label-noise"), ("gd", "instruction")}


class Bare:
    """A poison, say, that is no dataclass: its objects are equal to themselves alone."""


def test_what_went_to_another_process_and_back_is_the_same():
    here = Registered("poison", "plain", "plain", Bare(), {}, "(local)", "", "0" * 64)
    there = pickle.loads(pickle.dumps(here))
    assert there.value != here.value
    assert there == here
    assert hash(there) == hash(here)
    assert replace(here, source="1" * 64) != here


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "methods.txt"
    file.write_bytes(b"\xef\xbb\xbfscrub\r\n# a comment\r\nssd:alpha=20\r\n")
    assert [each.id for each in resolve_all("unlearner", [f"@{file}"])] == ["scrub", "ssd:alpha=20"]


@pytest.mark.parametrize("content", ["", "\n# nothing yet\n"])
def test_a_list_without_names_is_said_to_be_empty(tmp_path, content):
    file = tmp_path / "nothing.txt"
    file.write_text(content)
    with pytest.raises(SpecError, match=r"nothing\.txt is empty; write the name of one unlearner on each line"):
        resolve_all("unlearner", [f"@{file}"])
