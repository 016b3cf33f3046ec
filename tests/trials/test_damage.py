"""Trials beside other processes, and after damage."""

import contextlib
import subprocess
import sys
import warnings

import pytest
from labs import (
    GAUSSIAN,
    GD,
    IDENTITY,
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
