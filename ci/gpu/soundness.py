"""Whether a device computes what it should: its own tests, models in groups, and a crafted poison."""

from __future__ import annotations

import math
from typing import Any

import torch
from gpu.bench import ROOT, Bench, now, require, run_pytest, tail, targeted

from harness import registry
from harness.training.engine import run
from harness.training.loop import Job, train, train_all
from harness.training.seeds import derive


def tests(bench: Bench) -> dict[str, Any]:
    """Run the tests that take a device, on this one."""
    where = [str(ROOT / "tests" / "runs" / "test_ci_scripts.py"), "-k", f"on_device and {bench.device.type}"]
    done = run_pytest(bench, *where, "-q", "-n0")
    # That none was found is an exit code of its own; that they were skipped, on the very device, is none.
    if done.returncode != 0 or "skipped" in done.stdout:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{tail(done)}")
    return {"summary": done.stdout.strip().splitlines()[-1]}


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
        require(max(row["in_a_group"], row["unrecorded"]) < 0.2 * row["another_seed"], f"{spec}: {row}")
    return found


def _difference(model: torch.nn.Module, other: torch.nn.Module) -> float:
    return max(
        float((a - b).detach().abs().max())
        for a, b in zip(model.parameters(), other.parameters(), strict=True)
        if a.numel()
    )


def brew(bench: Bench) -> dict[str, Any]:
    """Craft one targeted poison and check that it keeps to its radius and can be measured; no victim is trained."""
    task: Any = registry.resolve("task", bench.size.task(bench.size.epochs)).value
    steps = bench.size.steps
    poison: Any = registry.resolve("poison", targeted(steps)).value
    split = task.load(bench.data).to(bench.device)
    everything = torch.ones(len(split.train), dtype=torch.bool)
    trained = now(bench)
    model = train(task, split.train, everything, derive("surrogate", 0))[0].eval()
    started = now(bench)
    planted = poison.plant(task, split, 0, lambda _: model)
    seconds = now(bench) - started
    change = (planted.inputs["image"] - split.train.batch(planted.forget).inputs["image"].cpu()).abs().max()
    reading = poison.probe(model, planted, task, split)
    require(0 < float(change) <= poison.eps + 1e-5, f"the largest change of a pixel is {float(change)}")
    require(math.isfinite(reading.value), f"the probe says {reading.value}")
    return {
        "images": len(planted.forget),
        "steps": steps,
        "seconds": seconds,
        "milliseconds_per_image_and_step": 1000 * seconds / steps / len(planted.forget),
        "seconds_of_the_surrogate": started - trained,
        "largest_change": float(change),
    }
