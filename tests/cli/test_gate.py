"""The wheel, the example plugin, the gate and its templates, as strangers use them: no checkout, no network."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from installed import Installed, run

from conftest import ROOT
from harness.report import github

ACTION = yaml.safe_load((ROOT / "ci" / "action" / "action.yml").read_text())
WORKFLOW = yaml.safe_load((ROOT / "ci" / "workflow.yml").read_text())
PLUGIN = ROOT / "ci" / "example_plugin"
ZIZMOR = Path(sys.executable).with_name("zizmor")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("installed"), ROOT, PLUGIN)


# ---- the wheel and the plugin


def test_the_wheel_audits_without_the_checkout(installed, tmp_path):
    where = run(installed.python, "-c", "import harness; print(harness.__file__)", cwd=tmp_path).stdout
    assert where.startswith(str(installed.folder)), "the checkout shines through"
    suites = ("--pyargs", "test_suites", "--task=stripes", f"--audit-store={installed.store}")
    done = run(installed.bin / "python", "-m", "pytest", *suites, "--unlearner=scrub", "-k", "forgotten", cwd=tmp_path)
    assert "scrub on stripes" in done.stdout, done.stdout
    assert "pytest-unlearning 0.1.0" in done.stdout
    if done.returncode:  # what it says of the method is not the point here; the command that repeats it is
        command = re.search(r"reproduce: pytest (--pyargs 'test_suites\.test_forgetting::\S+')", done.stdout)
        assert command, done.stdout


def test_the_plugins_tests_pass_outside_the_checkout(installed, tmp_path):
    shutil.copytree(PLUGIN / "tests", tmp_path / "tests")
    done = run(
        installed.python, "-m", "pytest", "tests", f"--audit-store={installed.store}", "-p", "no:cacheprovider",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "runner-up: keeps all 19 lines" in done.stdout
    assert "test_runner_up.py" in done.stdout
    assert re.search(r"\b26 passed, ", done.stdout), done.stdout


# ---- the action's steps, run as GitHub runs them


class Workspace:
    """A repository with a method in it, and what GitHub makes of the action there."""

    def __init__(self, installed: Installed, path: Path) -> None:
        self.installed, self.path = installed, path
        self.summary = path / "summary.md"

    def steps(self, **inputs):
        """Run the action's ``run:`` steps and return the exit code and the output of the last one."""
        given = {name: str(each.get("default", "")) for name, each in ACTION["inputs"].items()} | inputs
        unknown = set(inputs) - set(ACTION["inputs"])
        assert not unknown
        self.summary.unlink(missing_ok=True)
        environment = {
            "PATH": f"{self.installed.bin}{os.pathsep}{os.environ['PATH']}", "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1",
            "GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_WORKSPACE": str(self.path),
            "GITHUB_STEP_SUMMARY": str(self.summary),
        }  # fmt: skip
        for step in ACTION["runs"]["steps"]:
            if "run" not in step:
                continue
            assert "${{" not in step["run"], "an input in a script is an injection"
            own = {name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: given[m[1]], text)
                   for name, text in step.get("env", {}).items()}  # fmt: skip
            script = self.path / "step.sh"
            script.write_text(step["run"])
            # As GitHub calls what says ``shell: bash``.
            done = run("bash", "--noprofile", "--norc", "-eo", "pipefail", script, cwd=self.path, **environment, **own)
            if done.returncode:
                break
        return done.returncode, done.stdout


@pytest.fixture
def workspace(installed, tmp_path):
    def make(method, expected=""):
        (tmp_path / "mine.py").write_text(method)
        (tmp_path / "expected.toml").write_text(expected)
        return Workspace(installed, tmp_path)

    return make


def gate(workspace, unlearner, **inputs):
    wheels = "\n".join(map(str, workspace.installed.wheels))
    return workspace.steps(
        unlearner=unlearner, task="stripes", install=wheels, store=str(workspace.installed.store), **inputs
    )


def annotated(output):
    return [line for line in output.splitlines() if line.startswith("::")]


FADES = """
def fade(model, request, lr: float = 0.001):
    optimizer = request.optimizer(model, lr=lr)
    for batch in request.batches("retain", epochs=EPOCHS):
        optimizer.zero_grad()
        request.loss(model, batch).backward()
        optimizer.step()
    return model


fade.reads_forget = False
"""
EXPECTED = """
[[expected]]
unlearner = "mine:fade"
task = "stripes"
poison = "glare"
verdict = "FAIL"
reason = "It hardly moves."
"""


def test_a_good_method_and_one_that_fails_as_expected_are_green(workspace):
    here = workspace(FADES.replace("EPOCHS", "1"), EXPECTED)
    drawn = {"seeds": "drawn", "salt": "correct horse battery staple", "ledger": "ledger.jsonl"}
    options = {"expect": "expected.toml", "workers": "0", "args": "--audit-plan=quick\n--audit-seeds=5"}
    code, output = gate(here, "runner-up\nmine:fade\n", **options, **drawn)
    assert code == 0, output
    assert "gate: GREEN: everything passes, or fails as expected" in output
    assert "mine:fade on stripes, glare, poison: FAIL as expected: It hardly moves." in output
    assert annotated(output) == []
    assert "correct horse" not in output
    lines = [json.loads(line) for line in (here.path / "ledger.jsonl").read_text().splitlines()]
    assert {(line["method"], line["verdict"]) for line in lines} == {("runner-up", "PASS"), ("mine:fade", "FAIL")}
    assert all(line["seeds"].startswith("drawn, salt ") for line in lines)
    summary = here.summary.read_text()
    assert "- ledger: submission 1 under the name mine:fade: 1 different on drawn seeds" in summary
    assert "### Unlearning gate: runner-up, mine:fade is green" in summary
    assert "| contract | green |\n| controls | green |\n| audits | green |" in summary
    assert (here.path / "unlearning-report" / "audits.json").exists()


def test_a_method_that_fails_is_red_and_annotated_where_it_stands(workspace):
    here = workspace(FADES.replace("EPOCHS", "1"))
    code, output = gate(here, "mine:fade", workers="0", args="--audit-plan=quick\n--audit-seeds=5")
    assert code == 1
    (line,) = annotated(output)
    title = "mine%3Afade on stripes%2C glare%3A poison left FAIL"
    assert line.startswith(f"::error file=mine.py,line=2,title={title}::Success of the glare on test images: ")
    assert "of the poison's effect is left" in line
    assert "%0A" in line, "the finding has lines"
    assert "gate: RED: audits: the method does not pass" in output
    assert "| audits | **red** |" in here.summary.read_text()


def test_a_broken_method_is_stopped_by_the_contract(workspace):
    here = workspace("def fade(model, request):\n    return None\n")
    code, output = gate(here, "mine:fade", workers="2")
    assert code == 1
    assert "devices: 2 workers on cpu" in output
    start = "::error file=mine.py,line=1,title=mine%3Afade%3A contract%2C same-architecture::"
    assert any(line.startswith(start) for line in annotated(output))
    assert "gate: RED: contract: the method does not do what every audit relies on; nothing was audited" in output
    assert "unlearning audits" not in output
    assert "| contract | **red** |\n| controls | not run |\n| audits | not run |" in here.summary.read_text()


def test_a_method_over_its_budget_is_stopped_by_the_contract(workspace):
    here = workspace(FADES.replace("EPOCHS", "8"))
    code, output = gate(here, "mine:fade", workers="0")
    assert code == 1
    assert [line.partition("title=")[2].partition("::")[0] for line in annotated(output)] == [
        "mine%3Afade%3A contract%2C budget"
    ]


def test_drawn_seeds_without_a_salt_are_red(workspace):
    code, output = gate(workspace(FADES), "mine:fade", seeds="drawn")
    assert code == 4
    assert "a salt of 0 characters" in output


def test_a_gate_that_cannot_run_says_so(workspace):
    here = workspace("")
    code, output = gate(here, "mine:fade", workers="0")
    assert code == 4
    assert "the unlearner 'mine:fade': mine has no attribute 'fade'" in output
    (line,) = annotated(output)
    assert line.startswith("::error title=unlearning gate::contract: pytest did not finish")


# ---- the templates


def test_the_workflow_uses_the_action_with_inputs_that_it_has():
    (job,) = WORKFLOW["jobs"].values()
    step = job["steps"][-1]
    assert step["uses"] == "./.github/actions/unlearning"
    assert set(step["with"]) <= set(ACTION["inputs"])
    needed = {name for name, each in ACTION["inputs"].items() if each.get("required")}
    assert needed <= set(step["with"])


def test_what_others_made_is_pinned():
    steps = ACTION["runs"]["steps"] + [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step and not step["uses"].startswith("./")]
    assert len(used) == 5
    assert all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", each) for each in used)


def test_zizmor_finds_nothing(tmp_path):
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    shutil.copy(ROOT / "ci" / "workflow.yml", tmp_path / ".github" / "workflows" / "unlearning.yml")
    shutil.copytree(ROOT / "ci" / "action", tmp_path / ".github" / "actions" / "unlearning")
    done = run(ZIZMOR, "--offline", "--no-progress", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


# ---- annotations


def test_annotations_are_escaped():
    line = github.command("error", "a,b: 100 %", "50 %\r\nof: it, all", {"file": "x,y.py", "line": 3})
    assert line == "::error file=x%2Cy.py,line=3,title=a%2Cb%3A 100 %25::50 %25%0D%0Aof: it, all"


def test_what_another_plugin_annotates_is_not_annotated_twice():
    common = {"unlearner": "gd", "task": "t", "poison": "p", "claim": "poison", "red": True}
    audits = [{**common, "verdict": "FAIL", "text": "x"}, {**common, "verdict": "ERROR", "reason": "RuntimeError: y"}]
    contract = [{"unlearner": "gd", "line": "budget", "kept": False, "sentence": "z"}]
    everything = github.failing(audits, contract, ["worker 'gw0' crashed"], [], [])
    assert [line.rpartition("::")[2] for line in everything] == ["x", "RuntimeError: y", "z", "worker 'gw0' crashed"]
    rest = github.failing(audits, contract, ["worker 'gw0' crashed"], [], [], failures=False)
    assert [line.rpartition("::")[2] for line in rest] == ["RuntimeError: y", "worker 'gw0' crashed"]
