"""What an audit costs beyond the training it cannot do without.

One process runs the audit cold (an empty store), then trains the very models that the audit trained, bare: the loops
alone, nothing stored or measured. What is unlearned is unlearned once more with its operations counted: the
difference is what counting costs. Then it runs the audit again, warm. Ratios of CPU time, after everything is imported.
The contract is examined once for each method, however many seeds are judged, so it is timed apart:

    python ci/benchmarks/overhead.py [--rounds 3] [--seeds 5] [--unlearner NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import ForgetRequest, registry
from harness.api import declares
from harness.report.document import versions
from harness.training.data import Batches, Data
from harness.training.loop import fit
from harness.training.operations import Operations
from harness.training.seeds import derive

SUITES = Path(__file__).resolve().parents[2] / "test_suites"
CONTRACT = SUITES / "test_contract.py"
METHODS = ("scrub", "gd")


def audit(
    folder: Path, seeds: int, methods: Sequence[str], of: Sequence[str] = (str(SUITES), f"--ignore={CONTRACT}")
) -> tuple[float, dict]:
    """Run the audit, or another part of the suites, on a store; return its CPU seconds and its JSON result."""
    result = folder / "result.json"
    arguments = [*of, "-q", "-n0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    arguments += [f"--audit-store={folder / 'store'}", f"--audit-json={result}", f"--audit-seeds={seeds}"]
    arguments += ["--poison=backdoor", "--poison=gaussian", *(f"--unlearner={name}" for name in methods)]
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(arguments)
    return time.process_time() - started, json.loads(result.read_text())


def bare(document: dict) -> tuple[float, float]:
    """Train what the audit trained, by the loops alone.

    Returns:
        The CPU seconds of the loops, and how many more those of unlearning take if operations are counted.
    """
    spent = counting = 0.0
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
                of = (retain, forget, 0.1 * task.epochs)
                history = {epoch: task.new_model().state_dict() for epoch in checkpoints(method, task)}
                seconds = []
                for counted in (True, False):
                    generator = torch.Generator().manual_seed(seed)
                    request = ForgetRequest(*of, generator, torch.device("cpu"), task, history)
                    copied = copy.deepcopy(model).train()
                    started = time.process_time()
                    with Operations() if counted else contextlib.nullcontext():
                        method(copied, request)
                    seconds.append(time.process_time() - started)
                if not declares(method, "control"):
                    counting += seconds[0] - seconds[1]
                started = time.process_time() - seconds[1]
            spent += time.process_time() - started
    return spent, counting


def checkpoints(method: Any, task: Any) -> Sequence[int]:
    """Return the epochs whose checkpoints a method wants."""
    history = declares(method, "history")
    return history(task.epochs) if history else []


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="medians are over this many rounds")
    parser.add_argument("--seeds", type=int, default=5, help="where the seed plan stops")
    parser.add_argument("--unlearner", nargs="+", default=METHODS, help="what is audited; default %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as warm_up:
        audit(Path(warm_up), 3, options.unlearner)  # imports, first calls: what every process pays once
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as name:
            cold, document = audit(Path(name), options.seeds, options.unlearner)
            loops, counting = bare(document)
            warm, _ = audit(Path(name), options.seeds, options.unlearner)
            contract, _ = audit(Path(name), options.seeds, options.unlearner, [str(CONTRACT)])
        each = contract / len(options.unlearner)
        rounds.append({"cold": cold, "bare": loops, "warm": warm, "counting": counting, "contract_each": each})
        print("   ".join(f"{name} {seconds:.2f} s" for name, seconds in rounds[-1].items()), flush=True)
    figures = {
        "cold_over_bare": statistics.median(r["cold"] / r["bare"] for r in rounds),
        "warm_over_cold": statistics.median(r["warm"] / r["cold"] for r in rounds),
        "counting_over_cold": statistics.median(r["counting"] / r["cold"] for r in rounds),
        "contract_each": rounds[0]["contract_each"],  # a process does not examine a method twice
        "models_trained": sum(len(t["cost"]["built"]) for t in document["trials"]),
        "rounds": rounds,
        "methods": list(options.unlearner),
        "seeds": options.seeds,
        "machine": f"{platform.machine()}, 1 thread, CPU",
        "versions": versions(),
    }
    print(f"cold audit over bare training: {figures['cold_over_bare']:.3f}")
    print(f"warm audit over cold audit:    {figures['warm_over_cold']:.3f}")
    print(f"counting operations, of a cold audit: {figures['counting_over_cold']:.3f} (at most 0.03)")
    print(f"contract, CPU seconds a method: {figures['contract_each']:.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
