"""What a process behind the walls can reach, tried from inside."""

import ctypes
import os
import sys
from pathlib import Path

import pytest
from labs import BEHIND_WALLS

from harness.api import UnlearningError
from harness.isolated import landlock, process, walls

pytestmark = BEHIND_WALLS
HERE = Path(__file__).resolve().parent
DENIED = {"EACCES", "EPERM"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    (store / "blob").write_text("the retrained model")
    source = tmp_path_factory.mktemp("source") / "mine.py"
    source.write_text("readable")
    opened = (store / "blob").open()
    kept = ctypes.create_string_buffer(b"secret!")
    arguments = {
        "store": str(store), "blob": str(store / "blob"), "parent": os.getpid(), "address": ctypes.addressof(kept),
        "file": opened.fileno(), "source": str(source),
    }  # fmt: skip
    os.environ["SECRET_KEY"] = "secret"
    try:
        said = process.ask("attempts:attempts", "identity", arguments=arguments, files=[source])
    finally:
        del os.environ["SECRET_KEY"]
        opened.close()
    assert source.read_text() == "readable"
    assert (store / "blob").read_text() == "the retrained model"
    assert os.listdir(store) == ["blob"]
    return said.plain["found"]


@pytest.mark.parametrize(
    "attempt",
    [
        "store", "store, listed", "store, linked", "store, through a link", "store, written", "store, truncated",
        "memory", "environment", "maps", "folder of the judge", "files of the judge", "files of the judge, opened",
            "process_vm_readv", "ptrace",
        "socket AF_INET", "socket AF_INET6", "socket AF_UNIX", "socket AF_NETLINK", "/tmp", "/dev/shm", "own source",
        "mode of own source", "times of own source", "attributes of own source", "shared memory", "user namespace",
        "ended children, ignored",
    ],
)  # fmt: skip
def test_it_is_denied(found, attempt):
    assert found[attempt] in {*DENIED, "EXDEV"}


def test_signals_reach_nobody_outside(found):
    if landlock.version() < 6:
        pytest.skip("Landlock knows of signals from its version 6 on")
    assert found["signal"] in DENIED


def test_its_own_folder_is_its_own(found):
    assert found["own folder"] == "written"
    assert set(found["own folder, before"]) <= {"mine.txt", "link"}
    assert found["home"] is True


def test_programs_and_threads_run(found):
    assert found["program"] == "hello\n"
    assert found["program on the store"] != 0
    assert found["thread"] == ["ran"]
    assert found["random"] == 4
    assert found["source"] == "readable"


def test_nothing_is_inherited(found):
    assert found["inherited files"] == []
    assert not [name for name in found["variables"] if "SECRET" in name or "UNLEARNING" in name or "PYTEST" in name]
    assert found["standard files"][0] == os.devnull


def test_a_store_in_a_folder_that_methods_can_read_is_refused():
    walls.require_hidden({"the store": Path("/tmp/store"), "the directory of --audit-data": None})
    with pytest.raises(UnlearningError, match=r"the store, .*, is in .*, which isolated methods can read; put it in"):
        walls.require_hidden({"the store": Path(sys.prefix, "store")})
