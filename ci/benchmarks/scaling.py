"""How an audit scales with workers: measured for one and two, simulated for more.

Wall time of a cold audit of three methods on two poisons of one size at ``-n 1`` and ``-n 2``, less that of a
warm one, which is start-up. The machine's own ceiling is measured in the same run: two bare trainings side by side take
longer than one alone; measured in turns, and never taken for more than two workers can be worth. Then the plan is
played through with the durations that were measured, by discrete events, for more workers: each takes the first model
that is needed and can be begun, then the first that may be needed later.

    python ci/benchmarks/scaling.py [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from harness.judging.plan import LOOKS
from harness.report.document import versions

SUITES = Path(__file__).resolve().parents[2] / "test_suites"
METHODS = ("scrub", "gd", "cfk")
#: Of one size, so that they share R.
POISONS = ("backdoor", "gaussian")
WORKERS = (1, 2, 4, 8, 16, 64)
TURNS = 3
BARE = """
import time, torch
torch.set_num_threads(1)
from harness import registry, training
task = registry.resolve("task", "digits-cnn").value
train = task.load(None).train
keep = torch.ones(len(train), dtype=torch.bool)
training.train(task, train, keep, 0)
print("ready", flush=True)
input()
started = time.perf_counter()
for seed in range(5):
    training.train(task, train, keep, seed)
print(time.perf_counter() - started, flush=True)
"""


def trained(side_by_side: int) -> float:
    """Return the seconds that bare trainings take in so many processes at once, on average."""
    command = [sys.executable, "-c", BARE]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(side_by_side)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return fmean(float(process.communicate()[0]) for process in processes)


def audit(folder: Path, workers: int) -> tuple[float, dict[str, Any]]:
    """Run the audit on a store; return its wall time and its JSON result."""
    result = folder / "result.json"
    command = [
        sys.executable, "-m", "pytest", str(SUITES), f"--ignore={SUITES}/test_contract.py", "-q", "-n", str(workers),
        "-p", "no:cacheprovider", f"--audit-store={folder / 'store'}", f"--audit-json={result}",
        *(f"--unlearner={method}" for method in METHODS), *(f"--poison={poison}" for poison in POISONS),
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - started, json.loads(result.read_text())


def jobs_of(document: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the models that the plan can need, in its order, with their durations, and the seeds it needs by poison.

    What was measured on some seeds stands for all of them: a training takes as long on every seed.
    """
    seconds: dict[str, list[float]] = {}
    for trial in document["trials"]:
        for arm in trial["cost"]["built"]:
            name = trial["unlearner"] if arm == "U" else arm
            seconds.setdefault(name, []).append(trial["cost"]["seconds"][arm])
    mean = {name: fmean(values) for name, values in seconds.items()}
    poisons = list(dict.fromkeys(audit["poison"] for audit in document["audits"]))
    needed = {
        poison: max(len(audit["seeds"]) for audit in document["audits"] if audit["poison"] == poison)
        for poison in poisons
    }
    jobs = []
    for seed in range(LOOKS[-1]):
        # R and what starts from scratch serve every poison; P and the methods are each poison's own.
        shared = [("R", ()), ("retrain", ()), ("short", ())]
        jobs += [{"id": (seed, name), "seed": seed, "poison": None, "after": after} for name, after in shared]
        for poison in poisons:
            jobs.append({"id": (seed, poison, "P"), "seed": seed, "poison": poison, "after": ()})
            for method in METHODS:
                after = ((seed, poison, "P"),)
                jobs.append({"id": (seed, poison, method), "seed": seed, "poison": poison, "after": after})
    for job in jobs:
        job["seconds"] = mean.get(job["id"][-1], 0.0)
    return sorted(jobs, key=lambda job: (job["seed"], job["seconds"] < 1e-9, -job["seconds"])), needed


def makespan(jobs: list[dict[str, Any]], needed: dict[str, int], workers: int) -> tuple[float, float]:
    """Play the plan through; return when everything that it needs is done, and the worker seconds that were spent."""
    done: dict[Any, float] = {}
    running: list[tuple[float, int, Any]] = []
    waiting = list(jobs)
    now = spent = 0.0
    last = max(needed.values())

    def horizon() -> int:
        """Return the seeds that are certainly needed: those of the first look whose models are not all done."""
        finished = set(done)
        for look in LOOKS:
            here = [job["id"] for job in jobs if job["seed"] < look and _wanted(job, needed)]
            if look >= last or not finished.issuperset(here):
                return min(look, last)
        return last

    while True:
        certain = horizon()
        target = [job for job in jobs if job["seed"] < last and _wanted(job, needed)]
        if all(job["id"] in done for job in target):
            return now, spent
        while len(running) < workers:
            ready = [job for job in waiting if all(each in done for each in job["after"])]
            chosen = next((job for job in ready if job["seed"] < certain), next(iter(ready), None))
            if chosen is None:
                break
            waiting.remove(chosen)
            spent += chosen["seconds"]
            heapq.heappush(running, (now + chosen["seconds"], len(waiting), chosen["id"]))
        now, _, finished = heapq.heappop(running)
        done[finished] = now


def _wanted(job: dict[str, Any], needed: dict[str, int]) -> bool:
    return job["seed"] < (max(needed.values()) if job["poison"] is None else needed[job["poison"]])


def main() -> None:
    """Measure, simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="medians are over this many rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    rounds = []
    document: dict[str, Any] = {}
    for _ in range(options.rounds):
        bare = [(trained(1), trained(2)) for _ in range(TURNS)]  # in turns: what else the machine does comes and goes
        one, two = (median(each) for each in zip(*bare, strict=True))
        found: dict[str, float] = {"alone": one, "side_by_side": two}
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as name:
                found[f"cold_{workers}"], document = audit(Path(name), workers)
                found[f"warm_{workers}"], _ = audit(Path(name), workers)
        found["ceiling"] = min(2.0, 2 * found["alone"] / found["side_by_side"])
        found["speedup"] = (found["cold_1"] - found["warm_1"]) / (found["cold_2"] - found["warm_2"])
        rounds.append(found)
        print("  ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    of_ceiling = median(each["speedup"] / each["ceiling"] for each in rounds)
    print(f"speedup of the second worker, of the machine's own ceiling: {of_ceiling:.3f} (at least .95)")
    jobs, needed = jobs_of(document)
    alone, _ = makespan(jobs, needed, 1)
    longest = max(job["seconds"] for job in jobs)
    simulated = {}
    for workers in WORKERS:
        wall, spent = makespan(jobs, needed, workers)
        simulated[workers] = {"seconds": wall, "speedup": alone / wall, "worker_seconds": spent}
        print(f"simulated, {workers:2d} workers: {wall:6.1f} s, {alone / wall:.1f} times faster, {spent:.0f} s of work")
    start = median(each["warm_2"] for each in rounds)
    print(f"no run is shorter than its longest model, {longest:.1f} s, and start-up, {start:.1f} s, comes on top")
    if options.json:
        figures = {
            "of_ceiling": of_ceiling,
            "rounds": rounds,
            "simulated": simulated,
            "seconds_of_start": start,
            "seeds_needed": needed,
            "seconds_of_models": {str(job["id"][-1]): job["seconds"] for job in jobs},
            "methods": list(METHODS),
            "machine": f"{platform.machine()}, CPU, one thread a worker",
            "versions": versions(),
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
