"""How fast a device is: at matrix products, and at training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from gpu.bench import Bench, now

from harness import registry
from harness.training.data import BUCKETS, Batches, Data, batch_count
from harness.training.engine import WARM
from harness.training.graphs import recorder
from harness.training.loop import Fitting, Job, fit, train_all
from harness.training.meter import Meter
from harness.trials.pace import pace_of, step_seconds


def matmul(bench: Bench) -> dict[str, Any]:
    """Multiply large matrices in bf16; the fastest of several rounds."""
    n = bench.size.matrix
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    rounds = 10 if bench.device.type == "cuda" else 3
    seconds = []
    for _ in range(1 + 5):  # the first one warms up
        started = now(bench)
        for _ in range(rounds):
            torch.mm(a, b)
        seconds.append((now(bench) - started) / rounds)
    bench.rate = 2 * n**3 / min(seconds[1:])
    return {"size": n, "bf16_tflops": bench.rate / 1e12}


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
    started = now(bench)
    train_all(task, jobs)
    return {
        "seconds_of_a_training": found,
        "fastest_group": pace.group,
        "seconds_of_a_whole_training_in_it": (now(bench) - started) / len(jobs),
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
                marks.append(now(bench))
            seen.append(item[0])
            yield item
        marks.append(now(bench))

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
