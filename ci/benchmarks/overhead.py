"""What an audit costs beyond the training it cannot do without.

One process runs the audit cold (an empty store), then trains the very models that the audit trained, bare: the loops
alone, nothing stored or measured. Then it runs the audit again, warm. Ratios of CPU time, after everything is imported:

    python ci/benchmarks/overhead.py [--rounds 3] [--seeds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import pytest
import torch

from harness import registry
from harness.api import ForgetRequest
from harness.report.document import versions
from harness.training.data import Batches, Data
from harness.training.loop import fit
from harness.training.seeds import derive

SUITES = str(Path(__file__).resolve().parents[2] / "test_suites")
METHODS = ("scrub", "gd")


def audit(folder: Path, seeds: int) -> tuple[float, dict]:
    """Run the audit on a store; return its CPU seconds and its JSON result."""
    result = folder / "result.json"
    arguments = [SUITES, "-q", "-n0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    arguments += [f"--audit-store={folder / 'store'}", f"--audit-json={result}", f"--audit-seeds={seeds}"]
    arguments += [f"--unlearner={name}" for name in METHODS]
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(arguments)
    return time.process_time() - started, json.loads(result.read_text())


def bare(document: dict) -> float:
    """Train what the audit trained, by the loops alone; return the CPU seconds of the loops."""
    spent = 0.0
    for trial in document["trials"]:
        task = registry.resolve("task", trial["task"]).value
        poison = registry.resolve("poison", trial["poison"]).value
        method = registry.resolve("unlearner", trial["unlearner"]).value
        split, seed = task.load(None), trial["seed"]
        planted = poison.plant(task, split, derive("poison", seed))
        keep = torch.ones(len(split.train), dtype=torch.bool)
        keep[planted.forget] = False
        arms = {"P": (split.train.poisoned_with(planted), torch.ones_like(keep)), "R": (split.train, keep)}
        model = task.new_model()
        for arm in trial["cost"]["built"]:
            generator = torch.Generator().manual_seed(seed)
            if arm in arms:
                data, mask = arms[arm]
                batches = Batches(data, task.batch_size, task.epochs, generator, mask)
                started = time.process_time()
                fit(task, task.new_model(), batches)
            else:
                retain, forget = split.train.subset(keep.nonzero().squeeze(1)), Data(planted.inputs, planted.labels)
                request = ForgetRequest(retain, forget, 0.1 * task.epochs, generator, torch.device("cpu"), task)
                started = time.process_time()
                method(model.train(), request)
            spent += time.process_time() - started
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="medians are over this many rounds")
    parser.add_argument("--seeds", type=int, default=5, help="where the seed plan stops")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as warm_up:
        audit(Path(warm_up), 3)  # imports, first calls: what every process pays once
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            cold, document = audit(Path(name), options.seeds)
            loops = bare(document)
            warm, _ = audit(Path(name), options.seeds)
        rounds.append({"cold": cold, "bare": loops, "warm": warm})
        print(f"cold {cold:.1f} s   bare training {loops:.1f} s   warm {warm:.2f} s", flush=True)
    figures = {
        "cold_over_bare": statistics.median(r["cold"] / r["bare"] for r in rounds),
        "warm_over_cold": statistics.median(r["warm"] / r["cold"] for r in rounds),
        "models_trained": sum(len(t["cost"]["built"]) for t in document["trials"]),
        "rounds": rounds,
        "methods": list(METHODS),
        "seeds": options.seeds,
        "machine": f"{platform.machine()}, 1 thread, CPU",
        "versions": versions(),
    }
    print(f"cold audit over bare training: {figures['cold_over_bare']:.3f} (at most 1.05)")
    print(f"warm audit over cold audit:    {figures['warm_over_cold']:.3f} (at most 0.2)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
