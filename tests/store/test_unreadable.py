"""What cannot be read now is not damaged: it stays, and a run goes on without it."""

import time
import warnings
from collections import Counter

import pytest
import torch
from audited import age, run
from filelock import FileLock
from stored import Maker, blob_of, files, obtain, record_of

from harness.api import UnlearningError
from harness.store.artefacts import Store
from harness.store.files import AGAIN, Local
from harness.store.inventory import Criteria, Inventory, removable, remove
from harness.store.packing import pack

EVERYTHING = Criteria(older_than=0, damaged=True, orphans=True, temporaries=True)


class Failing(Local):
    """A directory on a drive that times out, so many times for each file whose name begins so."""

    def __init__(self, root, part, times=10**6):
        super().__init__(root)
        self.part, self.times = part, times
        self.reads = Counter()

    def read(self, name):
        self.reads[name] += 1
        if name.startswith(self.part) and self.reads[name] <= self.times:
            raise TimeoutError(110, "Connection timed out", name)
        return super().read(name)


@pytest.fixture
def store(tmp_path):
    """A store with two artefacts that name one blob."""
    store = Store(tmp_path / "store", "run")
    for seed in (0, 1):
        obtain(store, Maker(5.0), {"seed": seed})
    return store


def name_of(store, path):
    return path.relative_to(store.root).as_posix()


def contents(store):
    return {path: path.read_bytes() for path in files(store) if path.suffix in (".json", ".safetensors")}


@pytest.mark.parametrize("part", ["records/", "blobs/"])
def test_a_read_that_fails_for_a_moment_costs_nothing(store, part):
    before, make = contents(store), Maker(5.0)
    later = Store(Failing(store.root, part, times=len(AGAIN)), "later")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(later.tensors(obtain(later, make))["w"], torch.full((3, 4), 5.0))
    assert make.calls == 0
    assert contents(store) == before


def test_weights_that_cannot_be_read_are_made_again_and_nobody_loses_them(store):
    before = contents(store)
    later, make = Store(Failing(store.root, "blobs/"), "later"), Maker(5.0)
    with pytest.warns(UserWarning, match="could not read .*Connection timed out.*; it stays there"):
        assert later.tensors(obtain(later, make)) is None
    assert contents(store) == before
    assert torch.equal(later.tensors(obtain(later, make))["w"], torch.full((3, 4), 5.0))  # and the run goes on
    assert make.calls == 1
    other = Store(store.root, "another run")
    for seed in (0, 1):
        assert torch.equal(other.tensors(obtain(other, None, {"seed": seed}))["w"], torch.full((3, 4), 5.0))


def test_what_names_weights_that_cannot_be_read_is_made_again_too(store):
    later, make = Store(Failing(store.root, "blobs/"), "later"), Maker(6.0)
    with pytest.warns(UserWarning, match="could not read"):
        later.tensors(obtain(later, make))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert obtain(later, make, {"seed": 1}).info == {"value": 6.0}
    assert make.calls == 1
    assert len(files(store, ".safetensors")) == 2  # the other one stays


def test_a_record_that_cannot_be_read_is_made_again_and_its_weights_stay(store):
    blob = blob_of(store)
    later, make = Store(Failing(store.root, "records/"), "later"), Maker(6.0)
    assert obtain(later, make).info == {"value": 6.0}
    assert make.calls == 1
    assert blob.exists()


@pytest.mark.parametrize("which", [record_of, blob_of])
def test_prune_removes_nothing_that_cannot_be_read(store, which):
    name, other = name_of(store, which(store)), record_of(store, {"seed": 1})
    other.write_bytes(b"")  # damaged, so that the first alone names the blob
    for path in files(store):
        age(path)
    failing = Failing(store.root, name)
    inventory = Inventory.of(failing)
    found = removable(inventory, Criteria(damaged=True, orphans=True), time.time())
    assert [entry.name for entries in found.values() for entry in entries] == [name_of(store, other)]
    assert list(inventory.unreadable) == [name]
    with pytest.raises(UnlearningError, match=r"1 files of the store .* cannot be read: .*Connection timed out"):
        pack(failing, store.root / "packed.zip")


def test_weights_that_only_an_unreadable_record_may_name_outlive_everything_else(store):
    inventory = Inventory.of(Failing(store.root, name_of(store, record_of(store))))
    found = removable(inventory, EVERYTHING, time.time() + 1)
    names = {entry.name for entries in found.values() for entry in entries}
    assert name_of(store, record_of(store, {"seed": 1})) in names  # which is old
    assert name_of(store, blob_of(store)) not in names


def test_the_commands_name_what_cannot_be_read_and_leave_it_there(store, capsys):
    record = record_of(store)
    record.unlink()
    record.symlink_to(record)  # which the system refuses to read
    code, said = run(capsys, store.root, "verify")
    assert code == 1
    assert f"unreadable: {name_of(store, record)} (" in said
    assert "0 damaged, 0 orphaned" in said
    assert said.rstrip().endswith("run again when it can be read")
    assert "removed 0 files" in run(capsys, store.root, "prune", "--damaged", "--orphans")[1]
    make = Maker(5.0)
    obtain(Store(store.root, "later"), make)
    assert make.calls == 1
    assert run(capsys, store.root, "verify")[0] == 0  # what was made again stands in its place


def test_a_folder_of_ours_that_cannot_be_listed_is_an_error_and_a_foreign_one_is_none(store):
    failing = OSError(5, "Input/output error", str(store.root / "blobs" / "ab"))
    with pytest.raises(OSError, match="Input/output error"):
        store.files._unless_foreign(failing)
    store.files._unless_foreign(PermissionError(13, "Permission denied", str(store.root / "lost+found")))
    store.files._unless_foreign(FileNotFoundError(2, "No such file", str(store.root / "blobs" / "ab")))


def test_weights_that_are_written_while_a_store_is_listed_are_not_missing(store):
    class AtWork(Local):
        def entries(self):
            for entry in super().entries():
                if entry.name.startswith("locks/"):  # blobs are listed by then
                    obtain(store, Maker(7.0), {"seed": 2})
                yield entry

    inventory = Inventory.of(AtWork(store.root))
    assert len(inventory.records) == 3
    assert len(inventory.blobs) == 1
    assert inventory.without_blob == []


def test_a_lock_is_given_back_where_its_file_cannot_be_removed(store):
    class ReadOnly(Local):
        def remove(self, name):
            raise OSError(30, "Read-only file system", name)

    locks = [entry for entry in store.files.entries() if entry.name.startswith("locks/")]
    with pytest.raises(OSError, match="Read-only") as caught:
        list(remove(ReadOnly(store.root), locks))
    FileLock(store.root / locks[0].name).acquire(timeout=0)
    assert caught.value.errno == 30
