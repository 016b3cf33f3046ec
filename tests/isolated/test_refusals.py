"""What is refused where there are no walls, and the filter that is one of them."""

import platform
import struct
from pathlib import Path

import pytest

from conftest import TINY
from harness.api import UnlearningError
from harness.isolated import landlock, process, seccomp, walls
from harness.isolated import method as isolation


def test_without_landlock_nothing_is_called_isolated(monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(process, "_SERVERS", [])
    with pytest.raises(UnlearningError, match=r"cannot be isolated here: this system lacks Landlock \(Linux 5.13"):
        isolation.resolve("gd")


def test_without_seccomp_nothing_is_called_isolated(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "seccomp" in walls.missing()


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_the_filter_jumps_to_its_last_instructions_only(machine):
    code = list(struct.iter_unpack("HBBI", seccomp.program(machine)))
    last = len(code) - 1
    assert [each[0] for each in code[-2:]] == [seccomp.RETURN] * 2
    assert (code[-2][3], code[-1][3]) == (seccomp.ALLOW, seccomp.DENY)
    for at, (kind, yes, no, _) in enumerate(code):
        if kind in (seccomp.EQUAL, seccomp.AT_LEAST):
            assert at + 1 + max(yes, no) <= last
    denied = {value for kind, yes, _, value in code[3:] if kind == seccomp.EQUAL}
    column = list(seccomp.ARCHITECTURES).index(machine)
    assert {numbers[column] for numbers in seccomp.DENIED.values()} - {None} <= denied


def test_without_landlock_the_run_is_refused(folder):
    folder.write("older.py", "from harness.isolated import landlock\n\nlandlock.version = lambda: 0\n")
    run = folder.pytest(*TINY, "--unlearner=gd", "--audit-isolated", "-p", "older")
    assert run.code == 4
    assert "methods cannot be isolated here: this system lacks Landlock" in run.text
    assert "Traceback" not in run.text


def test_gpus_are_there_for_jobs_on_a_gpu_only(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(Path, "glob", lambda self, pattern: asked.append(pattern) or iter(()))
    for gpus in (False, True):
        asked.clear()
        walls._rules(tmp_path, walls.Openings(gpus=gpus))
        assert ("nvidia*" in asked) is gpus
