"""An installation breaks nobody's tests, and nobody's plugins break audits."""

import json
import shutil
import sys

import pytest
from installed import Installed, run

from conftest import ROOT, SUITES, TINY, WITHOUT, comparable

STRANGER = {
    "harness/__init__.py": "",
    "harness/rig.py": "def value():\n    return 3\n",
    "poisons/__init__.py": "",
    "test_rig.py": "from harness.rig import value\n\n\ndef test_rig():\n    assert value() == 3\n",
    "my_test_suites_old/test_old.py": "def test_old():\n    assert True\n",
}


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory):
    return Installed(tmp_path_factory.mktemp(request.param), ROOT, editable=request.param == "editable")


@pytest.fixture
def stranger(tmp_path):
    """A repository that has nothing to do with audits, and packages that are called like ours."""
    for name, text in STRANGER.items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_text(text)
    return tmp_path / "repo"


def test_tests_of_others_run_as_if_nothing_was_installed(installed, stranger, tmp_path):
    cache = tmp_path / "cache"
    plain = [installed.python, "-P", "-m", "pytest"]  # as ``pytest``: the working directory is not on the path
    module = [installed.python, "-m", "pytest"]
    for command, arguments, passed in (
        (plain, [], 2),
        (module, [], 2),
        (module, ["-n2"], 2),
        (plain, ["my_test_suites_old"], 1),
    ):
        done = run(*command, "-W", "error", *WITHOUT, *arguments, cwd=stranger, XDG_CACHE_HOME=str(cache))
        assert done.returncode == 0, done.stdout
        assert f"{passed} passed in" in done.stdout
        said = [line for line in done.stdout.splitlines() if not line.startswith("plugins: ")]
        assert not any(word in line for line in said for word in ("unlearn", "devices", "store")), done.stdout
    assert not cache.exists() or not list(cache.iterdir())


def test_the_glossary_is_installed(installed, tmp_path):
    done = run(installed.bin / "pytest-unlearning", "glossary", "trace", cwd=tmp_path)

    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("trace: what a poison leaves")


def test_what_stands_in_the_way_is_reported_in_one_sentence(installed, stranger, tmp_path):
    for command in (
        [installed.bin / "pytest-unlearning", "gate", "--unlearner=scrub"],
        [installed.bin / "pytest-unlearning", "store", "list"],
        [installed.python, "-m", "pytest", "--unlearner=scrub"],
    ):
        done = run(*command, cwd=stranger, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.returncode == 4, done.stdout
        (line,) = done.stdout.strip().splitlines()
        assert "pytest-unlearning cannot run here: Python imports the package 'harness' in" in line
        assert str(stranger / "harness") in line
        assert "run audits from another directory, or rename the other package" in line


def test_the_command_runs_from_any_directory(installed, tmp_path):
    done = run(installed.bin / "pytest-unlearning", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "usage: pytest-unlearning" in done.stdout
    gate = ("gate", "--unlearner=nowhere:forget", f"--store={tmp_path / 'store'}")
    done = run(installed.bin / "pytest-unlearning", *gate, cwd=tmp_path)
    assert done.returncode == 4, done.stdout
    assert "No module named 'nowhere'" in done.stdout


def test_other_plugins_change_no_verdict(installed, tmp_path):
    shutil.copy(ROOT / "tests" / "tiny.py", tmp_path)
    python, suites = installed.python, ("--pyargs", "test_suites")
    if "editable" in str(installed.folder):  # once from the checkout, in the environment that runs this
        python, suites = sys.executable, (SUITES, "-o", "addopts=")
    options = (*TINY, "--unlearner=identity", "-m", "not contract", f"--audit-store={tmp_path / 'store'}")
    seen = []
    for others in (("-n0", *WITHOUT), ("-n2", "--reruns=1", "--timeout=300")):
        result = tmp_path / "result.json"
        done = run(python, "-m", "pytest", *suites, *options, *others, f"--audit-json={result}", cwd=tmp_path)
        assert done.returncode == 1, done.stdout
        assert "INTERNALERROR" not in done.stdout
        seen.append([comparable(audit) for audit in json.loads(result.read_text())["audits"]])
    assert len(seen[0]) == 3
    assert seen[0] == seen[1]
