"""The check of a machine with a GPU, in miniature on the CPU, and the parts of the harness that take a device."""

import json
import math
import time
import warnings
from dataclasses import replace

import pytest
import torch
from scripts import GPU_CHECK, TINY, WITHOUT_GPU, script

import harness
from harness import registry
from harness.adapters import NeurIPS2023
from harness.api import serves
from harness.cells import Cell, Trial
from harness.store.files import files_at
from harness.store.inventory import Inventory
from harness.tasks.cifar10 import CIFAR10ResNet18
from harness.tasks.imdb import IMDbSmallGPT2
from harness.training.data import Data
from harness.training.engine import StepsNotRecorded
from harness.training.isolation import isolated_rng
from harness.training.loop import fit, train
from harness.training.meter import Meter
from harness.trials.lab import Lab

#: For pytest to find them here.
FIXTURES = (script,)


PARTS = ("together", "digits", "throughput", "language", "brew", "audit")


# ---- the check of a machine


def test_the_check_runs_on_the_cpu_and_says_that_it_did(script, tmp_path):
    # The part that runs these tests is left out: they run here anyway.
    parts = [f"--part={name}" for name in ("matmul", *PARTS)]
    done = script(GPU_CHECK, "--device=cpu", "--quick", "--json=check.json", "--minutes=0.01", *parts)
    assert done.code == 0, done.out + done.err
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["ok"]
    assert found["device"]["kind"] == "cpu"
    assert "measured on the CPU" in found["note"]
    assert found["quick"]
    by_name, document = {part["name"]: part["result"] for part in found["parts"]}, found
    assert list(by_name) == ["matmul", *PARTS]
    for found in by_name["together"].values():
        assert found["in_a_group"] == found["unrecorded"] == found["repeated"] == 0 < found["another_seed"]
    assert by_name["digits"]["fastest_group"] == 1
    assert set(by_name["digits"]["seconds_of_a_training"]) == {"unrecorded", "recorded_1", "recorded_2", "recorded_8"}
    assert by_name["language"]["tokens_per_second"] > 0
    assert by_name["language"]["of_matmul_rate"] > 0
    assert by_name["language"]["with_noise"]["tokens_per_second"] > 0
    assert by_name["language"]["causal"]["tokens_per_second"] > 0
    assert not any(part["not_recorded"] for part in document["parts"])
    assert by_name["matmul"]["bf16_tflops"] > 0
    for way in ("unrecorded", "recorded_1", "recorded_2"):
        assert by_name["throughput"][way]["of_matmul_rate"] > 0
        assert by_name["throughput"][way]["images_per_second"] > 0
    assert 0 < by_name["brew"]["largest_change"] <= 0.0628
    ((cell, claims),) = by_name["audit"]["verdicts"].items()
    assert cell.startswith("gd gaussian")
    assert set(claims) == {"poison", "accuracy", "cost"}
    assert by_name["audit"]["fraction_of_retraining"]["examples"] == pytest.approx(0.1, abs=0.01)


def test_an_audit_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(GPU_CHECK.parent)
    from gpu.auditing import audit
    from gpu.bench import QUICK, Bench
    from gpu.generated import generate

    generate(tmp_path, QUICK)
    size = replace(QUICK, shortest=12)
    began = time.monotonic()
    bench = Bench(torch.device("cpu"), size, tmp_path, tmp_path, 0.01, tmp_path / "store", began, images_per_second=1.0)
    with pytest.raises(RuntimeError, match=r"stopped after 12 s with 8 epochs; \d+ models are stored"):
        audit(bench)
    assert json.loads((tmp_path / "store" / "epochs.json").read_text()) == 8
    kept = Inventory.of(files_at(tmp_path / "store" / "models")).records
    bench = replace(bench, size=QUICK, images_per_second=1e9)  # as many epochs as there are models of
    assert audit(bench)["epochs"] == 8
    after = {record.key for record in Inventory.of(files_at(tmp_path / "store" / "models")).records}
    assert {record.key for record in kept} < after


def test_steps_that_are_not_recorded_are_named(monkeypatch):
    monkeypatch.syspath_prepend(GPU_CHECK.parent)
    import gpu_check

    def slow(bench):
        warnings.warn("without CUDA graphs: it waits", StepsNotRecorded, stacklevel=1)
        return {"seconds": 1.0}

    monkeypatch.setattr(gpu_check, "PARTS", (slow,))
    (found,) = gpu_check.check(None, ["slow"])
    assert found["ok"]
    assert found["not_recorded"] == ["without CUDA graphs: it waits"]


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
    "backdoor": ":size=1", "confusion": ":first=0,second=1", "indiscriminate": ":steps=6", "targeted": ":steps=6",
    "sleeper-agent": ":steps=6", "camouflaged": ":steps=6",
}  # fmt: skip


#: On a GPU every step of what is here is recorded.
RECORDED = pytest.mark.filterwarnings("error::harness.training.engine.StepsNotRecorded")


@RECORDED
def test_every_poison_is_planted_and_measured_on_device(device, tmp_path):
    lab = Lab.open(tmp_path, device=device.type, budget=0.5)
    for name in registry.available("poison"):
        each = trial(poison=name + SMALL_FIELDS.get(name, ""))
        if serves(each.cell.poison.value, TINY.modality):
            readings = lab.run(each).readings["poison"]
            assert all(math.isfinite(readings[arm].value) for arm in "PR"), name
            assert readings["U"].value == readings["P"].value, name


@RECORDED
def test_every_method_unlearns_on_device(device, tmp_path):
    lab = Lab.open(tmp_path, device=device.type, budget=0.5)
    for name in registry.available("unlearner"):
        each = trial(name)
        if serves(each.cell.unlearner.value, TINY.modality):
            result = lab.run(each)
            assert name == "identity" or result.cost["unlearn_examples"] > 0 or name == "wrecked", name
            assert not math.isnan(result.readings["accuracy"]["U"].value), name


@RECORDED
@pytest.mark.parametrize("head", ["classifier", "causal"])
def test_texts_with_noise_are_learned_on_device(device, head):
    task = IMDbSmallGPT2(width=8, vocabulary=320, length=16, epochs=8, batch_size=10, lr=0.01, head=head)
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 2
    inputs = {
        "tokens": torch.randint(4, 100, (60, 16), generator=generator) + 100 * labels[:, None],
        "length": torch.randint(8, 17, (60,), generator=generator),
        "noise_seed": torch.arange(60),
        "noise_sd": 0.1 * (torch.arange(60) < 20),
    }
    data, losses = Data(inputs, labels), []
    for where in (torch.device("cpu"), device):
        there = data.to(where)
        model = train(task, there, torch.ones(60, dtype=torch.bool), 0)[0].eval()
        batch = there.batch(torch.arange(60))
        with torch.no_grad():
            both = [task.logits(each, batch) for each in (model, task.new_model().to(where))]
            losses.append([float(task.criterion(scores, batch)) for scores in both])
    (here, before), (found, _) = losses
    assert found == pytest.approx(here, abs=0.1 * before)
    assert found < 0.9 * before


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
def test_a_method_written_elsewhere_moves_its_data_to_the_gpu_on_device(device, tmp_path):
    seen = set()

    def unlearning(net, retain_loader, forget_loader, val_loader):
        net.cuda()
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        own = torch.utils.data.DataLoader(retain_loader.dataset, 50, shuffle=True, pin_memory=True)
        for images, labels in own:
            seen.add(images.cuda().device)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images.cuda()), labels.cuda()).backward()
            optimizer.step()

    method = registry.register("unlearner", NeurIPS2023(unlearning, reads_forget=False))
    cell = trial().cell
    lab = Lab.open(tmp_path, device=device.type, budget=0.5)
    result = lab.run(Trial(Cell(method, cell.task, cell.poison), 0))
    assert seen == {device}
    assert result.cost["unlearn_examples"] > 0


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
