"""Check whether a machine with a GPU is fast enough for full-size audits. Can write the results as JSON.

    python ci/gpu_check.py [--data DIR] [--json FILE]                  on a machine with a GPU, in 4 minutes
    python ci/gpu_check.py --part audit --minutes 8 --store DIR        begin a longer audit, or go on with it
    python ci/gpu_check.py --device cpu --quick                        the same code on tiny models, on any machine

The parts run one after another. If a part fails, its error is written to the JSON, the other parts still run, and the
exit code is 1. Where steps of a part were not recorded, the JSON says why:

    tests       the tests that can run on a chosen device (tests/runs/test_ci_scripts.py -k on_device)
    matmul      bf16 matrix products: the rate that the device reaches, in TFLOP/s
    together    the largest difference between the weights of models trained in a group, alone, and unrecorded
    digits      seconds to train digits-cnn: unrecorded, recorded, and recorded in groups
    throughput  training of cifar10-resnet18 in the same ways: images/s, memory, FLOP/s as a share of matmul's rate
    language    training of a GPT-2 with 355M randomly initialised parameters: tokens/s, memory, the same share; as a
                classifier, with noise on the embeddings of one review in ten, and as a causal model
    brew        one targeted poison: how long crafting takes, and whether every pixel changes by at most eps
    audit       pytest test_suites on CIFAR-10: scrub, gd, neggrad_plus and short against three poisons, with as many
                epochs as are expected to fit in two thirds of --minutes, from 5 to 100; after --minutes it is stopped

An audit that was stopped is an error that says how many models it left. With --store DIR they stay in DIR, with the
number of epochs, so that the same command goes on where it was. DIR can be copied to another machine.

Without --data, the script generates images and reviews in the layout of the real data sets. Their classes are easy to
tell apart. So times are meaningful, and accuracies are not. Figures from a CPU say nothing about a GPU; the JSON states
that a CPU was used.
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
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reproduce.machine import describe

from harness import registry
from harness.api import UnlearningError
from harness.report.document import write_text
from harness.store.files import files_at
from harness.store.inventory import Inventory
from harness.training.data import BUCKETS, Batches, Data, batch_count
from harness.training.engine import WARM, StepsNotRecorded, run
from harness.training.graphs import recorder
from harness.training.loop import Fitting, Job, fit, train, train_all
from harness.training.meter import Meter
from harness.training.seeds import derive
from harness.trials.devices import device_of, kind_of_device
from harness.trials.pace import pace_of, step_seconds

ROOT = Path(__file__).resolve().parent.parent
#: Seconds that the whole check may take, unless it is told how long the audit may.
WHOLE = 240
YARDSTICKS = ("examples", "flops", "cpu_seconds")


@dataclass(frozen=True)
class Size:
    """How large the parts are.

    Attributes:
        matrix: Rows and columns of the matrices that are multiplied.
        images: Training images, and a fifth as many to test on.
        width: Channels of the network's first stage.
        batch_size: Examples per step.
        groups: Group sizes to time.
        epochs: Of the surrogate in `brew`, enough for it to learn something; also the fewest of the audit.
        steps: Steps of the brew.
        digits: The task of `digits`, and the first of the two of `together`.
        language_steps: Steps that `language` times of each way.
        methods, poisons, seeds: What `audit` audits.
        shortest: Seconds that the audit has at least.
        reviews: Training reviews, and a fifth as many to test on.
        gpt2: Fields of the language model.
    """

    matrix: int
    images: int
    width: int
    batch_size: int
    groups: tuple[int, ...]
    epochs: int
    steps: int
    digits: str
    language_steps: int
    methods: tuple[str, ...]
    poisons: tuple[str, ...]
    seeds: int
    shortest: float
    reviews: int
    gpt2: str

    def task(self, epochs: int) -> str:
        """Return the spec of the task, trained for so many passes."""
        fields = {"epochs": epochs, "train_size": self.images, "test_size": self.images // 5, "width": self.width}
        fields |= {"batch_size": self.batch_size}
        return "cifar10-resnet18:" + ",".join(f"{name}={value}" for name, value in fields.items())


def targeted(steps: int) -> str:
    """Return the spec of the poison that is crafted."""
    return f"targeted:fraction=0.015,eps=0.0627,steps={steps},surrogates=1,targets=2"


LARGE = Size(
    matrix=8192, images=10_000, width=64, batch_size=128, groups=(1, 2, 4, 8), epochs=5, steps=50,
    digits="digits-cnn", language_steps=40, reviews=2_000, methods=("scrub", "gd", "neggrad_plus", "short"), seeds=5,
    shortest=60,
    poisons=("gaussian:fraction=0.1,sd=0.14", "backdoor:fraction=0.1", targeted(50)),
    gpt2="layers=24,width=1024,heads=16,vocabulary=50257,length=512,batch_size=16",
)  # fmt: skip
QUICK = Size(
    matrix=256, images=100, width=2, batch_size=25, groups=(1, 2), epochs=8, steps=2,
    digits="digits-cnn:epochs=1", language_steps=2, reviews=50, methods=("gd",), poisons=("gaussian:sd=0.14",), seeds=3,
    shortest=600,
    gpt2="layers=1,width=16,heads=2,vocabulary=300,length=32,batch_size=10",
)  # fmt: skip


@dataclass
class Bench:
    """What the parts work with.

    Attributes:
        device: Where.
        size: How large.
        data: Folder with the data set in ``cifar10``.
        scratch: A folder that is removed afterwards.
        minutes: What the audit may take; None for what is left of `WHOLE`.
        store: Where it keeps its models, and how many epochs they are trained for.
        began: When the check did, on the clock of `time.monotonic`.
        rate: FLOP/s of matrix products in bf16, once `matmul` measured it.
        images_per_second: Of training, all models together, once `throughput` measured it.
    """

    device: torch.device
    size: Size
    data: Path
    scratch: Path
    minutes: float | None
    store: Path
    began: float
    rate: float | None = None
    images_per_second: float | None = None


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


def together(bench: Bench) -> dict[str, Any]:
    """Train models in a group, alone, and unrecorded, and compare their weights."""
    found: dict[str, Any] = {}
    for spec in (bench.size.digits, bench.size.task(1)):
        task: Any = registry.resolve("task", spec).value
        data = task.load(bench.data).to(bench.device).train
        everything = torch.ones(len(data), dtype=torch.bool)
        less = everything.clone()
        less[: len(data) // 10] = False
        jobs = [Job(data, everything, 0), Job(data, less, 0), Job(data, everything, 1)]
        alone = [train_all(task, [job])[0].model for job in jobs]
        in_group = [fitting.model for fitting in train_all(task, jobs)]
        unrecorded = [job.begin(task) for job in jobs]
        run([fitting.training for fitting in unrecorded], None)
        found[spec] = row = {
            "in_a_group": max(_difference(a, b) for a, b in zip(alone, in_group, strict=True)),
            "unrecorded": max(_difference(a, b.model) for a, b in zip(alone, unrecorded, strict=True)),
            "repeated": _difference(alone[0], train_all(task, jobs[:1])[0].model),
            "another_seed": _difference(alone[0], alone[2]),
        }
        # Sums in another order add up over a training; a dropped or repeated number would go as far as another seed.
        _require(max(row["in_a_group"], row["unrecorded"]) < 0.2 * row["another_seed"], f"{spec}: {row}")
    return found


def _difference(model: torch.nn.Module, other: torch.nn.Module) -> float:
    return max(
        float((a - b).detach().abs().max())
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
        if a.numel()
    )


def digits(bench: Bench) -> dict[str, Any]:
    """Time trainings of the smallest task, whose kernels are so short that starting them takes most of the time."""
    task: Any = registry.resolve("task", bench.size.digits).value
    data = task.load(None).to(bench.device).train
    steps = task.epochs * batch_count(len(data), task.batch_size)
    record = recorder(bench.device)
    found = {"unrecorded": steps * step_seconds(task, data, 1, None)}
    for k in sorted({*bench.size.groups, 4 * max(bench.size.groups)}):
        found[f"recorded_{k}"] = steps * step_seconds(task, data, k, record) / k
    pace = pace_of(task, data)
    everything = torch.ones(len(data), dtype=torch.bool)
    jobs = [Job(data, everything, seed) for seed in range(pace.group)]
    started = _now(bench)
    train_all(task, jobs)
    return {
        "seconds_of_a_training": found,
        "fastest_group": pace.group,
        "seconds_of_a_whole_training_in_it": (_now(bench) - started) / len(jobs),
    }


def throughput(bench: Bench) -> dict[str, Any]:
    """Time the harness's own training step, with augmentation and with the data on the device."""
    task: Any = registry.resolve("task", bench.size.task(bench.size.epochs)).value
    data = task.load(bench.data).to(bench.device).train
    model = task.new_model().to(bench.device)
    with Meter(model) as meter:
        fit(task, model, [data.batch(torch.arange(task.batch_size))])
    flops = meter.flops / task.batch_size
    rows = {}
    for k in (0, *bench.size.groups):
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = step_seconds(task, data, max(1, k), recorder(bench.device) if k else None)
        rate = max(1, k) * task.batch_size / seconds
        rows[f"recorded_{k}" if k else "unrecorded"] = {
            "images_per_second": rate,
            "of_matmul_rate": rate * flops / bench.rate if bench.rate else None,
            "peak_bytes": torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None,
        }
    bench.images_per_second = max(row["images_per_second"] for row in rows.values())
    full = registry.resolve("task", "cifar10-resnet18").value
    whole = full.epochs * full.train_size / bench.images_per_second / 60
    return {
        **rows,
        "gflop_per_image": flops / 1e9,
        "width": task.width,
        "batch_size": task.batch_size,
        "minutes_of_a_full_training": whole if task.width == 64 else None,
    }


def language(bench: Bench) -> dict[str, Any]:
    """Train a GPT-2 on a part of a pass over reviews; all tokens count, padding does not."""
    spec = f"imdb-gpt2:model=scratch,epochs=1,lr=5e-5,{bench.size.gpt2}"
    task: Any = registry.resolve("task", spec).value
    split = task.load(bench.data)
    noise: Any = registry.resolve("poison", "gaussian-embeddings:fraction=0.1,sd=0.32").value
    noisy = split.train.poisoned_with(noise.plant(task, split, 0))
    causal: Any = registry.resolve("task", f"{spec},head=causal").value
    plain = _tokens_per_second(bench, task, split.train)
    return {
        **plain,
        "steps": bench.size.language_steps,
        "mean_length": split.train.inputs["length"].double().mean().item(),
        "with_noise": _tokens_per_second(bench, task, noisy),
        "causal": _tokens_per_second(bench, causal, split.train),
    }


def _tokens_per_second(bench: Bench, task: Any, data: Data) -> dict[str, Any]:
    """Time steps of a language task on some data."""
    train = data.to(bench.device)
    model = task.new_model().to(bench.device)
    batch = train.batch(torch.arange(task.batch_size))
    with Meter(model) as meter:
        fit(task, model, [batch])
    per_token = meter.flops / int(batch.inputs["length"].max()) / len(batch)
    # Each length is recorded when it has come a few times.
    before, timed = 2 * BUCKETS * (WARM + 2) if bench.device.type == "cuda" else 1, bench.size.language_steps
    examples = (before + timed) * task.batch_size
    everything, order = torch.ones(len(train), dtype=torch.bool), torch.Generator().manual_seed(0)
    epochs = -(-examples // len(train))
    batches = Batches(train, task.batch_size, epochs, order, everything, examples, from_host=task.from_host)
    fitting = Fitting(task, model, batches)
    marks: list[float] = []
    seen: list[torch.Tensor] = []

    def marked(items: Iterator[Any]) -> Iterator[Any]:
        for step, item in enumerate(items):
            if step == before:
                marks.append(_now(bench))
            seen.append(item[0])
            yield item
        marks.append(_now(bench))

    fitting.training.items = marked(fitting.training.items)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    fitting.finish()
    tokens = int(train.inputs["length"][torch.cat(seen[before:])].sum())
    rate = tokens / (marks[1] - marks[0])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": rate,
        "tflops": rate * per_token / 1e12,
        "of_matmul_rate": rate * per_token / bench.rate if bench.rate else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None,
    }


def brew(bench: Bench) -> dict[str, Any]:
    """Craft one targeted poison and check that it keeps to its radius and can be measured; no victim is trained."""
    task: Any = registry.resolve("task", bench.size.task(bench.size.epochs)).value
    steps = bench.size.steps
    poison: Any = registry.resolve("poison", targeted(steps)).value
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
    """Audit methods on CIFAR-10 with as many epochs as the minutes allow, at most the recipe's own hundred.

    Raises:
        RuntimeError: It was stopped, or ended otherwise than audits do.
    """
    size, n = bench.size, bench.size.images
    seconds = 60 * bench.minutes if bench.minutes is not None else WHOLE - (time.monotonic() - bench.began)
    limit = max(seconds, size.shortest)
    # On each seed P of each poison; R, R' and a short training for both sizes of retain set that the poisons have; and
    # as much again for methods, measures, and what cannot be made side by side.
    examples = size.seeds * (len(size.poisons) + 2 * 2.1) * 2 * n
    chosen = bench.store / "epochs.json"
    if chosen.exists():  # its models are used again if they are trained for as long
        epochs = json.loads(chosen.read_text(encoding="utf-8"))
    else:
        rate = bench.images_per_second or throughput(bench)["unrecorded"]["images_per_second"]
        epochs = max(size.epochs, min(100, int(2 / 3 * seconds * rate / examples)))
        bench.store.mkdir(parents=True, exist_ok=True)
        write_text(chosen, json.dumps(epochs))
    result = bench.scratch / "audit.json"
    suites = [str(ROOT / "test_suites" / f"test_{name}.py") for name in ("forgetting", "utility", "budget")]
    started = time.perf_counter()
    models = bench.store / "models"
    try:
        done = _pytest(
            bench, *suites, f"--task={bench.size.task(epochs)}",
            *(f"--unlearner={name}" for name in size.methods), *(f"--poison={spec}" for spec in size.poisons),
            f"--audit-seeds={size.seeds}", f"--audit-data={bench.data}", f"--audit-store={models}",
            f"--audit-json={result}", f"--audit-device={bench.device.type}", "-q", "-n0", limit=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        made = sum(record.kind == "model" for record in Inventory.of(files_at(models)).records)
        raise RuntimeError(
            f"stopped after {limit:.0f} s with {epochs} epochs; {made} models are stored, and with --store=DIR the "
            "same command goes on where it was"
        ) from None
    if done.returncode not in (0, 1) or not result.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{_tail(done)}")
    found = json.loads(result.read_text(encoding="utf-8"))
    verdicts: dict[str, dict[str, Any]] = {}
    for each in found["audits"]:
        of = verdicts.setdefault(f"{each['unlearner']} {each['poison']}", {})
        of[each["claim"]] = {name: each[name] for name in ("verdict", "reason", "estimate", "interval")}
    every = {claim["verdict"] for of in verdicts.values() for claim in of.values()}
    _require(bool(every) and "ERROR" not in every, f"verdicts {sorted(every)}:\n{_tail(done)}")
    costs = [trial["cost"] for trial in found["trials"] if trial["cost"] and trial["unlearner"] in size.methods]
    fractions = {name: [cost["fractions"][name] for cost in costs if name in cost["fractions"]] for name in YARDSTICKS}
    return {
        "epochs": epochs,
        "images": n,
        "seconds": time.perf_counter() - started,
        "models_trained": sum(len(trial["cost"]["built"]) for trial in found["trials"] if trial["cost"]),
        "verdicts": verdicts,
        "device": found["run"]["device"],
        "fraction_of_retraining": {name: max(values, default=None) for name, values in fractions.items()},
    }


PARTS: tuple[Callable[[Bench], dict[str, Any]], ...] = (
    tests, matmul, together, digits, throughput, language, brew, audit,
)  # fmt: skip


def _pytest(bench: Bench, *arguments: str, limit: float = 600) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if bench.device.type == "cpu" else {})}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit, check=False
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
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", StepsNotRecorded)
            try:
                entry = {"ok": True, "result": part(bench)}
            except Exception as error:  # whatever it is: the other parts are worth having
                entry = {"ok": False, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        unrecorded = [str(each.message) for each in said if issubclass(each.category, StepsNotRecorded)]
        entry |= {"not_recorded": sorted(set(unrecorded)), "seconds": time.perf_counter() - started}
        entry = {"name": part.__name__, **entry}
        print(f"  {'ok' if entry['ok'] else 'FAILED'} after {entry['seconds']:.0f} s: {_shown(entry)}", flush=True)
        found.append(entry)
    return found


def _shown(entry: dict[str, Any]) -> str:
    if not entry["ok"]:
        return str(entry["error"])
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in entry["result"].items()}
    shown = ", ".join(f"{name} {value}" for name, value in numbers.items())
    return "; ".join([shown, *entry["not_recorded"]])


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        "gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.__name__ for part in PARTS]
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="device to check; default cuda")
    add("--quick", action="store_true", help="use tiny sizes, only to see whether the code runs")
    add("--part", action="append", choices=names, help="run only this part; can be repeated")
    add(
        "--data", metavar="DIR", type=_folder, help="CIFAR-10 in DIR/cifar10, IMDb in DIR/imdb; default: generated data"
    )
    add("--minutes", metavar="M", type=_minutes, help="stop the audit after M minutes; default: what is left of 4")
    add("--store", metavar="DIR", type=Path, help="keep the audit's models in DIR; default: delete them at the end")
    add("--json", metavar="FILE", type=Path, help="write the results to FILE")
    options = parser.parse_args()
    options.part = options.part or names
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no directory for {options.json}")
    return options


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a valid number of minutes")
    return minutes


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
    started, began = time.time(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.data is None and set(options.part) - {"tests", "matmul", "digits"}:
            generate(folder, size)
        store = (options.store or folder / "store").resolve()
        bench = Bench(device, size, options.data or folder, folder, options.minutes, store, began)
        parts = check(bench, options.part)
    document = {
        "schema": 1,
        "ok": all(part["ok"] for part in parts),
        "note": "measured on the CPU: this shows that the code runs, and says nothing about a GPU"
        if device.type == "cpu"
        else "",
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
