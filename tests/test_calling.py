from __future__ import annotations

import os
import sys
import unittest

import pytest

from harness.api import UnlearningError
from harness.calling import PluginExit, calling
from harness.store.artefacts import Busy


def raises(error: BaseException) -> None:
    raise error


def skips() -> None:
    pytest.skip("not today")


def stops() -> None:
    pytest.exit("enough", returncode=0)


def leaves() -> None:
    os._exit(0)


@pytest.mark.parametrize(
    ("act", "call"),
    [
        (skips, r"pytest\.skip \(not today\)"),
        (lambda: pytest.xfail("known"), r"pytest\.xfail"),
        (lambda: pytest.importorskip("nowhere_to_be_found"), r"pytest\.skip"),
        (stops, r"pytest\.exit"),
        (lambda: sys.exit(0), r"sys\.exit"),
        (leaves, r"os\._exit\(0\)"),
        (lambda: raises(unittest.SkipTest("later")), "unittest's skipTest"),
        (lambda: raises(GeneratorExit()), "raising GeneratorExit"),
        (lambda: raises(Busy("forever")), "raising Busy"),
    ],
)
def test_what_would_end_a_test_is_an_error_of_the_plugin(act, call):
    with (
        pytest.raises(PluginExit, match=f"the unlearner 'x' tried to end its own test by {call}"),
        calling("the unlearner 'x'"),
    ):
        act()


@pytest.mark.parametrize("error", [ValueError("wrong"), UnlearningError("refused"), KeyboardInterrupt(), MemoryError()])
def test_errors_and_ctrl_c_pass(error):
    with pytest.raises(type(error)) as caught, calling("the task 'x'"):
        raise error
    assert caught.value is error


def test_what_a_plugin_calls_back_may_pass():
    with pytest.raises(Busy), calling("the poison 'x'", passing=(Busy,)):
        raise Busy("soon")


def test_a_child_of_the_plugin_may_end():
    leave = os._exit
    with calling("the unlearner 'x'"):
        child = os.fork()
        if child == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert os._exit is leave
