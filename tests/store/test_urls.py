"""A store behind a URL."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from audited import audit, run, snapshot, store, undisturbed

from conftest import SUITES, TINY
from harness.api import UnlearningError
from harness.store.artefacts import DamagedArtefact, Store
from harness.store.files import Local, Remote, files_at
from harness.store.inventory import Inventory

#: For pytest to find them here.
FIXTURES = (
    undisturbed,
    store,
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(cache, request):
    """A store in this process's memory, of this test."""
    return f"memory://{request.node.name.partition('[')[0]}/deep"


def test_a_file_url_is_a_path(tmp_path):
    assert files_at(f"file://{tmp_path}/a%20b").root == tmp_path / "a b"
    assert isinstance(files_at(tmp_path), Local)
    with pytest.raises(UnlearningError, match="names a machine; write a path as file:///"):
        files_at("file://server/share")


def test_a_store_behind_a_url_gives_the_same_verdicts_and_locks_here(url, undisturbed, cache):
    assert audit(url) == undisturbed[1]
    assert audit(url) == undisturbed[1]
    files = files_at(url)
    assert {entry.name.partition("/")[0] for entry in files.entries()} == {"records", "blobs"}
    local = {name for name in snapshot(undisturbed[0]) if not name.startswith("locks/")}
    assert {entry.name for entry in files.entries()} == local  # same keys, same layout, same bytes of models
    assert files.scratch.is_relative_to(cache)
    assert {path.parent.name for path in files.scratch.rglob("*.lock")} == {"locks"}


def test_blobs_are_fetched_once_and_a_damaged_copy_is_fetched_again(url):
    artefact = Store(url, "one").obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(3)}), "trial")
    files = files_at(url)
    (copy,) = files.scratch.glob("blobs/*/*.safetensors")
    copy.unlink()
    assert torch.equal(Store(url, "two").tensors(artefact)["w"], torch.ones(3))
    assert copy.exists()
    (path,) = [files._path(e.name) for e in files.entries() if e.name.startswith("blobs/")]
    content = files._filesystem.cat_file(path)
    files._filesystem.pipe_file(path, b"gone bad")
    assert torch.equal(Store(url, "three").tensors(artefact)["w"], torch.ones(3))  # from the copy
    files._filesystem.pipe_file(path, content)
    copy.write_bytes(b"gone bad")
    assert torch.equal(Store(url, "four").tensors(artefact)["w"], torch.ones(3))  # from there
    assert copy.read_bytes() == content


def test_damage_behind_a_url_is_noticed_and_mended(url, undisturbed):
    audit(url)
    files = files_at(url)
    for entry in list(files.entries()):
        files._filesystem.pipe_file(files._path(entry.name), b"something else")
    shutil.rmtree(files.scratch)
    with pytest.warns(DamagedArtefact):
        assert audit(url) == undisturbed[1]
    assert not Inventory.of(files).damaged


def test_the_commands_work_behind_a_url(url, capsys):
    audit(url)
    assert run(capsys, url, "verify")[0] == 0
    assert "kept in" in run(capsys, url, "size")[1]
    assert "model" in run(capsys, url, "list")[1]
    run(capsys, url, "prune", "--older-than=0")
    assert list(files_at(url).entries()) == []


def test_a_url_that_can_only_be_read_serves_what_it_has(tmp_path, cache):
    first = Store(tmp_path / "store", "first")
    made = first.obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(3)}), "trial")
    (tmp_path / "other").mkdir()
    shutil.make_archive(str(tmp_path / "with"), "zip", tmp_path, "store")
    shutil.make_archive(str(tmp_path / "without"), "zip", tmp_path, "other")
    store = Store(f"zip://store::file://{tmp_path}/with.zip", "second")
    assert store.files.in_words().endswith(", can only be read)")
    assert torch.equal(store.tensors(store.get(made.key))["w"], torch.ones(3))
    with pytest.raises(UnlearningError, match=r"not all .* is stored, and the store zip.* cannot be written"):
        store.obtain("model", {"seed": 1}, lambda: ({}, None), "trial")
    with pytest.raises(UnlearningError, match="cannot be reached or written"):
        Store(f"zip://store::file://{tmp_path}/without.zip", "third")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nowhere://bucket", "the store nowhere://bucket cannot be opened: Protocol not known: nowhere"),
        ("http://127.0.0.1:9/store", "the store http://127.0.0.1:9/store cannot be"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(folder, where, said):
    done = subprocess.run(
        folder.command(SUITES, *TINY, f"--audit-store={where}"), cwd=folder.path, env=folder.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert len([line for line in (done.stdout + done.stderr).splitlines() if said in line]) == 1
    assert "Traceback" not in done.stderr


def test_a_missing_fsspec_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)  # what an import finds that is not installed
    with pytest.raises(UnlearningError, match=r"needs fsspec: pip install 'pytest-unlearning\[remote\]'"):
        files_at("s3://bucket")


def test_the_header_says_where_the_cache_of_a_url_is(folder):
    run = folder.pytest(*TINY, "--audit-store=memory://header", "--audit-dry-run")
    files = files_at("memory://header")
    assert isinstance(files, Remote)
    assert run.code == 0, run.text
    assert f"store: memory://header (cache {files.scratch})".replace(str(Path.home()), "~") in run.text
