"""Who may import whom, and what is imported when nothing is trained."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness import registry
from harness.sources import IN_TREE

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "scipy", "sklearn")
AT_EXIT = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
"""


def run(*command, **environment):
    import os

    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


def loaded(result):
    """Return the top-level packages that a process had loaded at its end, by what `AT_EXIT` printed."""
    assert result.returncode == 0, result.stdout + result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:])


@pytest.fixture
def reporting(tmp_path):
    """Environment in which every Python process says what it had loaded."""
    (tmp_path / "sitecustomize.py").write_text(AT_EXIT)
    return {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}


def test_layers_import_downwards_only():
    linter = Path(sys.executable).with_name("lint-imports")
    result = run(str(linter), "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


def test_the_reporting_reports(reporting):
    assert "torch" in loaded(run(sys.executable, "-c", "import harness.training.data", **reporting))


def test_importing_the_plugin_is_light(reporting):
    assert not loaded(run(sys.executable, "-c", "import harness.plugin.hooks", **reporting)) & set(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["--co", "-q", "test_suites"],
        ["--co", "-q", "test_suites", "--unlearner=scrub", "--unlearner=all", "--poison=gaussian"],
    ],
    ids=lambda a: " ".join(a[:3]) + f" {len(a)}",
)
def test_listing_and_helping_are_light(reporting, arguments):
    result = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, **reporting)
    assert not loaded(result) & set(HEAVY)


def test_listing_lists_the_audits(reporting):
    result = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--co", "-q", "test_suites", **reporting)
    assert "test_retraining_forgets[retrain-digits-cnn-gaussian]" in result.stdout
    assert "trials::" not in result.stdout


def test_every_registered_module_is_light(reporting):
    modules = sorted(
        {
            entry.value.partition(":")[0]
            for kind in registry.GROUPS
            for entry in registry.available(kind).values()
            if entry.value.partition(".")[0] in IN_TREE
        }
    )
    assert len(modules) >= 6
    result = run(sys.executable, "-c", f"import {', '.join(modules)}", **reporting)
    assert not loaded(result) & {*HEAVY, "numpy"}


def test_resolving_names_is_light(reporting):
    code = (
        "from harness.registry import GROUPS, available, resolve\n"
        "for kind in GROUPS:\n    for name in available(kind):\n        resolve(kind, name)\n"
    )
    assert not loaded(run(sys.executable, "-c", code, **reporting)) & set(HEAVY)


def test_every_registered_thing_is_in_a_folder_of_its_own_kind():
    homes = {"task": "harness.tasks.", "poison": "poisons.", "unlearner": "unlearners."}
    for kind, home in homes.items():
        for entry in registry.available(kind).values():
            if entry.value.partition(".")[0] in IN_TREE:
                assert entry.value.startswith(home)
