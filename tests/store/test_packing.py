"""A store in one file: what another store gets of it, and what is refused."""

import resource
import zipfile

import pytest

from conftest import TINY
from harness.api import UnlearningError
from harness.store.artefacts import Store
from harness.store.files import Local
from harness.store.packing import digest_of, pack, unpack


@pytest.fixture
def filled(tmp_path):
    """A store with two artefacts."""
    import torch

    store = Store(tmp_path / "store", "run")
    store.obtain("model", {"seed": 0}, lambda: ({}, {"weight": torch.arange(3.0)}), "trial")
    store.obtain("value", {"of": 0}, lambda: ({"x": 1.0}, None), "trial")
    return store


def test_another_store_gets_everything_once(filled, tmp_path):
    file = tmp_path / "packed.zip"
    assert pack(filled.files, file) == 2
    other = Store(tmp_path / "other", "again")
    assert unpack(file, other.files) == (2, 0)
    assert unpack(file, other.files) == (0, 2)
    same = lambda store: {e.name: store.files.read(e.name) for e in store.files.entries() if "lock" not in e.name}  # noqa: E731
    assert same(other) == same(filled)
    made = other.obtain("model", {"seed": 0}, lambda: pytest.fail("it was trained again"), "trial")
    assert other.tensors(made)["weight"].tolist() == [0.0, 1.0, 2.0]


def test_equal_stores_give_equal_files(filled, tmp_path):
    pack(filled.files, tmp_path / "one.zip")
    unpack(tmp_path / "one.zip", Store(tmp_path / "other", "again").files)
    pack(Local(tmp_path / "other"), tmp_path / "two.zip")
    assert digest_of(tmp_path / "one.zip") == digest_of(tmp_path / "two.zip")


@pytest.mark.parametrize(
    ("part", "how"),  # a blob without a record does no harm
    [
        ("blobs/", "changed"),
        ("blobs/", "missing"),
        ("blobs/", "outside"),
        ("records/", "changed"),
        ("records/", "outside"),
    ],
)
def test_nothing_is_written_of_a_file_that_was_changed(filled, tmp_path, part, how):
    pack(filled.files, tmp_path / "packed.zip")
    with zipfile.ZipFile(tmp_path / "packed.zip") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.startswith(part))
    content = parts.pop(name)
    if how == "changed":
        parts[name] = content.replace(b"1", b"2") if part == "records/" else content[:-1] + b"\1"
    elif how == "outside":
        parts[f"../{name}"] = content
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for each, held in parts.items():
            archive.writestr(each, held)
    other = Store(tmp_path / "other", "again")
    before = list(other.files.entries())
    with pytest.raises(UnlearningError, match=r"the packed store was changed|lacks the weights"):
        unpack(tmp_path / "packed.zip", other.files)
    assert list(other.files.entries()) == before
    assert not (tmp_path / part.strip("/")).exists()


def test_nothing_is_read_of_a_file_that_would_fill_the_memory(filled, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in "ab":  # each alone is allowed; the first that is read would be no part of a store
            archive.writestr(part, bytes(10**6))
    with pytest.raises(UnlearningError, match=r"its parts, such as 'a', claim to be more than 100 times as large"):
        unpack(tmp_path / "bomb.zip", filled.files)


def test_a_first_audit_from_a_seeded_store_trains_the_unlearned_models_alone(folder, tiny_store):
    code, text = folder.harness("store", "pack", "packed.zip", f"--store={tiny_store}")
    assert code == 0, text
    digest, there = text.split()[-1], (f"--store={folder.store}",)
    code, text = folder.harness("store", "unpack", "packed.zip", *there, "--sha256", "ab" * 32)
    assert code == 2
    assert "is another file, with SHA-256" in text
    assert folder.harness("store", "unpack", "packed.zip", *there, "--sha256", digest)[0] == 0
    folder.write("lazy.py", "def forget(model, request):\n    return model\n")
    run = folder.pytest("--unlearner=lazy:forget", *TINY)
    assert set(run.built) == {"U"}


@pytest.mark.parametrize(("name", "why"), [("no/packed.zip", "No such file"), ("packed.zip", "File too large")])
def test_what_cannot_be_written_is_named_and_leaves_nothing(filled, tmp_path, name, why):
    (before, most) = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))  # a file that cannot grow, as on a full disk
    try:
        with pytest.raises(UnlearningError, match=f"{name} cannot be written: {why}"):
            pack(filled.files, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
    assert not [each for each in tmp_path.iterdir() if each.suffix in (".zip", ".tmp")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pack", "packed.zip", "--store=no-store"), "found no store at "),
        (("unpack", "tiny.py"), "tiny.py is no packed store; name what pytest-unlearning store pack wrote"),
        (("unpack", "absent.zip"), "absent.zip"),
    ],
)
def test_what_cannot_be_is_a_sentence(folder, words, sentence):
    code, text = folder.harness("store", *words)
    assert (code, len(text.splitlines())) == (2, 1)
    assert sentence in text
