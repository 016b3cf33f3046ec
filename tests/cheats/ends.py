"""Methods that end the test, or the process, in place of unlearning."""

import os
import sys
import unittest

import pytest


def skips(model, request):
    pytest.skip("not today")


def xfails(model, request):
    pytest.xfail("known")


def imports_or_skips(model, request):
    return pytest.importorskip("a_library_that_nobody_has").clean(model)


def exits_pytest(model, request):
    pytest.exit("enough", returncode=0)


def exits_python(model, request):
    sys.exit(0)


def ends_the_process(model, request):
    os._exit(0)


def skips_as_unittest(model, request):
    raise unittest.SkipTest("later")


def says_that_another_is_at_it(model, request):
    from harness.store.artefacts import Busy

    raise Busy("for ever")
