"""Trials beside other processes, and after damage."""

import contextlib
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
from labs import (
    GAUSSIAN,
    GD,
    IDENTITY,
    Plain,
    blobs,
    keys_of,
    lab_in,
    records,
    trial,
)

from harness import registry
from harness.store.artefacts import Busy, DamagedArtefact


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


def test_no_file_is_to_blame_where_memory_runs_out(lab, tmp_path):
    lab.run(trial(IDENTITY))
    before, later = blobs(tmp_path), lab_in(tmp_path / "store", "later")
    artefact = later.models(trial(IDENTITY))["P"]

    def too_large(tensors):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        later.bench.tensors(artefact, too_large)
    assert blobs(tmp_path) == before


MOOD = {"brightness": 0.0}


class Moody(Plain):
    """A poison that plants something else on another day, as one that is crafted on another machine does."""

    def plant(self, task, split, seed, surrogate=None):
        planted = super().plant(task, split, seed, surrogate)
        return replace(planted, inputs={name: images + MOOD["brightness"] for name, images in planted.inputs.items()})


def test_nothing_follows_from_a_damaged_planted_set_once_another_took_its_place(tmp_path, monkeypatch):
    monkeypatch.setitem(MOOD, "brightness", 0.0)
    poison = registry.register("poison", Moody())
    first, of = lab_in(tmp_path / "store", "first"), trial(IDENTITY, poison)
    first.run(of)
    old = first._planting.of(of).blob
    (tmp_path / "store" / "blobs" / old[:2] / f"{old}.safetensors").write_bytes(b"damaged")

    monkeypatch.setitem(MOOD, "brightness", 1.0)
    later = lab_in(tmp_path / "store", "later")
    with pytest.warns(DamagedArtefact):
        later.run(trial(GD, poison))
    new = later._planting.of(of)
    assert new.blob != old
    assert new == lab_in(tmp_path / "store", "last")._planting.of(of)
    (model,) = [record for record in records(tmp_path / "store", "model") if record["made"]["trial"].startswith("gd")
                and "method" in record["of"]]  # fmt: skip
    assert model["of"]["poisoned"] == new.poisoned
