"""Several objects at once, and what is audited on what."""

import pickle
from dataclasses import dataclass, replace

import pytest

from harness.cells import Registered
from harness.registry import cells, resolve, resolve_all
from harness.specs import SpecError


def test_all_are_the_registered_ones_without_the_controls():
    names = [each.id for each in resolve_all("unlearner", ["all"])]
    assert {"cfk", "euk", "ga", "gd", "neggrad_plus", "ngd", "rewind", "scrub", "ssd", "undo"} <= set(names)
    assert not {"retrain", "identity", "wrecked", "short"} & set(names)
    assert [each.id for each in resolve_all("unlearner", ["gd", "identity", "gd"])] == ["gd", "identity"]


def test_cells_pair_every_method_with_the_poisons_that_a_task_lists():
    found = cells(resolve_all("unlearner", ["gd", "scrub"]), [resolve("task", "digits-cnn")])
    assert [cell.id for cell in found] == [
        "gd-digits-cnn-backdoor", "gd-digits-cnn-gaussian", "scrub-digits-cnn-backdoor", "scrub-digits-cnn-gaussian",
    ]  # fmt: skip


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
