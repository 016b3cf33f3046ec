"""Runs in which a method or a task skips, ends the process, hangs or leaves settings changed."""

import pytest

from conftest import TINY

ENDS = """
import os, sys, unittest
import pytest

def skips(model, request): pytest.skip("no GPU here")
def expects(model, request): pytest.xfail("known")
def stops(model, request): pytest.exit("done", returncode=0)
def skips_by_unittest(model, request): raise unittest.SkipTest("no")
def leaves(model, request): os._exit(0)
def exits(model, request): sys.exit(0)
"""
METHODS = ("skips", "expects", "stops", "skips_by_unittest", "leaves", "exits")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_method_that_ends_its_test_is_an_error_in_every_audit(workers, trained):
    trained.write("ends.py", ENDS)
    run = trained.pytest(*TINY, *(f"--unlearner=ends:{name}" for name in METHODS), "--audit-seeds=3", workers)
    assert run.code == 1, run.text
    assert {audit["verdict"] for audit in run.audits.values()} == {"ERROR"}
    assert len(run.audits) == 3 * len(METHODS)
    assert {key: n for key, n in run.counts().items() if key in ("skipped", "xfailed", "passed")} == {}
    for name in METHODS:
        assert f"the unlearner 'ends:{name}' tried to end its own test by" in run.text


def test_a_task_that_cannot_be_loaded_and_skips_is_an_error(folder):
    folder.write(
        "absent.py",
        "import pytest\nfrom tiny import Tiny\n\n\nclass Absent(Tiny):\n"
        "    def load(self, folder):\n        pytest.importorskip('not_installed_at_all')\n",
    )
    for workers, code in (("-n0", 4), ("-n2", 1)):  # one process finds it before it begins
        run = folder.pytest("--task=absent:Absent", TINY[1], "--unlearner=gd", "--audit-seeds=3", workers)
        assert run.code == code, run.text
        assert {audit["verdict"] for audit in run.audits.values()} <= {"ERROR"}
        assert "the task 'absent:Absent' tried to end its own test by pytest.skip" in run.text


def test_what_a_careless_method_leaves_reaches_no_other(folder):
    folder.write(
        "careless.py",
        "import torch\n\n\ndef forget(model, request):\n    torch.set_default_device('meta')\n"
        "    torch.nn.functional.cross_entropy = torch.nn.functional.mse_loss\n    return model\n",
    )
    common = (*TINY, "--unlearner=gd", "--audit-seeds=3")
    alone = folder.pytest(*common, f"--audit-store={folder.path / 'alone'}")
    beside = folder.pytest("--unlearner=careless:forget", *common)
    assert [audit for audit in beside.judged if audit["unlearner"] == "gd"] == alone.judged != []
    assert "the unlearner 'careless:forget' replaced torch.nn.functional.cross_entropy" in beside.text


def test_a_method_that_hangs_is_an_error_and_the_rest_goes_on(trained):
    trained.write(
        "hangs.py", "import time\n\n\ndef forget(model, request):\n    while True:\n        time.sleep(0.01)\n"
    )
    run = trained.pytest(*TINY, "--unlearner=hangs:forget", "--unlearner=gd", "--audit-seeds=3", "--audit-timeout=1")
    assert run.code == 1
    verdicts = {unlearner: audit["verdict"] for (unlearner, _, _), audit in run.audits.items()}
    assert verdicts["hangs:forget"] == "ERROR" != verdicts["gd"]
    assert "the unlearner 'hangs:forget' did not end within 1 seconds on seed 0" in run.text
