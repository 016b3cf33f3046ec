"""Artefacts on disk: made once, by one process, and never believed when they are damaged."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from harness.api import UnlearningError
from harness.store.artefacts import Busy, DamagedArtefact, Store, ask_all, canonical, key_of, patiently

SPAWN = multiprocessing.get_context("spawn")
OF = {"seed": 0}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", "run")


class Maker:
    """Makes an artefact and counts how often it had to."""

    def __init__(self, value=1.0, tensors=True):
        self.calls = 0
        self.value, self.tensors = value, tensors

    def __call__(self):
        self.calls += 1
        return {"value": self.value}, {"w": torch.full((3, 4), self.value)} if self.tensors else None


def obtain(store, make, of=OF, trial="trial"):
    return store.obtain("model", of, make, trial)


def files(store, suffix=""):
    return sorted(p for p in store.root.rglob("*") if p.is_file() and p.name.endswith(suffix))


def record_of(store, of=OF):
    (path,) = store.root.glob(f"records/*/{key_of('model', of)}.json")
    return path


def blob_of(store):
    (path,) = files(store, ".safetensors")
    return path


# ---- what is stored


def test_an_artefact_is_made_once(store):
    make = Maker()
    first, second = obtain(store, make), obtain(store, make)
    again = obtain(Store(store.root, "another run"), make)
    assert make.calls == 1
    assert first == second == again
    assert first.info == {"value": 1.0}
    assert (first.made["run"], first.made["trial"]) == ("run", "trial")
    assert first.made["seconds"] >= 0


def test_tensors_come_back_as_they_were(store):
    tensors = {
        "f": torch.randn(3, 5),
        "view": torch.arange(12.0).reshape(3, 4).t(),
        "i": torch.tensor([2**40, -1]),
        "b": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 2),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    tensors["shared"] = tensors["f"]
    artefact = obtain(store, lambda: ({}, tensors))
    back = store.tensors(artefact)
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_other_determinants_are_another_artefact(store):
    make = Maker()
    obtain(store, make)
    obtain(store, make, {"seed": 1})
    store.obtain("value", OF, make, "trial")
    assert make.calls == 3


def test_equal_tensors_are_stored_once(store):
    one, other = obtain(store, Maker()), obtain(store, Maker(), {"seed": 1})
    assert one.key != other.key
    assert one.blob == other.blob
    assert len(files(store, ".safetensors")) == 1
    obtain(store, Maker(2.0), {"seed": 2})
    assert len(files(store, ".safetensors")) == 2


def test_an_artefact_without_tensors_has_no_blob(store):
    assert obtain(store, Maker(tensors=False)).blob is None
    assert files(store, ".safetensors") == []


def test_only_safetensors_json_and_locks_are_left(store):
    for seed in range(3):
        obtain(store, Maker(seed), {"seed": seed})
    assert {p.suffix for p in files(store)} <= {".safetensors", ".json", ".lock"}
    assert not [p for p in files(store) if p.name.startswith(".")]
    assert all(p.stat().st_size == 0 for p in files(store, ".lock"))
    for path in files(store, ".json"):
        json.loads(path.read_bytes())


def test_a_record_says_what_determined_it(store):
    obtain(store, Maker(), {"seed": 3, "task": {"name": "tiny"}})
    (path,) = files(store, ".json")
    assert json.loads(path.read_bytes())["record"]["of"] == {"seed": 3, "task": {"name": "tiny"}}


def test_what_raises_while_being_made_leaves_nothing(store):
    def make():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        obtain(store, make)
    assert [p for p in files(store) if p.suffix != ".lock"] == []
    assert obtain(store, Maker()).info == {"value": 1.0}  # the lock is free


def test_what_has_no_number_is_refused_and_not_stored(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        obtain(store, lambda: ({"value": float("nan")}, None))
    assert store.get(key_of("model", OF)) is None


# ---- keys


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, -float("inf")]])
def test_canonical_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": value})


def test_canonical_refuses_what_is_not_plain():
    with pytest.raises(TypeError):
        canonical({"x": torch.ones(1)})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_canonical_ignores_order_and_survives_a_round_trip(value):
    backwards = dict(reversed(value.items()))
    assert canonical(value) == canonical(backwards)
    assert canonical(json.loads(canonical(value))) == canonical(value)


def test_keys_tell_kind_and_determinants_apart():
    keys = [
        key_of("model", {"seed": 1}),
        key_of("model", {"seed": 1.0}),
        key_of("model", {"seed": "1"}),
        key_of("value", {"seed": 1}),
        key_of("model", {"seed": 1, "x": None}),
    ]
    assert len(set(keys)) == len(keys)


# ---- damage


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def rebuilt(store, make, of=OF):
    """Read the artefact as a later process would: its record, then its tensors, making what is damaged."""
    later = Store(store.root, "later")
    artefact = obtain(later, make, of)
    tensors = later.tensors(artefact)
    return tensors if tensors is not None else later.tensors(obtain(later, make, of))


@pytest.mark.parametrize("at", [0, 5, 9, -1], ids=["length", "length end", "header", "data"])
def test_a_flipped_byte_of_a_blob_is_noticed_and_mended(store, at):
    make = Maker(5.0)
    obtain(store, make)
    flip(blob_of(store), at)
    with pytest.warns(DamagedArtefact, match="it is made again"):
        assert torch.equal(rebuilt(store, make)["w"], torch.full((3, 4), 5.0))
    assert make.calls == 2


def test_every_flipped_byte_of_a_record_is_noticed_and_mended(store):
    make = Maker(5.0)
    obtain(store, make)
    content = record_of(store).read_bytes()
    for at in range(0, len(content), 7):
        flip(record_of(store), at)
        calls = make.calls
        with pytest.warns(DamagedArtefact):
            assert obtain(store, make).info == {"value": 5.0}
        assert make.calls == calls + 1


@pytest.mark.parametrize("length", [0, 1, 20])
@pytest.mark.parametrize("which", [record_of, blob_of])
def test_a_truncated_file_is_noticed_and_mended(store, which, length):
    make = Maker(5.0)
    obtain(store, make)
    which(store).write_bytes(which(store).read_bytes()[:length])
    with pytest.warns(DamagedArtefact):
        assert torch.equal(rebuilt(store, make)["w"], torch.full((3, 4), 5.0))
    assert make.calls == 2


def test_swapped_records_are_noticed_and_mended(store):
    one, other = Maker(1.0), Maker(2.0)
    obtain(store, one, {"seed": 1})
    obtain(store, other, {"seed": 2})
    paths = record_of(store, {"seed": 1}), record_of(store, {"seed": 2})
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.warns(DamagedArtefact):
        assert obtain(store, one, {"seed": 1}).info == {"value": 1.0}
    with pytest.warns(DamagedArtefact):
        assert obtain(store, other, {"seed": 2}).info == {"value": 2.0}
    assert (one.calls, other.calls) == (2, 2)


def test_swapped_blobs_are_noticed_and_mended(store):
    one, other = Maker(1.0), Maker(2.0)
    obtain(store, one, {"seed": 1})
    obtain(store, other, {"seed": 2})
    paths = files(store, ".safetensors")
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
    for make, seed in ((one, 1), (other, 2)):
        with pytest.warns(DamagedArtefact):
            assert torch.equal(rebuilt(store, make, {"seed": seed})["w"], torch.full((3, 4), make.value))


def test_a_missing_blob_is_noticed_and_mended(store):
    make = Maker()
    obtain(store, make)
    blob_of(store).unlink()
    with pytest.warns(DamagedArtefact):
        obtain(store, make)
    assert make.calls == 2
    assert blob_of(store).exists()


@pytest.mark.parametrize(
    "content", [b"[]", b"3", b"null", b'{"record": {}, "sha256": ""}', b"\xff\xfe", b'{"record": 1}']
)
def test_a_record_that_is_something_else_is_noticed_and_mended(store, content):
    make = Maker()
    obtain(store, make)
    record_of(store).write_bytes(content)
    with pytest.warns(DamagedArtefact):
        obtain(store, make)
    assert make.calls == 2


def test_a_damaged_file_is_gone_even_where_warnings_are_errors(store):
    make = Maker()
    obtain(store, make)
    record_of(store).write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DamagedArtefact):
            obtain(store, make)
        obtain(store, make)
    assert make.calls == 2


# ---- what cannot be written


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
def test_a_directory_that_cannot_be_made_is_said_in_one_sentence(tmp_path, below):
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / below
    with pytest.raises(UnlearningError, match=r"cannot be written \(.+\); name another with --audit-store") as caught:
        Store(root, "run")
    assert str(root) in str(caught.value)


def test_opening_a_store_leaves_only_its_folders(store):
    assert sorted(p.name for p in store.root.rglob("*")) == ["blobs", "locks", "records"]


@pytest.mark.parametrize("folder", ["blobs", "records"])
def test_what_cannot_be_written_is_kept_for_this_process(store, folder):
    (store.root / folder).rmdir()
    (store.root / folder).write_text("in the way")
    make = Maker(5.0)
    with pytest.warns(UserWarning, match="could not store an artefact in .*; it is kept in memory"):
        artefact = obtain(store, make)
    assert obtain(store, make) == artefact == store.get(artefact.key)
    assert torch.equal(store.tensors(artefact)["w"], torch.full((3, 4), 5.0))
    assert make.calls == 1
    assert not [p for p in files(store) if p.name.endswith(".tmp")]


def test_a_lock_that_cannot_be_written_loses_nothing_either(store):
    (store.root / "locks").rmdir()
    (store.root / "locks").write_text("in the way")
    make = Maker(5.0)
    with pytest.warns(UserWarning, match="could not"):
        assert obtain(store, make).info == {"value": 5.0}
    assert make.calls == 1


READ_ONLY = """
import sys
from pathlib import Path
from harness.store.artefacts import Store
root = Path(sys.argv[1])
def obtain(store, seed):
    return store.obtain("value", {"seed": seed}, lambda: ({"value": seed}, None), "trial").info
obtain(Store(root, "first"), 0)
import subprocess
subprocess.run(["mount", "--bind", root, root], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
store = Store(root, "second")
print(obtain(store, 0), store.files.in_words())
try:
    obtain(store, 1)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_store_on_a_read_only_mount_serves_what_it_has(tmp_path):
    mounting = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*mounting, "true"], check=False).returncode:
        pytest.skip("this system has no user namespaces")
    done = subprocess.run(
        [*mounting, sys.executable, "-c", READ_ONLY, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    served, refused = done.stdout.splitlines()
    assert served.startswith("{'value': 0}")
    assert served.endswith("(1 artefacts, 0.0 MB, can only be read)")
    assert refused == (
        f"UnlearningError not all that this run needs is stored, and the store {tmp_path} cannot be written (Read-only "
        "file system); name another with --audit-store"
    )


def test_an_artefact_is_kept_where_the_warning_is_an_error(store):
    (store.root / "records").rmdir()
    (store.root / "records").write_text("in the way")
    make = Maker(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="it is kept in memory"):
            obtain(store, make)
    assert obtain(store, make).info == {"value": 5.0}
    assert make.calls == 1


LIMITED = """
import resource, sys, warnings
from pathlib import Path
import torch
from harness.store.artefacts import Store
store = Store(Path(sys.argv[1]), "run")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    artefact = store.obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(10_000)}), "trial")
print([str(w.message) for w in caught], float(store.tensors(artefact)["w"].sum()))
"""


def test_a_file_that_is_cut_off_while_it_is_written_is_never_seen(store):
    limited = subprocess.run(
        [sys.executable, "-c", LIMITED, str(store.root)], capture_output=True, text=True, check=True
    )
    assert "could not store an artefact" in limited.stdout
    assert limited.stdout.endswith("10000.0\n")
    assert [p for p in files(store) if p.suffix != ".lock"] == []


# ---- several processes


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
