"""The scripts for machines with a GPU, in miniature on the CPU, and the parts of the harness that take a device."""

import json
import math
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import Tiny

import harness
from harness import registry
from harness.api import Reading, declares
from harness.cells import Cell, Trial
from harness.tasks.cifar10 import CIFAR10ResNet18
from harness.training.isolation import isolated_rng
from harness.training.loop import fit
from harness.training.meter import Meter
from harness.trials.lab import Lab, TrialResult

ROOT = Path(__file__).resolve().parent.parent.parent
REPRODUCE = ROOT / "ci" / "reproduce"
GPU_CHECK = ROOT / "ci" / "gpu_check.py"
TINY = Tiny()


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def script(monkeypatch, tmp_path, capfd):
    """Runs a script as ``python SCRIPT ARGS`` does, in this process, where torch is imported already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "ci")
    threads = torch.get_num_threads()

    def run(path, *args):
        monkeypatch.setattr(sys, "argv", [str(path), *args])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(path), run_name="__main__")
        return Done(exit_.value.code, *capfd.readouterr())

    yield run
    torch.set_num_threads(threads)


WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


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
            ["table1", "--scale=full"], "full scale is for a GPU, and none can be used here", marks=WITHOUT_GPU
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
    row = results.table1(done_with(results, {1e-6: (0.8, 0.82), 1e-5: (0.83, 0.81), 5e-5: (0.9, math.nan)}))[0]
    assert row["lr"] == 5e-5
    assert row["at_the_end_of_the_search"]
    assert (row["accuracy"]["n"], row["accuracy"]["diverged"]) == (1, 1)
    row = results.table1(done_with(results, {1e-6: (0.8, 0.82), 1e-5: (0.83, 0.81), 5e-5: (math.nan, math.nan)}))[0]
    assert row["lr"] == 1e-5
    assert row["accuracy"]["mean"] == pytest.approx(0.82)
    assert not row["at_the_end_of_the_search"]


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


# ---- the check of a machine


def test_the_check_runs_on_the_cpu_and_says_that_it_did(script, tmp_path):
    # The part that runs these tests is left out: they run here anyway.
    parts = [f"--part={name}" for name in ("matmul", "throughput", "language", "brew", "audit")]
    done = script(GPU_CHECK, "--device=cpu", "--quick", "--json=check.json", *parts)
    assert done.code == 0, done.out + done.err
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["ok"]
    assert found["device"]["kind"] == "cpu"
    assert "measured on the CPU" in found["note"]
    assert found["quick"]
    by_name = {part["name"]: part["result"] for part in found["parts"]}
    assert list(by_name) == ["matmul", "throughput", "language", "brew", "audit"]
    assert by_name["language"]["tokens_per_second"] > 0
    assert by_name["language"]["of_matmul_rate"] > 0
    assert by_name["matmul"]["bf16_tflops"] > 0
    assert by_name["throughput"]["of_matmul_rate"] > 0
    assert by_name["throughput"]["images_per_second"] > 0
    assert 0 < by_name["brew"]["largest_change"] <= 0.0628
    assert set(by_name["audit"]["verdicts"]) == {"gaussian_score", "cost"}
    assert by_name["audit"]["fraction_of_retraining"]["examples"] == pytest.approx(0.5)


def test_a_part_that_fails_is_recorded_and_the_others_go_on(script, tmp_path):
    (tmp_path / "empty").mkdir()
    parts = ("--part=matmul", "--part=throughput", "--part=brew")
    done = script(GPU_CHECK, "--device=cpu", "--quick", "--json=check.json", "--data=empty", *parts)
    assert done.code == 1
    assert "Traceback" not in done.err
    found = json.loads((tmp_path / "check.json").read_text())
    assert not found["ok"]
    by_name = {part["name"]: part for part in found["parts"]}
    assert by_name["matmul"]["ok"]
    for name in ("throughput", "brew"):
        said = by_name[name]["error"]
        assert "CIFAR-10 cannot be read from" in said or "not installed" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        pytest.param([], "no GPU can be used here; --device=cpu runs the same code on the CPU", marks=WITHOUT_GPU),
        (["--device=cpu", "--part=all"], "invalid choice: 'all'"),
        (["--device=cpu", "--json=/nowhere/x.json"], "there is no directory for /nowhere/x.json"),
    ],
    ids=["no GPU", "part", "json"],
)
def test_bad_options_of_the_check_are_one_clear_sentence(script, args, said):
    done = script(GPU_CHECK, *args)
    assert done.code == 2
    assert said in done.err.splitlines()[-1]


# ---- what takes a device; ci/gpu_check.py runs these by their names


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def device(request):
    return torch.device("cuda:0" if request.param == "cuda" else "cpu")


def trial(method="identity", poison="backdoor:size=1", seed=0):
    cell = Cell(*(registry.resolve(*each) for each in (
        ("unlearner", method), ("task", "tiny:Tiny"), ("poison", poison),
    )))  # fmt: skip
    return Trial(cell, seed)


def test_batches_are_on_device_and_in_the_same_order(device):
    split = TINY.load(None)
    there = split.to(device)
    assert there.fingerprint == split.fingerprint
    pairs = zip(
        split.train.batches(32, 2, torch.Generator().manual_seed(3)),
        there.train.batches(32, 2, torch.Generator().manual_seed(3)),
        strict=True,
    )
    for here, moved in pairs:
        assert {t.device for t in (*moved.inputs.values(), moved.labels, moved.index)} == {device}
        assert torch.equal(here.index, moved.index.cpu())
        assert torch.equal(here.inputs["image"], moved.inputs["image"].cpu())


def test_the_meter_counts_on_device_what_it_counts_elsewhere(device):
    counts = []
    for where in (torch.device("cpu"), device):
        model = TINY.new_model().to(where)
        batch = TINY.load(None).train.to(where).batch(torch.arange(30))
        with Meter(model) as meter:
            fit(TINY, model, [batch, batch])
        assert meter.seconds > 0
        counts.append((round(meter.examples, 6), meter.steps, meter.flops))
    assert counts[0] == counts[1]
    assert counts[0][:2] == (60, 2)


def test_random_numbers_on_device_go_on_as_if_nothing_had_been_drawn(device):
    torch.rand(1, device=device)
    torch.manual_seed(5)
    expected = torch.rand(4, device=device)
    torch.manual_seed(5)
    with isolated_rng(1):
        first = torch.rand(4, device=device)
    with isolated_rng(1):
        assert torch.equal(first, torch.rand(4, device=device))
    assert torch.equal(expected, torch.rand(4, device=device))


def test_models_trained_on_device_are_as_good_as_elsewhere(device, tmp_path):
    lab = Lab.open(tmp_path, device=device.type, budget=0.5)
    assert lab.device == device
    accuracies = [
        Lab.open(tmp_path / where, device=where, budget=0.5).run(trial()).readings["accuracy"]["P"].value
        for where in ("cpu", device.type)
    ]
    assert accuracies[0] > 0.9
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.03)


#: What poisons need on the tiny task: three classes of 4 x 4 images.
SMALL_FIELDS = {
    "backdoor": ":size=1", "confusion": ":first=0,second=1", "indiscriminate": ":steps=2", "targeted": ":steps=2",
    "sleeper-agent": ":steps=2", "camouflaged": ":steps=2",
}  # fmt: skip


def test_every_poison_is_planted_and_measured_on_device(device, tmp_path):
    lab = Lab.open(tmp_path, device=device.type, budget=0.5)
    for name in registry.available("poison"):
        each = trial(poison=name + SMALL_FIELDS.get(name, ""))
        if each.cell.poison.value.modality == TINY.modality:
            readings = lab.run(each).readings["poison"]
            assert all(math.isfinite(readings[arm].value) for arm in "PR"), name
            assert readings["U"].value == readings["P"].value, name


def test_every_method_unlearns_on_device(device, tmp_path):
    lab = Lab.open(tmp_path, device=device.type, budget=0.5)
    for name in registry.available("unlearner"):
        each = trial(name)
        if declares(each.cell.unlearner.value, "modality") in (None, TINY.modality):
            result = lab.run(each)
            assert name == "identity" or result.cost["unlearn_examples"] > 0 or name == "wrecked", name
            assert not math.isnan(result.readings["accuracy"]["U"].value), name


def test_cifar_images_are_augmented_and_classified_on_device(device):
    task = CIFAR10ResNet18(width=2)
    model = task.new_model().to(device)
    images = torch.rand(4, 3, 32, 32, device=device)
    batch = harness.training.data.Data({"image": images}, torch.arange(4, device=device)).batch(torch.arange(4))
    scores = task.logits(model, task.augment(batch))
    assert (scores.shape, scores.dtype, scores.device) == ((4, 10), torch.float32, device)
    task.criterion(scores, batch).backward()
    assert all(p.grad is not None and p.grad.device == device for p in model.parameters())


def test_an_audit_comes_to_its_verdicts_on_device(device, tmp_path):
    verdicts = harness.audit(
        "gd", task="tiny:Tiny", poison="backdoor:size=1", seeds=3, budget=0.5, store=tmp_path, device=device.type
    )
    assert [v.measure.test for v in verdicts] == ["retention", "non-inferiority", "budget"]
    assert verdicts[-1].outcome == "PASS"
