"""Whole runs on a task that trains in milliseconds: options, workers, errors, what is stored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest

from conftest import TINY

GD = "--unlearner=gd:lr=0.01"
#: Doing the thing well on the tiny task: retraining within the budget reaches what retraining reaches.
GOOD = """
from harness.training.loop import fit

def forget(model, request, lr: float = 0.1):
    fresh = request.new_model()
    fit(request, fresh, request.batches("retain", epochs=6))
    return fresh
"""


def test_controls_are_green_without_an_unlearner(folder):
    run = folder.pytest(*TINY)
    assert run.code == 0, run.text
    assert run.counts()["passed"] == 4
    found = {key: audit["verdict"] for key, audit in run.audits.items()}
    poison = "backdoor:size=1"
    assert found == {
        ("retrain", poison, "poison"): "PASS",
        ("retrain", poison, "accuracy"): "PASS",
        ("identity", poison, "poison"): "FAIL",
        ("wrecked", poison, "accuracy"): "FAIL",
    }
    assert "controls: retrain PASS" in run.text


def test_verdicts_do_not_depend_on_workers_or_repetition(folder, tmp_path):
    runs = [
        folder.pytest(*TINY, GD, "--unlearner=identity", "-n", workers, f"--audit-store={tmp_path / ('on' + workers)}")
        for workers in ("0", "2", "4")
    ]
    again = folder.pytest(*TINY, GD, "--unlearner=identity", "-n", "2", f"--audit-store={tmp_path / 'on2'}")
    assert [run.code for run in [*runs, again]] == [1, 1, 1, 1]
    for run in [*runs[1:], again]:
        assert run.judged == runs[0].judged
    assert again.built == []
    assert "trained" not in again.counts()


def test_a_second_method_pays_only_for_itself(folder):
    folder.pytest(*TINY, "--unlearner=identity", "--audit-seeds=5")
    second = folder.pytest(*TINY, GD, "--audit-seeds=5")
    assert set(second.built) == {"U"}
    assert len(second.built) == 5


def test_nothing_beyond_a_conclusion_is_trained_in_one_process(folder):
    run = folder.pytest(*TINY, "--unlearner=identity", "-n0")
    seeds = {trial["seed"] for trial in run.json["trials"]}
    used = max(len(audit["seeds"]) for audit in run.json["audits"])
    assert seeds == set(range(used))
    assert run.counts()["not needed"] == 4 * (16 - used)


def test_json_has_the_promised_keys_and_only_finite_numbers(trained):
    run = trained.pytest(*TINY, GD)
    document = run.json
    assert document["schema"] == 1
    assert set(document["run"]) >= {"argv", "versions", "device", "started", "seconds", "settings"}
    (method,) = document["unlearners"]
    assert method["name"] == "gd:lr=0.01"
    assert method["fields"] == {"lr": 0.01, "batch_size": 32, "optimizer": "recipe", "epochs": None}
    assert method["distribution"] == "pytest-unlearning"
    assert len(method["source_sha256"]) == 64
    for audit in document["audits"]:
        assert set(audit) >= {
            "id", "unlearner", "task", "poison", "measure", "verdict", "reason", "estimate", "interval", "margin",
            "p_pass", "p_fail", "p_bite", "seeds", "values", "seconds",
        }  # fmt: skip
        assert set(audit["values"]) == {"poisoned", "retrained", "unlearned"}
    for trial in document["trials"]:
        assert set(trial["cost"]) >= {"train_examples", "unlearn_examples", "unlearn_fraction", "seconds", "built"}
    json.dumps(document, allow_nan=False)


def test_selection_listing_and_last_failed(folder):
    listing = folder.pytest(*TINY, GD, "--co", "-q")
    assert listing.code == 0
    assert "trials::" not in listing.text
    assert "3/9 tests collected (6 deselected)" in listing.text
    chosen = folder.pytest(*TINY, GD, "--unlearner=identity", "-k", "identity and forgotten")
    assert len(chosen.json["audits"]) == 1
    assert {trial["unlearner"] for trial in chosen.json["trials"]} == {
        "identity", "retrain", "short", "wrecked",
    }  # fmt: skip
    folder.pytest(*TINY, "--unlearner=identity")
    failed = folder.pytest(*TINY, "--unlearner=identity", "--lf")
    assert [audit["claim"] for audit in failed.json["audits"]] == ["poison"]
    assert failed.counts()["cached"] > 0, "trials are put in after --lf has deselected"


def test_junit_carries_the_numbers(trained):
    target = trained.path / "junit.xml"
    trained.pytest(*TINY, "--unlearner=identity", "-n2", f"--junitxml={target}")
    cases = {case.get("name"): case for case in ET.parse(target).iter("testcase")}
    case = cases["test_poison_is_forgotten[identity-tiny:Tiny-backdoor:size=1]"]
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["verdict"] == "FAIL"
    assert float(properties["estimate"]) == 1.0
    assert "of the poison's effect is left" in case.find("failure").text


def test_a_failure_says_what_was_found_and_how_to_see_it_again(trained):
    run = trained.pytest(*TINY, "--unlearner=identity")
    assert "100 % of the poison's effect is left" in run.text
    assert "FAIL needs p" in run.text
    command = next(line for line in run.text.splitlines() if "reproduce:" in line).partition("pytest ")[2]
    assert "--unlearner=identity" in command
    assert "--task=tiny:Tiny" in command
    assert "Traceback" not in run.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('no such layer')", "RuntimeError: no such layer"),
        ("return None", "returned NoneType; it must return the cleaned model"),
        ("import torch; return torch.nn.Linear(16, 3)", "returned another architecture (Linear in place of Sequential"),
    ],
    ids=["raises", "none", "architecture"],
)
def test_a_broken_unlearner_errs_and_the_rest_goes_on(trained, body, said):
    trained.write("methods/mine.py", f"def forget(model, request):\n    {body}\n")
    for workers in ("0", "2"):
        run = trained.pytest(*TINY, "--unlearner=mine:forget", "--unlearner=identity", "-n", workers)
        assert run.code == 1
        mine = {key[2]: audit for key, audit in run.audits.items() if key[0] == "mine:forget"}
        assert {audit["verdict"] for audit in mine.values()} == {"ERROR"}
        assert said in run.text
        assert said in mine["poison"]["reason"]
        assert run.audits["identity", "backdoor:size=1", "poison"]["verdict"] == "FAIL"
        assert run.counts()["errors"] == 3
    trained.write("methods/mine.py", GOOD)
    mended = trained.pytest(*TINY, "--unlearner=mine:forget", "--audit-budget=0.7")
    assert mended.code == 0, mended.text


def test_a_diverged_model_is_evidence_and_fails(trained):
    trained.write(
        "methods/mine.py",
        "import torch\n\ndef forget(model, request):\n    with torch.no_grad():\n"
        "        next(model.parameters()).fill_(float('nan'))\n    return model\n",
    )
    run = trained.pytest(*TINY, "--unlearner=mine:forget")
    poison = run.audits["mine:forget", "backdoor:size=1", "poison"]
    assert (poison["verdict"], poison["reason"]) == ("FAIL", "diverged")
    assert poison["values"]["unlearned"] == [None] * 3
    assert "its weights, or what the probe reads of it, are not finite for 3 of 3 seeds" in run.text


def test_an_edited_helper_leaves_no_stale_model(trained):
    trained.write("methods/helper.py", "EPOCHS = 1\n")
    trained.write(
        "methods/mine.py",
        "import helper\n\ndef forget(model, request):\n"
        "    for batch in request.batches('retain', epochs=helper.EPOCHS):\n        request.loss(model, batch)\n"
        "    return model\n",
    )
    first = trained.pytest(*TINY, "--unlearner=mine:forget")
    trained.write("methods/helper.py", "EPOCHS = 3\n")
    second = trained.pytest(*TINY, "--unlearner=mine:forget")
    cost = [run.audits["mine:forget", "backdoor:size=1", "cost"]["estimate"] for run in (first, second)]
    assert cost[1] == pytest.approx(3 * cost[0])
    assert set(second.built) == {"U"}


def test_two_settings_of_one_method_are_two_methods(trained):
    run = trained.pytest(*TINY, GD, "--unlearner=gd:lr=0.02,epochs=1", "--audit-seeds=3")
    assert {key[0] for key in run.audits} == {"gd:lr=0.01", "gd:lr=0.02,epochs=1"}


def test_two_runs_at_once_build_everything_once(folder):
    results = [folder.path / f"{name}.json" for name in "ab"]
    # Slow enough that the later of the two still finds work to do.
    arguments = ("--pyargs", "test_suites", "--task=tiny:Tiny:epochs=30", TINY[1], GD)
    runs = [folder.start(*arguments, f"--audit-json={result}") for result in results]
    assert [run.wait(timeout=600) for run in runs] == [1, 1]
    documents = [json.loads(result.read_text()) for result in results]
    records = [json.loads(path.read_text())["record"] for path in folder.store.glob("records/*/*.json")]
    built = sum(len(trial["cost"]["built"]) for document in documents for trial in document["trials"])
    assert built <= sum(record["kind"] == "model" for record in records)
    verdicts = [[(a["id"], a["verdict"], a["estimate"]) for a in document["audits"]] for document in documents]
    assert verdicts[0] == verdicts[1]
    # Each record says which run made it; what both runs count as theirs would add up to more than there is.
    models = {record["key"]: record["made"]["run"] for record in records if record["kind"] == "model"}
    assert len(set(models.values())) == 2, "both runs took part"


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


def test_a_killed_worker_loses_nothing_that_was_finished(folder):
    slow = ("--task=tiny:Tiny:epochs=40", TINY[1], GD, "--audit-seeds=5")
    run = folder.start("--pyargs", "test_suites", *slow, "-n2")
    while len(list(folder.store.glob("records/*/*.json"))) < 12:
        assert run.poll() is None
        time.sleep(0.02)
    (forking,) = children(run.pid)
    os.kill(children(forking)[0], signal.SIGKILL)
    run.wait(timeout=600)
    assert "1 crashed" in (folder.path / "printed.txt").read_text()  # a trial, which is made again by who needs it
    before = {path.name: path.stat().st_mtime_ns for path in folder.store.glob("records/*/*.json")}
    rerun = folder.pytest(*slow, "-n2")
    fresh = folder.pytest(*slow, f"--audit-store={folder.path / 'undisturbed'}")
    # CPU time is measured, and here it is near the limit; what counts is that no model was made twice.
    judged, undisturbed = ([audit for audit in run.judged if audit["claim"] != "cost"] for run in (rerun, fresh))
    assert judged == undisturbed
    assert len(judged) == 2
    for name, time_written in before.items():
        assert (folder.store / "records" / name[:2] / name).stat().st_mtime_ns == time_written
    assert not list(folder.store.rglob("*.tmp"))


def test_a_flipped_byte_is_noticed_and_made_again(folder):
    first = folder.pytest(*TINY, GD)
    for pattern in ("blobs/*/*.safetensors", "records/*/*.json"):
        victim = sorted(folder.store.glob(pattern))[0]
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 0x10
        victim.write_bytes(bytes(content))
    again = folder.pytest(*TINY, GD, "--unlearner=identity")
    assert "damaged artefact" in again.text
    mine = [audit for audit in again.judged if audit["unlearner"] == "gd:lr=0.01"]
    assert mine == first.judged


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--unlearner=l1sparse"], "unknown unlearner 'l1sparse'; did you mean l1_sparse?"),
        (["--unlearner=scrub:alhpa=1"], "has no field 'alhpa'; did you mean alpha?"),
        (["--unlearner=scrub:alpha=much"], "the field 'alpha' of the unlearner 'scrub' takes a number, not 'much'"),
        (["--unlearner=scrub:lr=-1"], "lr must be positive, not -1.0"),
        (["--unlearner=nowhere:forget"], "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        (["--task=digits"], "unknown task 'digits'; did you mean digits-"),
        (["--poison=gausian"], "unknown poison 'gausian'; did you mean gaussian"),
        (["--audit-seeds=2"], "takes 3, 5, 8, 12 or 16 seeds (a FAIL needs 3, a PASS 5), not '2'"),
        (["--audit-futility=1"], "takes a number in [0, 1), not '1'"),
        (["--audit-alpha=2"], "takes a number in (0, 0.5), not '2'"),
        (["--audit-store=/dev/null/store"], "the store /dev/null/store cannot be written"),
        (["--audit-device=cuda"], "no GPU can be used here"),
        (["--audit-data=/nowhere"], "--audit-data: /nowhere is not a directory"),
        (["--audit-json=/nowhere/r.json"], "the directory of /nowhere/r.json is missing"),
        (["--audit-html=/nowhere/r.html"], "the directory of /nowhere/r.html is missing"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line_and_a_usage_error(folder, args, said):
    environment = {**folder.environment(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        folder.command("--pyargs", "test_suites", *args), cwd=folder.path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if said in line]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr


def test_inconclusive_is_red_unless_it_is_to_warn(trained):
    cut_short = (*TINY, "--unlearner=mine:forget", "--audit-budget=0.7", "--audit-seeds=3")
    trained.write("methods/mine.py", GOOD)
    red = trained.pytest(*cut_short)
    assert red.code == 1
    assert red.counts()["inconclusive"] == 2
    assert "3 seeds do not decide it" in red.text
    warned = trained.pytest(*cut_short, "--audit-inconclusive=warn")
    assert warned.code == 0
    assert warned.counts()["inconclusive"] == 2


def test_a_dry_run_says_what_it_would_cost_and_trains_nothing(folder):
    run = folder.pytest(*TINY, GD, "--audit-dry-run", "-n2")
    assert run.code == 0, run.text
    assert "if every verdict is clear (5 seeds): 15 trainings and 20 unlearnings" in run.text
    assert "if the whole plan is needed (16 seeds): 48 trainings and 64 unlearnings" in run.text
    kinds = {json.loads(path.read_text())["record"]["kind"] for path in folder.store.glob("records/*/*.json")}
    assert kinds <= {"data", "planted", "told"}


def test_a_dry_run_counts_only_what_is_missing(folder):
    folder.pytest(*TINY, "--unlearner=identity", "--audit-seeds=5")
    run = folder.pytest(*TINY, GD, "--audit-dry-run", "--audit-seeds=5")
    assert "if every verdict is clear (5 seeds): 0 trainings and 5 unlearnings" in run.text


def test_the_header_says_what_is_audited(folder):
    run = folder.pytest(*TINY, GD, "--audit-seeds=3", "-n2")
    for line in (
        "unlearner: gd(lr=0.01, batch_size=32, optimizer=recipe, epochs=None)  pytest-unlearning",
        f"task: tiny:Tiny, file {folder.path / 'tiny.py'}   poisons: backdoor:size=1   seeds: 3 (fixed list)   "
        "plan: quick   budget: 10 % of retraining",
        "devices: 2 workers on cpu, 1 thread each   store:",
    ):
        assert line in run.text


def test_a_project_without_audits_sees_nothing_of_us(folder):
    folder.write(
        "test_own.py",
        "import pytest\n\ndef test_one():\n    assert True\n\n"
        "@pytest.mark.audit\ndef test_with_a_mark_of_that_name():\n    assert True\n",
    )
    run = folder.pytest(suites="test_own.py")
    assert run.counts() == {"passed": 2}
    plain = subprocess.run(
        [sys.executable, "-m", "pytest", "test_own.py"], cwd=folder.path, env=folder.environment(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "unlearner" not in plain.stdout


def test_a_test_of_ones_own_may_require_a_verdict(trained):
    trained.write(
        "test_mine.py",
        "import harness\n\n\ndef test_mine():\n"
        "    verdicts = harness.audit('identity', task='tiny:Tiny', poison='backdoor:size=1', seeds=3)\n"
        "    verdicts[0].require()\n",
    )
    run = trained.pytest(suites="test_mine.py")
    assert run.code == 1, run.text
    assert "INTERNALERROR" not in run.text
    assert "reproduce: pytest test_mine.py::test_mine" in run.text


def test_what_a_person_can_mend_is_a_sentence_without_a_traceback(trained):
    run = trained.pytest(*TINY, "--unlearner=cfk:k=5", "--audit-seeds=3")
    assert run.code == 1
    assert "k=5, but the model has 2 blocks; set k to at most that" in run.text
    assert "trial.py" not in run.text


SEES = """
def pytest_runtest_setup(item):
    with open({seen!r}, "a") as seen:
        print({who!r}, item.nodeid.partition("::")[0], file=seen)
"""
LOUD = """
import logging

def loud(model, request):
    print("noise of a trial")
    logging.getLogger("loud").error("noise of a trial")
    return model.requires_grad_(True)
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_hooks_of_the_root_see_trials_and_those_of_a_folder_see_what_is_in_it(folder, workers):
    seen = folder.path / "seen.txt"
    folder.write("conftest.py", SEES.format(seen=str(seen), who="root"))
    folder.write("sub/conftest.py", SEES.format(seen=str(seen), who="sub"))
    folder.write("sub/test_sub.py", "def test_sub():\n    pass\n")
    run = folder.pytest(*TINY, workers, f"--rootdir={folder.path}", "sub")
    assert run.code == 0, run.text
    saw = set(seen.read_text().splitlines())
    assert saw == {"root trials", "root sub/test_sub.py", "sub sub/test_sub.py"}


def test_what_a_method_prints_and_logs_in_a_trial_is_not_in_the_way(folder):
    folder.write("loud.py", LOUD)
    quiet = folder.pytest(*TINY, "--unlearner=loud:loud", "--audit-seeds=3", "-n0")
    assert quiet.counts()["trained"]
    assert "noise" not in quiet.text
    shown = folder.pytest(*TINY, "--unlearner=loud:loud", "--audit-seeds=3", "-n0", "-s", "--log-cli-level=ERROR",
                          f"--audit-store={folder.path / 'other'}")  # fmt: skip
    assert shown.text.count("noise of a trial") == 8, "printed and logged, for three seeds, and the first once again"
