"""The command that makes the reference results, on a task that trains in milliseconds."""

import json
import subprocess
import sys

from conftest import ROOT

SCRIPT = ROOT / "ci" / "reference_results.py"
LAZY = "def forget(model, request):\n    return model\n"


def test_bundles_are_made_once_and_what_cannot_be_submitted_is_listed(trained):
    trained.write("lazy.py", LAZY)

    def made():
        command = [sys.executable, str(SCRIPT), "--task=tiny:Tiny", "--unlearner=gd", "--unlearner=lazy:forget"]
        done = subprocess.run(
            [*command, f"--store={trained.store}", "--out=results"], cwd=trained.path, env=trained.environment(),
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first, second = made()
    (bundle,) = (trained.path / "results" / "tiny_Tiny").glob("gd-*.zip")
    assert first.startswith("[1/2] gd on tiny:Tiny: ")
    assert first.endswith(bundle.name)
    why = "the method breaks the contract (changes-weights); mend it before you submit it"
    assert second == f"[2/2] lazy:forget on tiny:Tiny: left out: {why}"
    listed = json.loads((bundle.parent / "left_out.json").read_text())
    assert listed == {"lazy:forget": why}

    before = bundle.read_bytes()
    assert made()[0] == f"[1/2] gd on tiny:Tiny: is there, {bundle.name}"
    assert bundle.read_bytes() == before
