"""Damage to what is stored is noticed, and mended."""

import warnings
from pathlib import Path

import pytest
import torch
from stored import OF, Maker, blob_of, files, obtain, record_of

from harness.store.artefacts import DamagedArtefact, Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", "run")


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
