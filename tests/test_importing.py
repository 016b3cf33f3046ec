"""Imports of plugins: what is found under a name, and what is said of a plugin that fails."""

import os
import re
import subprocess
import sys

import pytest
from plugins import FORGET, install, write

from harness.registry import available, resolve
from harness.sources import ROOT
from harness.specs import SpecError

# ---- what fails at import


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("X = 1\nraise RuntimeError('broken inside')\n", "RuntimeError: broken inside"),
        ("\nimport a_missing_helper_of_mine\n", "ModuleNotFoundError: No module named 'a_missing_helper_of_mine'"),
    ],
)
def test_a_module_that_raises_at_import_is_named_with_file_and_line(modules, text, error):
    file = write(modules / "broken_method.py", text)
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "broken_method:forget")
    message = f"the unlearner 'broken_method:forget' cannot be imported: {error} ({file}:2)"
    assert str(caught.value) == message
    assert caught.value.__cause__ is not None


def test_a_syntax_error_is_named_with_file_and_line(modules):
    write(modules / "garbled_method.py", "x = 1\ndef forget(:\n")
    with pytest.raises(SpecError, match=r"cannot be imported: SyntaxError: .*garbled_method\.py, line 2"):
        resolve("unlearner", "garbled_method:forget")


class Ends(BaseException):
    """What no handler of errors catches."""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sys.exit(3)", "SystemExit: 3"),
        ("pytest.skip('no GPU', allow_module_level=True)", "Skipped: no GPU"),
        ("pytest.exit('enough')", "Exit: enough"),
        ("raise test_importing.Ends('over')", "Ends: over"),
        ("raise unittest.SkipTest", "SkipTest"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
    ],
)
@pytest.mark.parametrize("where", ["import", "constructor", "attribute"])
def test_whatever_a_plugin_raises_is_one_sentence(modules, where, line, said):
    text = "import sys, unittest\nimport pytest, test_importing\n"
    before = {
        "import": "",
        "constructor": "class Method:\n def __init__(self):\n",
        "attribute": "def __getattr__(name):\n",
    }
    indented = f"  {line}\n" if before[where] else f"{line}\n"
    file = write(modules / "ending_method.py", text + before[where] + indented)
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "ending_method:Method")
    verb = "made" if where == "constructor" else "imported"
    at = 3 + before[where].count("\n")
    assert str(caught.value) == f"the unlearner 'ending_method:Method' cannot be {verb}: {said} ({file}:{at})"


def test_a_plugin_that_ends_its_process_at_import_is_refused(modules):
    write(modules / "leaving_method.py", "import os\nos._exit(0)\n")
    with pytest.raises(SpecError, match=r"leaving_method:Method' cannot be imported: .*os\._exit\(0\)"):
        resolve("unlearner", "leaving_method:Method")


def test_ctrl_c_is_nobodys_fault(modules):
    write(modules / "interrupted_method.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        resolve("unlearner", "interrupted_method:Method")


@pytest.mark.parametrize(
    "text", ["import sys\nsys.exit(3)\n", "class Method:\n  def __init__(self):\n    raise RuntimeError\n"]
)
def test_a_run_of_a_plugin_that_fails_is_refused(tmp_path, text):
    write(tmp_path / "failing.py", text)
    pytest_ = [sys.executable, "-m", "pytest", "--pyargs", "test_suites", "--unlearner=failing:Method"]
    audit = "import harness\ntry: harness.audit('failing:Method')\nexcept harness.UnlearningError: raise SystemExit(4)"
    for command in (
        pytest_,
        [*pytest_, "-n2"],
        [sys.executable, "-m", "harness", "gate", "--unlearner=failing:Method", "--store=store"],
        [sys.executable, "-c", audit],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 4, said
        assert "INTERNALERROR" not in said
        if command[1] == "-m":
            (line,) = [line for line in said.splitlines() if line.startswith("ERROR: ")]
            assert line.startswith("ERROR: the unlearner 'failing:Method' cannot be ")
            assert "failing.py:" in line


# ---- dotted paths


@pytest.mark.parametrize(
    "started", [["-P", "-m", "pytest"], ["-m", "pytest"], ["-P", "-m", "pytest", "-n1"]], ids=" ".join
)
def test_a_dotted_path_means_the_file_in_the_working_directory(tmp_path, started):
    for folder, lr in (("elsewhere", 1), ("here", 2)):
        write(
            tmp_path / folder / "twin.py",
            "import twin_rate\ndef forget(model, request, lr=twin_rate.LR):\n  return model\n",
        )
        write(tmp_path / folder / "twin_rate.py", f"LR = {lr}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "elsewhere")}
    command = [
        *started,
        "--pyargs",
        "test_suites.test_budget",
        "--unlearner=twin:forget",
        "--audit-store=store",
        "--audit-dry-run",
    ]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=False
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("unlearner: ")]
    assert line.startswith("unlearner: twin:forget(lr=2)")
    assert line.endswith(f", file {tmp_path / 'here' / 'twin.py'}")


def test_a_file_of_the_working_directory_shadows_nothing_else(tmp_path):
    for name in ("statistics", "scipy"):
        write(tmp_path / f"{name}.py", "raise RuntimeError('not me')\n")
    write(tmp_path / "lone.py", "import statistics\n" + FORGET)
    code = "from harness import registry\nregistry.resolve('unlearner', 'lone:forget')\nimport scipy, statistics"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_files_of_one_name_are_both_named(modules, tmp_path_factory, monkeypatch):
    first = write(modules / "rival.py", FORGET)
    assert resolve("unlearner", "rival:forget").file == str(first)
    here = tmp_path_factory.mktemp("here")
    second = write(here / "rival.py", FORGET)
    monkeypatch.chdir(here)
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "rival:forget")
    assert str(caught.value) == (
        f"the unlearner 'rival:forget' is in {second}, but Python has already imported another module 'rival', from "
        f"{first}; rename one of the two, or run from another directory"
    )


def test_a_file_called_like_a_standard_module_is_refused(modules, monkeypatch):
    file = write(modules / "statistics.py", FORGET)
    monkeypatch.chdir(modules)
    said = f"is in {file}, but 'statistics' is the name of a module of Python's standard library; rename the file"
    with pytest.raises(SpecError, match=re.escape(said)):
        resolve("unlearner", "statistics:forget")


# ---- entry points


def test_an_installed_plugin_is_found_by_name(site, modules):
    write(modules / "their_method.py", FORGET)
    install(site, "theirs", "unlearning.unlearners", {"theirs-forget": "their_method:forget"})
    found = resolve("unlearner", "theirs-forget:lr=0.2")
    assert (found.id, found.distribution, found.version) == ("theirs-forget:lr=0.2", "theirs", "1.0")


def test_two_distributions_that_claim_one_name_are_both_named(site):
    install(site, "first-plugin", "unlearning.unlearners", {"clash": "one:forget"})
    install(site, "second-plugin", "unlearning.unlearners", {"clash": "two:forget"})
    with pytest.raises(SpecError, match="register the same unlearner 'clash'; uninstall all but one") as caught:
        resolve("unlearner", "clash")
    assert "first-plugin (one:forget)" in str(caught.value)
    assert "second-plugin (two:forget)" in str(caught.value)
    assert resolve("unlearner", "gd").id == "gd"


def test_a_name_of_ours_that_a_distribution_takes_is_refused(site):
    install(site, "squatter", "unlearning.unlearners", {"scrub": "theirs:Scrub"})
    with pytest.raises(SpecError, match=r"squatter \(theirs:Scrub\)"):
        resolve("unlearner", "scrub")


def test_one_entry_point_found_twice_is_one(site):
    install(site, "first-plugin", "unlearning.unlearners", {"same": "one:forget"})
    install(site, "second-plugin", "unlearning.unlearners", {"same": "one:forget"})
    assert list(available("unlearner")).count("same") == 1


def test_a_plugin_that_cannot_be_imported_fails_only_if_it_is_asked_for(site):
    install(site, "rotten", "unlearning.unlearners", {"rotten": "no_such_module_at_all:forget"})
    assert "rotten" in available("unlearner")
    assert resolve("unlearner", "gd").id == "gd"
    with pytest.raises(SpecError, match="the unlearner 'rotten' of rotten cannot be imported"):
        resolve("unlearner", "rotten")


EXTRAS = (
    "Provides-Extra: vision\nProvides-Extra: sound\nRequires-Dist: numpy\nRequires-Dist: an-absent-base>=1\n"
    "Requires-Dist: An.Absent_Eye>=2; extra == 'vision'\nRequires-Dist: its-name-differs; extra == 'sound'\n"
)


@pytest.mark.parametrize(
    ("module", "metadata", "said"),
    [
        ("an_absent_eye.models", EXTRAS, "; the extra 'vision' brings it: pip install 'lacking[vision]'"),
        ("an_absent_ear", EXTRAS, "; one of its extras may bring it: vision, sound"),
        ("an_absent_base", EXTRAS, " although lacking requires it: pip install lacking"),
        ("an_absent_ear", "", ""),
    ],
    ids=["extra", "another name", "required", "undeclared"],
)
def test_a_plugin_that_lacks_a_module_says_what_brings_it(site, modules, module, metadata, said):
    write(modules / "lacking_method.py", f"import {module}\n{FORGET}")
    install(site, "lacking", "unlearning.unlearners", {"lacking": "lacking_method:forget"}, metadata)
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "lacking")
    missing = module.partition(".")[0]
    assert str(caught.value) == (
        f"the unlearner 'lacking' of lacking needs the module {missing!r}, which is not installed{said}"
    )


def test_a_plugin_that_raises_when_imported_stops_the_run_with_its_own_traceback(site, modules, tmp_path):
    write(modules / "rotten_helper.py", "def prepare():\n    raise RuntimeError('no such device')\n")
    write(modules / "rotten_method.py", "import rotten_helper\n\nrotten_helper.prepare()\n")
    install(site, "rotten", "unlearning.unlearners", {"rotten": "rotten_method:forget"})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(modules), str(site / "rotten"), str(ROOT)])}

    def listing(name):
        command = [sys.executable, "-m", "pytest", "--pyargs", "test_suites", "--co", "-q", f"--unlearner={name}"]
        return subprocess.run(command, cwd=modules, env=environment, capture_output=True, text=True, check=False)

    done = listing("rotten")
    assert done.returncode == 4
    said = done.stderr.strip().splitlines()
    assert said[0].startswith("ERROR: the unlearner 'rotten' of rotten cannot be imported: RuntimeError: no such")
    assert [line.partition(", in ")[2] for line in said if line.startswith("  File")] == ["<module>", "prepare"]
    assert "importlib" not in done.stderr
    assert listing("gd").returncode == 0, "nobody asked for it"


def test_names_are_listed_in_order():
    assert list(available("unlearner")) == sorted(available("unlearner"))
