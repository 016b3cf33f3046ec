"""The paper, run again in miniature: what the scripts say and the tables show."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import labs
import pytest
import torch
from labs import Plain
from scripts import REPRODUCE, ROOT, WITHOUT_GPU, script

from harness import registry
from harness.api import DeviceLost, Reading
from harness.cells import Cell, Trial
from harness.trials.lab import TrialResult
from poisons.indiscriminate import Indiscriminate
from poisons.targeted import Targeted

#: For pytest to find them here.
FIXTURES = (script,)


# ---- reproducing the paper's table and figure

SMALLEST = (
    "--scale=digits", "--task=digits-cnn:epochs=2", "--poison=confusion", "--seeds=2", "--epochs=1,2", "--lrs=.01,.1",
    "--method=gd", "--store=store", "--out=out", "--device=cpu",
)  # fmt: skip


def test_a_table_and_a_figure_are_made_and_a_second_time_nothing_is_trained(script, tmp_path):
    first = script(REPRODUCE, "table1", *SMALLEST)
    assert first.code == 0, first.err
    # P and R, and at each number of epochs Retrain and GD at two rates; of two seeds.
    assert "16 models are missing" in first.out
    assert "16 models trained" in first.out
    table = json.loads((tmp_path / "out" / "table1.json").read_text())
    assert [(row["method"], row["epochs"]) for row in table["rows"]] == [
        ("Retrain", 1), ("GD", 1), ("Retrain", 2), ("GD", 2),
    ]  # fmt: skip
    for row in table["rows"]:
        assert len(row["accuracy"]["values"]) == row["accuracy"]["n"] == 2
        assert 0.5 < row["accuracy"]["mean"] <= 1
        assert row["cost"] == pytest.approx(row["epochs"] / 2)
        assert row["paper"] is None
    assert table["rows"][1]["accuracy"]["mean"] == max(each["mean"] for each in table["rows"][1]["by_lr"].values())
    assert table["device"]["kind"] == "cpu"
    assert table["versions"]["torch"] == torch.__version__.partition("+")[0]
    text = (tmp_path / "out" / "table1.md").read_text()
    assert "2 of 2 runs" in text
    assert "| epochs | Retrain | GD |" in text
    assert "not the paper's scale" in text

    second = script(REPRODUCE, "table1", *SMALLEST)
    assert "are missing" not in second.out
    assert "0 models trained" in second.out
    assert json.loads((tmp_path / "out" / "table1.json").read_text())["rows"] == table["rows"]

    figure = script(REPRODUCE, "figure2a", *SMALLEST)  # the same models, looked at otherwise
    assert "0 models trained" in figure.out
    rows = json.loads((tmp_path / "out" / "figure2a.json").read_text())["rows"]
    assert [(row["method"], row["lr"]) for row in rows] == [("Retrain", None), ("GD", 0.01), ("GD", 0.1)]
    assert sum(row["chosen"] for row in rows if row["method"] == "GD") == 1
    assert "| poisoned | | |" in figure.out
    try:
        import altair  # noqa: F401
    except ImportError:
        assert "no plot: altair is not installed" in figure.out
    else:
        assert "vega" in (tmp_path / "out" / "figure2a.html").read_text()


def test_a_run_that_is_stopped_says_how_to_go_on_and_goes_on(script, tmp_path):
    options = ("table1", "--task=tiny:Tiny:epochs=100", "--poison=backdoor:size=1", "--seeds=8", "--epochs=1,2,3")
    options += ("--method=gd", "--lrs=.01,.1", "--store=store", "--out=out", "--device=cpu")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPRODUCE), *options]
    # What was started in the background may ignore the signal, and so would what it starts.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=heeding
    ) as process:
        assert "72 runs" in process.stdout.readline()
        assert "88 models are missing" in process.stdout.readline()
        while len(list((tmp_path / "store").glob("blobs/*/*.safetensors"))) < 8 + 4:  # what is planted, and some models
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "what was trained is kept" in said
    assert f"to go on: {Path(sys.executable).name} {REPRODUCE} table1" in said
    rest = script(REPRODUCE, *options, "--dry-run")
    assert rest.code == 0, rest.err
    assert 0 < int(rest.out.splitlines()[1].split()[0]) < 88


def test_what_a_method_raises_is_told_and_the_rest_is_done(script, tmp_path):
    done = script(
        REPRODUCE, "table1", "--task=tiny:Tiny", "--poison=backdoor:size=1", "--seeds=1", "--epochs=1", "--lrs=.01",
        "--method=cfk:k=5", "--method=gd", "--store=store", "--out=out",
    )  # fmt: skip
    assert done.code == 1
    assert "UnlearningError: k=5, but the model has 2 blocks" in done.err
    assert "Traceback" not in done.err
    table = json.loads((tmp_path / "out" / "table1.json").read_text())
    assert [row["method"] for row in table["rows"]] == ["Retrain", "GD"]
    assert len(table["errors"]) == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["table2"], "invalid choice: 'table2'"),
        (["table1", "--lrs=0,1"], "'0' is not a positive number"),
        (["figure2b", "--scale=digits"], "figure2b has no scale digits; it has full and small"),
        (["table1", "--epochs=two"], "'two' is not a whole number of at least 1"),
        (["table1", "--data=/nowhere"], "there is no directory /nowhere"),
        pytest.param(
            ["table1", "--scale=full"], "the scale full is for a GPU, and none can be used here", marks=WITHOUT_GPU
        ),
        pytest.param(
            ["table1", "--scale=brief"], "the scale brief is for a GPU, and none can be used here", marks=WITHOUT_GPU
        ),
        (["table1", "--scale=digits", "--task=digits-cnn:epochs=1"], "2 epochs of unlearning are more than the 1"),
        (["table1", "--scale=digits", "--task=digits-cnn", "--poison=gausian"], "unknown poison 'gausian'"),
        pytest.param(
            ["table1", "--scale=digits", "--device=cuda"],
            "no GPU can be used here; run with --device=cpu or auto",
            marks=WITHOUT_GPU,
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_bad_options_of_reproduce_are_one_clear_sentence(script, args, said):
    done = script(REPRODUCE, *args)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


# ---- what is said before it starts


def test_a_dry_run_says_how_long_training_and_crafting_take(script):
    few = [each for each in SMALLEST if not each.startswith("--poison")]
    said = script(REPRODUCE, "table1", *few, "--poison=indiscriminate:steps=20", "--dry-run").out
    assert re.search(
        r"16 models are missing, 2 poisons to be crafted: about \d+ (s|seconds?|minutes?) on one cpu", said
    )
    more = script(REPRODUCE, "table1", *few, "--poison=camouflaged", "--dry-run").out
    assert "; crafting camouflaged comes on top" in more


def test_a_step_of_crafting_is_timed(monkeypatch):
    """It takes longer with more images. How long the whole takes is what so many steps take."""
    monkeypatch.syspath_prepend(REPRODUCE)
    import estimate

    task = registry.resolve("task", "digits-cnn:epochs=1")
    split = task.value.load(None)
    few, many = (Indiscriminate(fraction=share) for share in (0.02, 0.6))
    seconds = [estimate.step_seconds(task.value, poison, split, "cpu") for poison in (few, many)]
    assert 0 < seconds[0] < seconds[1]
    assert estimate.step_seconds(task.value, Targeted(fraction=0.05), split, "cpu") > 0


def test_the_brief_scale_says_what_it_is_worth(monkeypatch):
    monkeypatch.syspath_prepend(REPRODUCE)
    import paper

    assert {part.seeds for part in paper.SCALES["brief"].values()} == {3}
    for part in paper.SCALES["brief"].values():
        task = registry.resolve("task", part.task).value
        assert (task.epochs, task.train_size, task.width) == (10, 50_000, 64)
        assert len(part.poisons) == 1
    assert "n = 3" in paper.WORTH["brief"]


# ---- what the tables say


@pytest.fixture
def results(monkeypatch):
    monkeypatch.syspath_prepend(REPRODUCE)
    import results

    return results


def done_with(results, accuracies, hits=None, method="gd", task="cifar10-resnet18"):
    """Finished runs: for each rate the accuracies of its seeds, and the shares of targets that are hit."""
    base = registry.resolve("unlearner", method)
    poison = registry.resolve("poison", "targeted:fraction=0.025")
    found = {}
    for lr, values in accuracies.items():
        cell = Cell(registry.with_fields(base, {"lr": lr, "epochs": 4}), registry.resolve("task", task), poison)
        for seed, value in enumerate(values):
            hit = (hits or {}).get(lr, 0.5)
            readings = {
                "accuracy": {"P": Reading(0.8), "R": Reading(0.9), "U": Reading(value)},
                "poison": {arm: Reading(3.0, details={"fraction_hit": hit}) for arm in "PRU"},
            }
            cost = {"unlearn_fraction": 0.04}
            found[results.Run(base, 4, lr, Trial(cell, seed))] = TrialResult(readings, cost, True, {})
    return found


def test_the_table_takes_the_rate_with_the_best_mean_accuracy(results):
    row = results.table1(done_with(results, {1e-6: (0.8, 0.82), 1e-5: (0.83, 0.81), 5e-5: (0.9, 0.8)}))[0]
    assert row["lr"] == 5e-5
    assert row["at_the_end_of_the_search"]
    row = results.table1(done_with(results, {1e-6: (0.8, 0.82), 1e-5: (0.83, 0.81), 5e-5: (math.nan, math.nan)}))[0]
    assert row["lr"] == 1e-5
    assert row["accuracy"]["mean"] == pytest.approx(0.82)
    assert not row["at_the_end_of_the_search"]


def test_a_rate_at_which_runs_diverge_is_not_ranked_by_those_that_did_not(results):
    row = results.table1(done_with(results, {1e-5: (0.83, 0.81), 5e-5: (0.9, math.nan)}))[0]
    assert row["lr"] == 1e-5
    row = results.table1(done_with(results, {1e-5: (math.nan, math.nan), 5e-5: (0.9, math.nan)}))[0]
    assert row["lr"] == 5e-5
    assert (row["accuracy"]["n"], row["accuracy"]["diverged"]) == (1, 1)
    hits = {1e-3: 0.9, 1e-2: 0.1}
    for accuracies in ({1e-3: (0.79, 0.79), 1e-2: (0.8, math.nan)}, {1e-3: (0.3, 0.3), 1e-2: (0.4, math.nan)}):
        rows = results.figure2(done_with(results, accuracies, hits=hits))
        assert [row["lr"] for row in rows if row["chosen"]] == [1e-3]


def test_the_figure_takes_the_least_success_that_accuracy_allows(results):
    done = done_with(
        results, {1e-3: (0.79,), 1e-2: (0.71,), 1e-1: (0.3,)}, hits={1e-3: 0.9, 1e-2: 0.4, 1e-1: 0.0}
    )  # fmt: skip
    assert [row["lr"] for row in results.figure2(done) if row["chosen"]] == [1e-2]
    done = done_with(results, {1e-2: (0.1,), 1e-1: (0.3,)}, hits={1e-2: 0.0, 1e-1: 0.1})
    assert [row["lr"] for row in results.figure2(done) if row["chosen"]] == [1e-1]


def test_the_papers_numbers_stand_beside_their_own_settings_only(results):
    reported = results.paper.reported
    assert reported("cifar10-resnet18", "indiscriminate", 0.025, "scrub", 10) == 84.15
    assert reported("cifar10-resnet18", "indiscriminate", 0.015, "short", 2) == 87.04
    assert reported("cifar10-resnet18", "indiscriminate", 0.02, "scrub", 10) is None
    assert reported("cifar10-resnet18", "indiscriminate", 0.025, "ssd", 10) is None
    assert reported("cifar10-resnet18", "indiscriminate", 0.025, "scrub", 1) is None
    assert reported("cifar10-resnet18", "targeted", 0.025, "scrub", 10) is None
    assert reported("digits-cnn", "indiscriminate", 0.025, "scrub", 10) is None
    assert reported("cifar10-resnet18:epochs=20", "indiscriminate", 0.025, "scrub", 10) is None


# ---- the Gaussian poison


def noisy(results, arms, lr=0.1, seeds=3, mean=0.5):
    """Finished runs of GD on noise: by arm, the rate of the Gaussian score."""
    base = registry.resolve("unlearner", "gd")
    poison, task = registry.resolve("poison", "gaussian:fraction=0.025"), registry.resolve("task", "cifar10-resnet18")
    cell = Cell(registry.with_fields(base, {"lr": lr, "epochs": 4}), task, poison)
    found = {}
    for seed in range(seeds):
        of = {
            arm: Reading(
                mean,
                details={"tpr_at_1_percent_fpr": rate},
                traces={"gaussian_second_moment": Reading(-1.0, details={"mean_squared_score": 0.5 + seed / 2})},
            )
            for arm, rate in arms.items()
        }
        readings = {"poison": of, "accuracy": {arm: Reading(lr) for arm in "PRU"}}
        found[results.Run(base, 4, lr, Trial(cell, seed))] = TrialResult(readings, {"unlearn_fraction": 0.04}, True, {})
    return found


def told(runs, rate):
    by_arm = {arm: Reading(0.6, details={"tpr_at_1_percent_fpr": rate}) for arm in "PRU"}
    return {run: {"membership": by_arm, "likelihood": by_arm} for run in runs}


def test_the_score_and_the_attacks_stand_side_by_side_at_the_rate_with_the_best_accuracy(results):
    done = noisy(results, {"P": 0.3, "R": 0.01, "U": 0.2}) | noisy(results, {"P": 0.3, "R": 0.01, "U": 0.9}, lr=0.01)
    (chosen,) = results.gaussian.attacked(done)
    assert {run.lr for run in chosen} == {0.1}
    attacks = told(chosen, 0.05)
    (row,) = results.gaussian.rows(done, attacks)
    assert (row["lr"], row["at_the_end_of_the_search"], row["accuracy"]["n"]) == (0.1, True, 3)
    assert row["score"]["tpr"]["mean"] == pytest.approx(0.2)
    assert (row["score"]["mean"]["mean"], row["score"]["mean_square"]["values"]) == (0.5, [0.5, 1.0, 1.5])
    assert {name: of["tpr"]["mean"] for name, of in row["attacks"].items()} == {
        "membership": pytest.approx(0.05), "likelihood": pytest.approx(0.05),
    }  # fmt: skip
    assert row["attacks"]["membership"]["auc"]["mean"] == pytest.approx(0.6)
    (reference,) = results.gaussian.references(done, attacks)
    assert reference["poisoned"]["score"]["tpr"]["mean"] == pytest.approx(0.3)
    assert reference["retrained"]["score"]["tpr"]["mean"] == pytest.approx(0.01)
    lines = results.gaussian.table([row], reference)
    assert (
        "| GD | 4 | 0.1* | 20.00 ± 0.0 | 5.00 ± 0.0 | 5.00 ± 0.0 | 0.50 ± 0.00 | 1.00 ± 0.50 | 10.00 ± 0.0 | 4 | 3 |"
    ) in lines


def test_a_diverged_run_is_counted_and_without_attacks_a_dash_stands_in_their_place(results):
    done = noisy(results, {"P": 0.3, "R": 0.01, "U": math.nan}, mean=math.nan, seeds=1)
    document = results.document("gaussian", {}, done)
    (row,), (reference,) = document["rows"], document["references"]
    assert (row["attacks"], row["score"]["mean"]["diverged"]) == ({}, 1)
    (line,) = [line for line in results.gaussian.table([row], reference) if line.startswith("| GD")]
    assert "| diverged | – | – | diverged |" in line


def test_noise_and_membership_are_compared_and_a_second_time_nothing_is_trained(script, tmp_path):
    options = (
        "gaussian", "--task=tiny:Tiny", "--poison=gaussian:fraction=0.1", "--epochs=1,2", "--lrs=.01,.1",
        "--method=gd", "--store=store", "--out=out", "--device=cpu",
    )  # fmt: skip
    first = script(REPRODUCE, *options, "--seeds=3")
    assert first.code == 0, first.err
    assert "24 models trained" in first.out  # P, R, and at two numbers of epochs Retrain and GD at two rates; 3 seeds
    found = json.loads((tmp_path / "out" / "gaussian.json").read_text())
    assert [(row["method"], row["epochs"]) for row in found["rows"]] == [
        ("Retrain", 1), ("GD", 1), ("Retrain", 2), ("GD", 2),
    ]  # fmt: skip
    for row in found["rows"]:
        assert set(row["attacks"]) == {"membership", "likelihood"}
        shares = [row["score"]["tpr"], *(of[name] for of in row["attacks"].values() for name in ("tpr", "auc"))]
        assert all(0 <= share <= 1 for of in shares for share in of["values"])
        assert row["score"]["mean_square"]["n"] == 3
    (reference,) = found["references"]
    assert reference["poisoned"]["score"]["mean"]["mean"] > reference["retrained"]["score"]["mean"]["mean"]
    assert "| rate: Gaussian score | rate: loss | rate: likelihood ratio |" in first.out

    second = script(REPRODUCE, *options, "--seeds=2")
    assert "0 models trained" in second.out
    assert "| – | – |" in second.out  # the attacks need a third seed


class Lost(Plain):
    """A poison at which the GPU gives up."""

    def plant(self, task, split, seed, surrogate=None):
        raise DeviceLost("the GPU no longer responds")


def test_a_lost_gpu_ends_a_study_and_is_no_error_of_a_method(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPRODUCE)
    import runs

    of = labs.trial(labs.IDENTITY, registry.register("poison", Lost()))
    work = runs.Work(labs.lab_in(tmp_path / "store", "run"), [runs.Run(labs.IDENTITY, 1, None, of)], print)
    with pytest.raises(DeviceLost):
        work.finish()
    assert work.errors == {}
