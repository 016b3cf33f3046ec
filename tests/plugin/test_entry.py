"""The entry module: what every run of pytest in the environment loads."""

import inspect
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pluggy
import pytest

import _pytest_unlearning as entry
import harness
from conftest import SUITES
from harness.judging.plan import KINDS, LOOKS, MIN_PASS, Plan

LIST = ("--co", "-q", "--unlearner=identity")


def test_it_imports_nothing_of_ours_and_not_even_pytest():
    code = "import sys, _pytest_unlearning\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"harness", "unlearners", "poisons", "pytest", "torch"} & set(done.stdout.split())


def test_defaults_are_the_same_everywhere():
    assert Plan() == Plan(
        *(entry.DEFAULTS[name] for name in ("seeds", "alpha", "futility")), kind=entry.DEFAULTS["plan"]
    )
    for function in (harness.audit, harness.load_models, harness.parametrize_with_audits):
        for name, parameter in inspect.signature(function).parameters.items():
            if entry.DEFAULTS.get(name) is not None and (function, name) != (harness.load_models, "device"):
                assert parameter.default == entry.DEFAULTS[name], f"{function.__name__}, {name}"


def test_the_option_takes_the_seeds_of_the_plan():
    (seeds,) = (option for option in entry.OPTIONS if option.name == "--audit-seeds")
    assert entry.LOOKS == LOOKS
    assert seeds.help.endswith("one of 3, 5, 8, 12 or 16")
    assert [seeds.type(str(n)) for n in LOOKS] == list(LOOKS)
    for text in ("2", "4", "17", "x", ""):
        with pytest.raises(entry.argparse.ArgumentTypeError, match=f"FAIL needs {LOOKS[0]}, a PASS {MIN_PASS}"):
            seeds.type(text)


def test_the_option_takes_the_kinds_of_the_plan():
    (plan,) = (option for option in entry.OPTIONS if option.name == "--audit-plan")
    assert plan.choices == KINDS


def test_no_path_may_be_empty():
    places = [option for option in entry.OPTIONS if option.metavar in ("FILE", "DIR", "PATH_OR_URL")]
    assert len(places) == 6
    for option in places:
        assert option.type("a") == "a"
        with pytest.raises(entry.argparse.ArgumentTypeError, match="takes a path"):
            option.type("")
    for wrong in ({"store": ""}, {"data": ""}):
        with pytest.raises(harness.UnlearningError, match="is empty; write"):
            harness.audit("identity", **wrong)


def test_short_names_are_left_to_whoever_has_them(folder):
    folder.write("conftest.py", "def pytest_addoption(parser):\n    parser.addoption('--task', default='toy')\n")
    folder.write(
        "test_ours.py", "def test_ours(request):\n    assert request.config.getoption('--task') in ('toy', 'big')\n"
    )
    own = ["pytest", "-p", "no:cacheprovider", "test_ours.py"]
    for arguments in ([], ["--task=big"]):
        _, text = folder.forks.run([*own, *arguments], folder.path, dict(os.environ), timeout=900)
        assert "1 passed" in text, text
    asked = ["--audit-task", "tiny:Tiny", "--audit-poison=backdoor:size=1", "--unlearner", "identity"]
    command = [*folder.command("--rootdir=.", *asked, "--audit-seeds=3", "-k", "forgotten"), "--pyargs", "test_suites"]
    _, text = folder.forks.run(command[2:], folder.path, folder.environment(), timeout=900)
    assert "--unlearner=identity --audit-task=tiny:Tiny --poison=backdoor:size=1" in text, text


def test_short_names_work_wherever_an_option_can_stand(folder):
    folder.write("pytest.ini", "[pytest]\naddopts = --task tiny:Tiny\n")
    folder.write("test_own.py", "def test_own(request):\n    print('\\nseen', request.config.option.audit_task)\n")
    command = ["pytest", "-p", "no:cacheprovider", "-rP", "-n1", "test_own.py"]
    command += [f"--audit-store={folder.store}"]
    environment = {**folder.environment(), "PYTEST_ADDOPTS": "--poison backdoor"}
    _, text = folder.forks.run(command, folder.path, environment, timeout=900)
    assert "seen ['tiny:Tiny']" in text, text


def test_help_shows_every_option_with_its_default(folder):
    done = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True)
    shown = " ".join(done.stdout.split())
    for option in entry.OPTIONS:
        assert option.name in shown
    assert "as a fraction of retraining. Default: 0.1 " in shown
    assert "Error rate of a PASS, and of a FAIL. Default: 0.05 " in shown


GATES = {"test_poison_is_forgotten", "test_accuracy_is_kept", "test_budget_is_kept"}
RELEARNING = {"test_poison_does_not_come_back"}
FILE = f"{SUITES}/test_relearning.py"


@pytest.mark.parametrize(
    ("arguments", "collected"),
    [
        ([SUITES], GATES | {"test_contract"}),
        (["--pyargs", "test_suites"], GATES | {"test_contract"}),
        ([SUITES, "-m", "relearning"], RELEARNING),
        ([SUITES, "-m", "audit and not heuristic and not relearning"], GATES),
        ([SUITES, "-k", "relearning"], RELEARNING),
        ([FILE], RELEARNING),
        ([f"{FILE}::test_poison_does_not_come_back", f"{SUITES}/test_heuristics.py"], "both"),
        (["--pyargs", "test_suites.test_relearning"], RELEARNING),
    ],
    ids=lambda value: " ".join(value).replace(SUITES, "suites") if isinstance(value, list) else "",
)
def test_optional_audits_run_if_a_mark_a_keyword_or_their_file_is_named(folder, arguments, collected):
    command = [each for each in folder.command(*LIST, *arguments) if not each.startswith("--audit-store")]
    done = subprocess.run(
        command, cwd=folder.path, env=folder.environment(), capture_output=True, text=True, check=True
    )
    tests = set(re.findall(r"::(test_\w+)", done.stdout))
    if collected == "both":
        assert tests > RELEARNING
        assert "test_metric_says_unlearned" in tests
    else:
        assert tests == collected


def test_workers_that_report_their_first_audits_at_once_load_the_plugin_once(monkeypatch):
    done = []

    class Plugin:
        def join(self):
            time.sleep(0.05)
            done.append(threading.get_ident())

    def load(config):
        time.sleep(0.05)  # long enough for the other thread to find no plugin, if it looks
        return config.pluginmanager.get_plugin(config.pluginmanager.register(Plugin(), entry.NAME))

    monkeypatch.setattr(entry, "load", load)
    config = SimpleNamespace(pluginmanager=pluggy.PluginManager("pytest"))

    def report(_: int) -> int:
        entry.pytest_report_from_serializable(config, {"unlearning": {}})
        return len(done)

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(report, range(2))) == [1, 1], "nobody goes on before the plugin has joined"
