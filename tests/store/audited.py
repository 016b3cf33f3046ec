"""A store after an audit, and what tests do to it."""

import json
import os
import shutil
import time

import pytest

import harness
from harness.cli.main import main
from harness.store.inventory import GRACE

GD = "gd:lr=0.01"
#: What each test starts from or compares with: three seeds of one method on the task that trains in milliseconds.
AUDIT = {"task": "tiny:Tiny", "poison": "backdoor:size=1", "seeds": 3, "device": "cpu"}


def audit(store, unlearner=GD):
    """Return the verdicts without what differs from run to run by its nature: seconds."""
    found = harness.audit(unlearner, store=store, **AUDIT)
    return [
        (v.measure.name, v.outcome, v.reason, v.estimate, v.interval, v.values, v.seeds,
         {name: n for name, n in v.details.items() if "seconds" not in name})
        for v in found
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A store after an audit, and what that said."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    return store, audit(store)


@pytest.fixture
def store(undisturbed, tmp_path):
    """A copy of that store without the readings, so that every model is read when it is audited again."""
    copy = tmp_path / "store"
    shutil.copytree(undisturbed[0], copy)
    for path in copy.glob("records/*/*.json"):
        if json.loads(path.read_bytes())["record"]["kind"] == "value":
            path.unlink()
    return copy


def of_kind(store, kind):
    """Return the records of a kind, in order."""
    paths = sorted(store.glob("records/*/*.json"))
    return [path for path in paths if json.loads(path.read_bytes())["record"]["kind"] == kind]


def blobs(store):
    return sorted(store.glob("blobs/*/*.safetensors"))


def snapshot(store):
    return {path.relative_to(store).as_posix(): path.stat().st_size for path in store.rglob("*") if path.is_file()}


def age(path, seconds=2 * GRACE):
    os.utime(path, (time.time() - seconds,) * 2)


def run(capsys, store, action, *options):
    code = main(["store", action, f"--store={store}", *options])
    said = capsys.readouterr()
    return code, said.out + said.err


# ---- harm


def truncate(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(paths):
    one, other = paths[0], paths[-1]
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


def overwrite(paths):
    for path in paths:
        path.write_bytes(b"something else altogether")


def remove(paths):
    for path in paths:
        path.unlink()


def become_folders(paths):
    for path in paths[:3]:
        path.unlink()
        path.mkdir()
