"""The command that makes the reference results, on a task that trains in milliseconds."""

import json
import subprocess
import sys

import pytest

from conftest import ROOT

FOR_TEXTS = "def forget(model, request):\n    return model\n\n\nforget.modality = 'text'\n"


@pytest.fixture
def made(trained, modules):
    """What makes the bundles of methods in a folder, and returns the lines that it prints."""

    def make(*methods):
        command = [sys.executable, ROOT / "ci" / "reference_results.py", "--task=tiny:Tiny", "--out=results"]
        command += [f"--store={trained.store}", *(f"--unlearner={method}" for method in methods)]
        done = subprocess.run(
            command, cwd=modules, env=trained.environment(), stdout=subprocess.PIPE, text=True, timeout=300, check=True
        )  # fmt: skip
        return done.stdout.splitlines()

    return make


def test_bundles_are_made_once_and_what_cannot_be_submitted_is_listed(made, modules):
    (modules / "texts.py").write_text(FOR_TEXTS)
    first, second = made("gd", "texts:forget")
    (bundle,) = (modules / "results" / "tiny_Tiny").glob("gd-*.zip")
    assert first.startswith("[1/2] gd on tiny:Tiny: ")
    assert first.endswith(bundle.name)
    why = "no unlearner fits image tasks (given: texts:forget)"
    assert second == f"[2/2] texts:forget on tiny:Tiny: left out: {why}"
    assert json.loads((bundle.parent / "left_out.json").read_text()) == {"texts:forget": why}

    before = bundle.read_bytes()
    assert made("gd") == [f"[1/1] gd on tiny:Tiny: is there, {bundle.name}"]
    assert bundle.read_bytes() == before
