"""Would it pay to compile the training of a small model with ``torch.compile``?

digits-cnn's network, forward and backward, by inductor's C++ for the CPU; optimiser and schedule stay as they are. A
process trains once with inductor's cache empty, and so pays for what is compiled, then both ways in turn, every time a
new model. A second process does the same with the cache that the first one left, as another worker of a run would:

    python ci/benchmarks/compiled.py [--json FILE]

Times are of the CPU, those of the C++ compiler included; of trainings the best of several.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from harness import registry
from harness.report.document import versions

REPEATS = 7


class Compiled:
    """A task whose models are run compiled; every size of batch is compiled for itself."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._run = torch.compile(lambda model, images: model(images), dynamic=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def logits(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return class scores."""
        scores: torch.Tensor = self._run(model, batch.inputs["image"])
        return scores


def seconds() -> float:
    """Return the CPU time of this process and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(work: Callable[[], torch.nn.Module]) -> tuple[float, dict[str, torch.Tensor]]:
    """Return how long a training takes, and the trained weights."""
    began = seconds()
    model = work()
    return seconds() - began, model.state_dict()


def measured() -> dict[str, Any]:
    """Train both ways in a process that has compiled nothing yet."""
    torch.set_num_threads(1)
    task = registry.resolve("task", "digits-cnn").value
    compiled = Compiled(task)
    train = task.load(None).train
    everything = torch.ones(len(train), dtype=torch.bool)
    ways = {
        "eager": lambda seed: train(task, train, everything, seed)[0],
        "compiled": lambda seed: train(compiled, train, everything, seed)[0],
    }
    first = {way: timed(lambda make=make: make(0)) for way, make in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    equal, apart = [], []
    for seed in range(REPEATS):
        weights = {}
        for way, make in ways.items():
            took, weights[way] = timed(lambda make=make, seed=seed: make(seed))
            times[way].append(took)
        pairs = [(weights["eager"][name].double(), weights["compiled"][name].double()) for name in weights["eager"]]
        equal.append(all(torch.equal(*pair) for pair in pairs))
        apart.append(max(float((one - other).abs().max()) for one, other in pairs))
    best = {way: min(each) for way, each in times.items()}
    compiling = first["compiled"][0] - best["compiled"]
    saved = best["eager"] - best["compiled"]
    return {
        "compiling": compiling,
        "training": best,
        "times_faster": best["eager"] / best["compiled"],
        "trainings_until_compiling_is_paid_back": math.ceil(compiling / saved) if saved > 0 else None,
        "weights_bit_equal": f"{sum(equal)} of {REPEATS}",
        "weights_apart_at_most": max(apart),
        "graphs_compiled": torch._dynamo.utils.counters["stats"]["unique_graphs"],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # as a worker of a run has one core
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name in ("empty cache", "second process"):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found[name] = pool.submit(measured).result()
            print(name, json.dumps(found[name], indent=1))
    if options.json:
        figures = {**found, "machine": f"{platform.machine()}, 1 thread, CPU", "versions": versions()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
