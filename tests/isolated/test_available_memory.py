"""How much memory an isolated method can be given: what is left, of the machine and of its container."""

import sys

import pytest

from harness.isolated.walls import available_memory, left_in_groups

GIB = 1 << 30


def group(folder, names, limit, used, unused):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used, f"anon 5\n{unused}\nshmem 7"), strict=True):
        (folder / name).write_text(f"{value}\n")


def test_what_a_container_uses_already_is_not_left(tmp_path):
    names = ("memory.max", "memory.current", "memory.stat")
    group(tmp_path / "mounted", names, "max", 9 * GIB, "inactive_file 0")
    group(tmp_path / "mounted" / "a", names, 8 * GIB, 6 * GIB, f"inactive_file {GIB}")
    group(tmp_path / "mounted" / "a" / "b", names, 4 * GIB, 5 * GIB, "inactive_file 0")
    (tmp_path / "groups").write_text("1:name=systemd:/other\n0::/a/b\n")
    assert list(left_in_groups(tmp_path / "groups", tmp_path / "mounted")) == [0, 3 * GIB]


def test_groups_of_the_older_kind_are_read_too(tmp_path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    group(tmp_path / "mounted" / "memory", names, 8 * GIB, 6 * GIB, f"inactive_file 5\ntotal_inactive_file {GIB}")
    (tmp_path / "groups").write_text("5:cpu,memory:/docker/not-mounted-here\n4:cpu:/\n0::/\n")
    assert list(left_in_groups(tmp_path / "groups", tmp_path / "mounted")) == [3 * GIB]


def test_a_kernel_without_control_groups_has_none(tmp_path):
    assert list(left_in_groups(tmp_path / "groups", tmp_path)) == []


@pytest.mark.skipif(sys.platform != "linux", reason="methods are isolated on Linux alone")
def test_there_is_memory_here():
    assert available_memory() >= GIB
