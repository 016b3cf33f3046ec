"""Several processes on one store."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import pytest
import torch
from filelock import FileLock
from stored import OF, Maker, blob_of, files, obtain

from harness.store.artefacts import Busy, DamagedArtefact, Store, ask_all, key_of, patiently

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", "run")


def test_what_was_finished_just_before_the_lock_was_taken_is_not_made_again(tmp_path):
    other = Maker(1.0)

    class Late(Store):
        """A store in which somebody else finishes right after it was looked into."""

        def get(self, key, check):
            found = super().get(key, check)
            if other.calls == 0:
                obtain(Store(self.root, "other"), other)
            return found

    make = Maker(1.0)
    assert obtain(Late(tmp_path, "late"), make).made["run"] == "other"
    assert (make.calls, other.calls) == (0, 1)


def race(root, name, start):
    """Make 50 artefacts, two of each content, beside another process; return those that were made here."""
    store = Store(root, name)
    start.wait(60)
    made, pending = [], list(range(50))
    while pending:
        for seed in list(pending):

            def make(seed=seed):
                made.append(seed)
                time.sleep(0.002)
                return {"seed": seed}, {"w": torch.full((2,), seed // 2 * 1.0)}

            try:
                obtain(store, make, {"seed": seed})
                pending.remove(seed)
            except Busy:
                pass
    return made


def race_in_a_process(root, name, ready, start, results):
    ready.set()
    results.put(race(root, name, start))


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_another_process_is_making_is_busy(store):
    lock = store.root / "locks" / f"{key_of('model', OF)}.lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    make = Maker()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy):
            obtain(store, make)
        assert make.calls == 0
        obtain(store, make, {"seed": 1})  # others are free
        holder.stdin.close()
        holder.wait(60)
    obtain(store, make)
    assert make.calls == 2


def test_what_is_finished_is_read_while_its_lock_is_held(store):
    artefact = obtain(store, Maker())
    with FileLock(store.root / "locks" / f"{artefact.key}.lock"):
        assert obtain(store, Maker()) == artefact


def test_racing_processes_make_each_artefact_once(store):
    ready, start, results = SPAWN.Event(), SPAWN.Event(), SPAWN.Queue()
    other = SPAWN.Process(target=race_in_a_process, args=(store.root, "other", ready, start, results))
    other.start()
    assert ready.wait(60)
    start.set()
    made = {"here": race(store.root, "here", start), "other": results.get(timeout=60)}
    other.join(60)
    assert other.exitcode == 0
    assert sorted(made["here"] + made["other"]) == list(range(50))
    assert made["here"]
    assert made["other"]
    assert len(files(store, ".json")) == 50
    assert len(files(store, ".safetensors")) == 25
    assert not files(store, ".tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(50):
            artefact = store.get(key_of("model", {"seed": seed}))
            assert artefact.made["run"] == next(name for name, seeds in made.items() if seed in seeds)
            assert torch.equal(store.tensors(artefact)["w"], torch.full((2,), seed // 2 * 1.0))


def test_a_killed_process_leaves_nothing_damaged_and_the_lock_free(store):
    code = (
        "import sys, time; from pathlib import Path; from harness.store.artefacts import Store\n"
        "def make():\n    print('making', flush=True)\n    time.sleep(600)\n"
        "Store(Path(sys.argv[1]), 'victim').obtain('model', {'seed': 0}, make, 'trial')\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert victim.stdout.readline() == "making\n"
        with pytest.raises(Busy):
            obtain(store, Maker())
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(60)
        victim.stdout.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artefact = obtain(store, Maker())
    assert artefact.made["run"] == "run"
    assert {p.suffix for p in files(store)} <= {".safetensors", ".json", ".lock"}


def test_what_was_just_written_is_read_once_without_the_disk(store):
    artefact = obtain(store, Maker(2.0))
    blob_of(store).write_bytes(b"?")
    found = store.tensors(artefact)
    assert torch.equal(found["w"], torch.full((3, 4), 2.0))
    with pytest.warns(DamagedArtefact):
        assert store.tensors(artefact) is None
    obtain(store, Maker(3.0))
    assert torch.equal(store.tensors(obtain(store, Maker(4.0), of={"seed": 1}))["w"], torch.full((3, 4), 4.0))


def test_a_busy_artefact_does_not_keep_the_others_from_being_asked_for():
    answers, asked = {"late": iter([Busy("late"), Busy("late"), 1]), "ready": iter([2, 2, 2])}, []

    def ask(name):
        asked.append(name)
        answer = next(answers[name])
        if isinstance(answer, Busy):
            raise answer
        return answer

    assert patiently(lambda: ask_all(partial(ask, name) for name in answers)) == [1, 2]
    assert asked == ["late", "ready"] * 3
