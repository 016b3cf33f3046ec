"""What is printed can be read in any encoding, and what is to be pasted suits the shell."""

import io
import os
import re
import shlex
import subprocess

import pytest

from conftest import SUITES, TINY
from harness.report.console import command_line, make_readable

SIGNS = "accuracy −15.4 pp · mu ≥ 4.3 → 1 … ü 漢"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", SIGNS),
        ("cp1252", "accuracy -15.4 pp · mu >= 4.3 -> 1 … ü ?"),
        ("ascii", "accuracy -15.4 pp | mu >= 4.3 -> 1 ... ? ?"),
    ],
)
def test_signs_that_an_encoding_lacks_are_written_plainly(encoding, shown):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    make_readable(stream)
    stream.write(SIGNS)
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == shown


def test_a_stream_that_cannot_be_told_is_left_alone():
    make_readable(io.StringIO())
    kept = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    make_readable(kept)
    assert kept.errors == "replace"


def test_a_command_is_quoted_for_the_shell_at_hand():
    argv = ["pytest", "test_x.py::test_y[a b]", "--unlearner=gd"]
    assert command_line(argv, windows=False) == "pytest 'test_x.py::test_y[a b]' --unlearner=gd"
    assert command_line(argv, windows=True) == 'pytest "test_x.py::test_y[a b]" --unlearner=gd'


def test_a_run_in_another_encoding_and_from_a_subdirectory_can_be_read_and_repeated(folder):
    below = folder.path / "below"
    below.mkdir()
    command = folder.command(os.path.relpath(SUITES, below), "--unlearner=gd:lr=0.01", "--audit-seeds=3", *TINY)
    environment = {**folder.environment(), "PYTHONIOENCODING": "cp1252"}

    def run(*arguments):
        done = subprocess.run([*command[:3], *arguments], cwd=below, env=environment, capture_output=True, check=False)
        return done.returncode, done.stdout.decode("cp1252")

    code, said = run(*command[3:], "-k", "forgotten")
    assert code == 1, said
    assert "\\u" not in said
    assert re.search(r"this method's accuracy minus short's: [+-]\d", said)
    # pytest says it a second time, in its summary, where CI is set.
    (line,) = set(re.findall(r"reproduce: pytest (.*test_poison_is_forgotten\[gd:.*)", said))
    code, again = run(*shlex.split(line), "-p", "no:cacheprovider")
    assert code == 1, again
    assert "test_poison_is_forgotten[gd:lr=0.01-tiny:Tiny-backdoor:size=1]" in again
