"""Is a machine with a GPU fit for audits at full scale? Meant for under ten minutes; JSON with what was found.

    python ci/gpu_check.py [--data DIR] [--json FILE]            on a machine with a GPU
    python ci/gpu_check.py --device cpu --quick                  the same code in miniature, anywhere

Parts, each on its own; one that fails is recorded with its error, the others go on, and the exit code is 1:

    tests       the tests of the harness that take a device (tests/runs/test_ci_scripts.py -k on_device)
    matmul      bf16 matrix products: the rate that the device reaches, in TFLOP/s
    throughput  training of cifar10-resnet18: images/s, and its operations as a fraction of that rate
    language    fine-tuning of a GPT-2 of 355M parameters, of random weights: tokens/s, memory, the same fraction
    brew        one targeted poison: seconds of crafting, and whether it keeps to its radius
    audit       pytest test_suites on CIFAR-10 at reduced scale, gd against a Gaussian poison

Without --data images and reviews are generated, in the layout of the data sets, and easy to tell apart: good for time
and for whether things run, not for accuracy. On a CPU the figures say nothing of a GPU; the JSON says that it was one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reproduce.machine import describe

from harness import registry
from harness.api import UnlearningError
from harness.training.loop import fit, train
from harness.training.meter import Meter
from harness.training.seeds import derive
from harness.trials.devices import device_of, kind_of_device

ROOT = Path(__file__).resolve().parent.parent
YARDSTICKS = ("examples", "flops", "cpu_seconds")


@dataclass(frozen=True)
class Size:
    """How large the parts are.

    Attributes:
        matrix: Rows and columns of the matrices that are multiplied.
        images: Training images, and a fifth as many to test on.
        width: Channels of the network's first stage.
        batch_size: Examples per step.
        timed_epochs: Passes that the throughput is taken over.
        epochs: Passes of a training in `brew`, whose surrogate must have learnt something.
        steps: Steps of the brew.
        audit_epochs: Passes of a training in `audit`.
        reviews: Training reviews, and a fifth as many to test on.
        gpt2: Fields of the language model.
    """

    matrix: int
    images: int
    width: int
    batch_size: int
    timed_epochs: int
    epochs: int
    steps: int
    audit_epochs: int
    reviews: int
    gpt2: str

    def task(self, epochs: int) -> str:
        """Return the spec of the task, trained for so many passes."""
        fields = {"epochs": epochs, "train_size": self.images, "test_size": self.images // 5, "width": self.width}
        fields |= {"batch_size": self.batch_size}
        return "cifar10-resnet18:" + ",".join(f"{name}={value}" for name, value in fields.items())


LARGE = Size(
    matrix=8192, images=10_000, width=64, batch_size=128, timed_epochs=3, epochs=5, steps=50, audit_epochs=6,
    reviews=2_000, gpt2="layers=24,width=1024,heads=16,vocabulary=50257,length=512,batch_size=16",
)  # fmt: skip
QUICK = Size(
    matrix=256, images=100, width=2, batch_size=25, timed_epochs=1, epochs=8, steps=2, audit_epochs=2,
    reviews=50, gpt2="layers=1,width=16,heads=2,vocabulary=300,length=32,batch_size=10",
)  # fmt: skip


@dataclass
class Bench:
    """What the parts work with.

    Attributes:
        device: Where.
        size: How large.
        data: Folder with the data set in ``cifar10``.
        scratch: A folder that is removed afterwards.
        rate: FLOP/s of matrix products in bf16, once `matmul` measured it.
    """

    device: torch.device
    size: Size
    data: Path
    scratch: Path
    rate: float | None = None


def tests(bench: Bench) -> dict[str, Any]:
    """Run the tests that take a device, on this one."""
    where = [str(ROOT / "tests" / "runs" / "test_ci_scripts.py"), "-k", f"on_device and {bench.device.type}"]
    done = _pytest(bench, *where, "-q", "-n0")
    # That none was found is an exit code of its own; that they were skipped, on the very device, is none.
    if done.returncode != 0 or "skipped" in done.stdout:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{_tail(done)}")
    return {"summary": done.stdout.strip().splitlines()[-1]}


def matmul(bench: Bench) -> dict[str, Any]:
    """Multiply large matrices in bf16; the fastest of several rounds."""
    n = bench.size.matrix
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    rounds = 10 if bench.device.type == "cuda" else 3
    seconds = []
    for _ in range(1 + 5):  # the first one warms up
        started = _now(bench)
        for _ in range(rounds):
            torch.mm(a, b)
        seconds.append((_now(bench) - started) / rounds)
    bench.rate = 2 * n**3 / min(seconds[1:])
    return {"size": n, "bf16_tflops": bench.rate / 1e12}


def throughput(bench: Bench) -> dict[str, Any]:
    """Train by the harness's own loop, data on the device, augmentation included."""
    task: Any = registry.resolve("task", bench.size.task(bench.size.epochs)).value
    train = task.load(bench.data).to(bench.device).train
    model = task.new_model().to(bench.device)
    batch = train.batch(torch.arange(task.batch_size))
    with Meter(model) as meter:
        fit(task, model, [batch])

    def batches(epochs: int) -> Any:
        return train.batches(task.batch_size, epochs, torch.Generator().manual_seed(0), augment=task.augment)

    fit(task, model, batches(1))
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = _now(bench)
    images = fit(task, model, batches(bench.size.timed_epochs))
    per_second = images / (_now(bench) - started)
    flops = meter.flops / task.batch_size
    full = registry.resolve("task", "cifar10-resnet18").value
    return {
        "images_per_second": per_second,
        "gflop_per_image": flops / 1e9,
        "tflops": per_second * flops / 1e12,
        "of_matmul_rate": per_second * flops / bench.rate if bench.rate else None,
        "width": task.width,
        "batch_size": task.batch_size,
        "minutes_of_a_full_training": full.epochs * full.train_size / per_second / 60 if task.width == 64 else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None,
    }


def language(bench: Bench) -> dict[str, Any]:
    """Train a GPT-2 on one pass over reviews; all tokens count, padding does not."""
    task: Any = registry.resolve("task", f"imdb-gpt2:model=scratch,epochs=1,lr=5e-5,{bench.size.gpt2}").value
    train = task.load(bench.data).to(bench.device).train
    model = task.new_model().to(bench.device)
    batch = train.batch(torch.arange(task.batch_size))
    with Meter(model) as meter:
        fit(task, model, [batch])
    per_token = meter.flops / int(batch.inputs["length"].max()) / len(batch)
    fit(task, model, [batch] * 3)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = _now(bench)
    fit(task, model, train.batches(task.batch_size, 1, torch.Generator().manual_seed(0)))
    seconds = _now(bench) - started
    rate = int(train.inputs["length"].sum()) / seconds
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": rate,
        "seconds_of_the_pass": seconds,
        "reviews": len(train),
        "mean_length": train.inputs["length"].double().mean().item(),
        "tflops": rate * per_token / 1e12,
        "of_matmul_rate": rate * per_token / bench.rate if bench.rate else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None,
    }


def brew(bench: Bench) -> dict[str, Any]:
    """Craft one targeted poison and check that it keeps to its radius and can be measured; no victim is trained."""
    task: Any = registry.resolve("task", bench.size.task(bench.size.epochs)).value
    steps = bench.size.steps
    spec = f"targeted:fraction=0.015,eps=0.0627,steps={steps},surrogates=1,targets=2"
    poison: Any = registry.resolve("poison", spec).value
    split = task.load(bench.data).to(bench.device)
    everything = torch.ones(len(split.train), dtype=torch.bool)
    trained = _now(bench)
    model = train(task, split.train, everything, derive("surrogate", 0))[0].eval()
    started = _now(bench)
    planted = poison.plant(task, split, 0, lambda _: model)
    seconds = _now(bench) - started
    change = (planted.inputs["image"] - split.train.batch(planted.forget).inputs["image"].cpu()).abs().max()
    reading = poison.probe(model, planted, task, split)
    _require(0 < float(change) <= poison.eps + 1e-5, f"the largest change of a pixel is {float(change)}")
    _require(math.isfinite(reading.value), f"the probe says {reading.value}")
    return {
        "images": len(planted.forget),
        "steps": steps,
        "seconds": seconds,
        "milliseconds_per_image_and_step": 1000 * seconds / steps / len(planted.forget),
        "seconds_of_the_surrogate": started - trained,
        "largest_change": float(change),
    }


def audit(bench: Bench) -> dict[str, Any]:
    """Audit gd on CIFAR-10 at reduced scale; what the verdicts are does not matter here, that there are some does."""
    result = bench.scratch / "audit.json"
    done = _pytest(
        bench, str(ROOT / "test_suites" / "test_forgetting.py"), str(ROOT / "test_suites" / "test_budget.py"),
        f"--task={bench.size.task(bench.size.audit_epochs)}", "--unlearner=gd", "--poison=gaussian:sd=0.14",
        "--audit-seeds=3", "--audit-budget=0.5",
        f"--audit-data={bench.data}", f"--audit-store={bench.scratch / 'store'}", f"--audit-json={result}",
        f"--audit-device={bench.device.type}", "-q", "-n0",
    )  # fmt: skip
    if done.returncode not in (0, 1) or not result.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{_tail(done)}")
    found = json.loads(result.read_text(encoding="utf-8"))
    verdicts = {each["measure"]: each["verdict"] for each in found["audits"]}
    _require(bool(verdicts) and "ERROR" not in verdicts.values(), f"verdicts {verdicts}:\n{_tail(done)}")
    costs = [trial["cost"] for trial in found["trials"] if trial["cost"] and trial["unlearner"] == "gd"]
    fractions = {name: [cost["fractions"][name] for cost in costs if name in cost["fractions"]] for name in YARDSTICKS}
    return {
        "verdicts": verdicts,
        "device": found["run"]["device"],
        "fraction_of_retraining": {name: max(values, default=None) for name, values in fractions.items()},
    }


PARTS: tuple[Callable[[Bench], dict[str, Any]], ...] = (tests, matmul, throughput, language, brew, audit)


def _pytest(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if bench.device.type == "cpu" else {})}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stdout + done.stderr).splitlines()[-25:])


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise RuntimeError(found)


def _now(bench: Bench) -> float:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def generate(folder: Path, size: Size) -> None:
    """Write data sets in the layouts of CIFAR-10 and IMDb, in which every class has a pattern or a word of its own.

    Args:
        folder: Where, in ``cifar10`` and ``imdb``.
        size: How many images and reviews.
    """
    import datasets

    datasets.disable_progress_bars()
    draw = np.random.default_rng(0)
    patterns = draw.integers(60, 196, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    for name, n in (("train", size.reviews), ("test", size.reviews // 5)):
        labels = np.arange(n) % 2
        lengths = np.clip(draw.lognormal(5.2, 0.7, n), 20, 2000).astype(int)  # words, about as in IMDb
        words = [draw.choice(["the", "film", "was", ("bad", "good")[i % 2]], k) for i, k in enumerate(lengths)]
        rows = datasets.Dataset.from_dict({"text": [" ".join(each) for each in words], "label": labels.tolist()})
        target = folder / "imdb" / "plain_text" / f"{name}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(target)
    for name, n in (("train", size.images), ("test", size.images // 5)):
        labels = np.arange(n) % 10
        pictures = [np.uint8(patterns[label] + draw.integers(-60, 60, (32, 32, 3))) for label in labels]
        rows = datasets.Dataset.from_dict({"img": pictures, "label": labels.tolist()}, features=features)
        target = folder / "cifar10" / "plain_text" / f"{name}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(target)


def check(bench: Bench, names: list[str]) -> list[dict[str, Any]]:
    """Run the parts; return what each found, or its error."""
    found = []
    for part in PARTS:
        if part.__name__ not in names:
            continue
        print(f"{part.__name__} …", flush=True)
        started = time.perf_counter()
        try:
            entry = {"ok": True, "result": part(bench)}
        except Exception as error:  # whatever it is: the other parts are worth having
            entry = {"ok": False, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        entry = {"name": part.__name__, **entry, "seconds": time.perf_counter() - started}
        print(f"  {'ok' if entry['ok'] else 'FAILED'} after {entry['seconds']:.0f} s: {_shown(entry)}", flush=True)
        found.append(entry)
    return found


def _shown(entry: dict[str, Any]) -> str:
    if not entry["ok"]:
        return str(entry["error"])
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in entry["result"].items()}
    return ", ".join(f"{name} {value}" for name, value in numbers.items())


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        "gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.__name__ for part in PARTS]
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="what is checked; default cuda")
    add("--quick", action="store_true", help="everything much smaller, to see whether it runs")
    add("--part", action="append", choices=names, help="this part only; repeats")
    add("--data", metavar="DIR", type=_folder, help="CIFAR-10 in DIR/cifar10, IMDb in DIR/imdb; default generated")
    add("--json", metavar="FILE", type=Path, help="write what was found to this file")
    options = parser.parse_args()
    options.part = options.part or names
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no directory for {options.json}")
    return options


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return Path(text).resolve()


def main() -> int:
    """Check, print and write; return the exit code."""
    options = parse()
    try:
        device = device_of(kind_of_device(options.device))
    except UnlearningError:
        print("gpu_check: no GPU can be used here; --device=cpu runs the same code on the CPU", file=sys.stderr)
        return 2
    if device.type == "cpu":
        torch.set_num_threads(1)
    size = QUICK if options.quick else LARGE
    started = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.data is None and set(options.part) & {"throughput", "language", "brew", "audit"}:
            generate(folder, size)
        parts = check(Bench(device, size, options.data or folder, folder), options.part)
    document = {
        "schema": 1,
        "ok": all(part["ok"] for part in parts),
        "note": "measured on the CPU: says that the code runs, and nothing of a GPU" if device.type == "cpu" else "",
        **describe(device),
        "quick": options.quick,
        "size": asdict(size),
        "data": "generated" if options.data is None else "given",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": time.time() - started,
        "parts": parts,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    failed = [part["name"] for part in parts if not part["ok"]]
    print(f"{len(parts) - len(failed)} of {len(parts)} parts are fine on {document['device']['name']} ({device.type})")
    if document["note"]:
        print(document["note"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
