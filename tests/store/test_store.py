"""Artefacts on disk: made once, by one process, and never believed when they are damaged."""

import json
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stored import OF, Maker, files, obtain

from harness.api import UnlearningError
from harness.store.artefacts import Store, canonical, key_of


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", "run")


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
