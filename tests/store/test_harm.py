"""Damage, full disks and other versions of the code: a rerun comes to the verdicts of an undisturbed run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from audited import (
    AUDIT,
    GD,
    age,
    audit,
    become_folders,
    blobs,
    of_kind,
    overwrite,
    remove,
    run,
    snapshot,
    store,
    swap,
    truncate,
    undisturbed,
)

from conftest import ROOT, SUITES, TINY
from harness.api import UnlearningError
from harness.judging.plan import Plan
from harness.registry import cells, resolve
from harness.store.artefacts import DamagedArtefact, Store
from harness.studies.study import Study
from harness.trials.lab import Lab

#: For pytest to find them here.
FIXTURES = (
    undisturbed,
    store,
)


# ---- damage: after a rerun the verdicts are those of an undisturbed run


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("harm", [truncate, swap, overwrite, remove, become_folders], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", ["model", "planted", "blobs"])
def test_damage_changes_no_verdict(store, undisturbed, what, harm):
    harm(blobs(store) if what == "blobs" else of_kind(store, what))
    assert audit(store) == undisturbed[1]
    assert audit(store) == undisturbed[1]


def test_foreign_files_change_nothing_and_are_left_alone(store, undisturbed, capsys):
    foreign = ["notes.txt", "records/ab/readme", "blobs/model.pt", "records/zz/x.json", "locks/.keep", "more/x.json",
               f"blobs/ab/{'c' * 64}.safetensors", f"records/ab/{'A' * 64}.json", ".hidden.tmp"]  # fmt: skip
    for name in foreign:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"mine")
        age(store / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audit(store) == undisturbed[1]
    code, said = run(capsys, store, "verify")
    assert (code, said.count("foreign: ")) == (0, len(foreign))
    assert f"{len(foreign)} foreign" in said
    for lock in store.glob("locks/*.lock"):
        age(lock)
    everything = ("--older-than=0", "--stale", "--damaged", "--orphans", "--temporaries")
    assert run(capsys, store, "prune", *everything)[0] == 0
    assert all((store / name).read_bytes() == b"mine" for name in foreign)
    assert set(snapshot(store)) == set(foreign)


KILLED = """
import resource, signal, sys
from pathlib import Path
import torch
from harness.store.artefacts import Store
store = Store(Path(sys.argv[1]), "victim")
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # dies while it writes, with half of the file on disk
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
store.obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(10_000)}), "trial")
"""


def test_what_a_killed_write_leaves_is_no_artefact_and_is_swept(tmp_path, capsys):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGXFSZ
    (left,) = tmp_path.rglob("*.tmp")
    assert left.stat().st_size == 4096
    artefact = Store(tmp_path, "next").obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(10_000)}), "trial")
    assert artefact.made["run"] == "next"
    assert "0 damaged, 0 orphaned; 1 left over, 0 foreign" in run(capsys, tmp_path, "verify")[1]
    assert "removed 0 files" in run(capsys, tmp_path, "prune", "--temporaries")[1]  # it may be at work
    age(left)
    assert "removed 1 files" in run(capsys, tmp_path, "prune", "--temporaries")[1]
    assert not left.exists()
    assert run(capsys, tmp_path, "verify")[0] == 0


# ---- disks


@pytest.fixture
def mount(tmp_path):
    """Mount a disk of its own, in memory, of so many bytes; skipped where that is not allowed."""
    at = tmp_path / "disk"
    at.mkdir()

    def mounted(size, option="rw"):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},{option}", "tmpfs", str(at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a disk here: {done.stderr.strip()}")
        return at

    yield mounted
    subprocess.run(["umount", str(at)], capture_output=True, check=False)


@pytest.mark.parametrize("size", [65536, 200_704])
def test_a_full_disk_costs_no_verdict(mount, undisturbed, size):
    disk = mount(size)
    with pytest.warns(UserWarning, match="No space left on device; it is kept in memory|No space left on device'"):
        assert audit(disk / "store") == undisturbed[1]
    assert not list(disk.rglob("*.tmp"))
    with warnings.catch_warnings():  # what did fit is sound
        warnings.simplefilter("error", DamagedArtefact)
        warnings.simplefilter("ignore", UserWarning)
        assert audit(disk / "store") == undisturbed[1]


def test_a_read_only_disk_is_one_sentence(mount, capsys):
    disk = mount(65536, "ro")
    with pytest.raises(UnlearningError, match=r"disk cannot be written \(Read-only file system\); name another with"):
        audit(disk)


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
def test_a_disk_that_becomes_read_only_costs_no_verdict(mount, undisturbed, store):
    disk = mount(8_000_000)
    shutil.copytree(store, disk / "store")
    truncate(blobs(disk / "store")[:4])  # what is damaged can now neither be removed nor written again
    truncate(of_kind(disk / "store", "model")[:4])
    opened = Lab.open(disk / "store", device="cpu", run="run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = snapshot(disk)
    (cell,) = cells([resolve("unlearner", GD)], [resolve("task", AUDIT["task"])], [AUDIT["poison"]])
    study = Study([cell], opened, Plan(3, 0.05), 0.2)
    with pytest.warns(UserWarning, match="Read-only file system"):
        found = [study.verdict(cell, claim) for claim in ("poison", "accuracy", "cost")]
    assert [(v.outcome, v.estimate, v.values) for v in found] == [(v[1], v[3], v[5]) for v in undisturbed[1]]
    assert snapshot(disk) == before


# ---- two versions of the code


def test_two_versions_of_the_code_share_a_store(folder, capsys):
    """Neither finds the other's unlearned models, both find the trained ones, and a version can be cleared away."""
    other = folder.path / "checkout"
    for name in ("harness", "unlearners", "poisons", "test_suites"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_pytest_unlearning.py", other)
    with (other / "harness" / "training" / "unlearning.py").open("a") as file:
        file.write("# another version\n")
    arguments = (*TINY, f"--unlearner={GD}", "--audit-seeds=3", "-k", "poison_is")
    theirs = {"PYTHONPATH": os.pathsep.join([str(other), folder.environment()["PYTHONPATH"]])}
    runs = [
        folder.start(suites, *arguments, f"--audit-json={folder.path / name}.json", "-p", "no:cacheprovider", **env)
        for name, suites, env in (("a", SUITES, {}), ("b", str(other / "test_suites"), theirs))
    ]
    assert [each.wait(300) for each in runs] == [1, 1]
    documents = [json.loads((folder.path / f"{name}.json").read_text()) for name in "ab"]
    shown = [[(a["verdict"], a["estimate"], a["values"]) for a in document["audits"]] for document in documents]
    assert shown[0] == shown[1]
    built = [arm for document in documents for trial in document["trials"] for arm in trial["cost"]["built"]]
    assert {arm: built.count(arm) for arm in "PRU"} == {"P": 3, "R": 3, "U": 2 * 5 * 3}

    models = len(of_kind(folder.store, "model"))
    assert run(capsys, folder.store, "prune", "--stale")[0] == 0
    assert len(of_kind(folder.store, "model")) == models - 5 * 3  # the other version's
    again = folder.pytest(*arguments)
    assert again.built == []
    assert again.judged[0]["estimate"] == shown[0][0][1]
