"""Kill workers and controllers of real runs, at random, and see that nothing that was finished is lost or done twice.

Each round has a store of its own. Runs with two workers are started on it; at random times a worker or the controller
is killed (SIGKILL); after a controller's death the next run goes on from the store. The last run of a round is left in
peace, and its audits must equal those of a run that nobody disturbed, but for seconds. After every kill the stored
records are listed; none may ever be written again:

    python ci/benchmarks/faults.py [--kills 50] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from harness.report.document import versions

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "test_suites"
KILLS_A_ROUND = 6
CONTROLLER = 0.25  # share of the kills


def command(folder: Path) -> list[str]:
    """Return the command of every run: three methods and the controls, on a task that trains in a second."""
    return [
        sys.executable, "-m", "pytest", str(SUITES), f"--ignore={SUITES}/test_contract.py", "-q", "-n2",
        "--task=tiny:Tiny:epochs=100", "--poison=backdoor:size=1", "--poison=gaussian", "--unlearner=gd",
        "--unlearner=scrub", "--unlearner=identity", "-p", "no:cacheprovider", f"--audit-store={folder / 'store'}",
        f"--audit-json={folder / 'result.json'}",
    ]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.Popen(command(folder), cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def judged(folder: Path) -> list[dict[str, Any]]:
    """Return the audits of the last run without what differs from run to run: times, and lines that name the store."""
    audits = json.loads((folder / "result.json").read_text())["audits"]
    for audit in audits:
        del audit["seconds"], audit["command"], audit["load"]
        audit["details"] = {name: value for name, value in audit["details"].items() if "seconds" not in name}
    return audits


def records(folder: Path) -> dict[str, int]:
    """Return when each stored record was written, by name."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("store/records/*/*.json")}


def phase(folder: Path) -> str:
    """Say in a word what the workers are at."""
    notes = [path.read_text() for path in folder.glob("store/progress/*/*.json")]
    for word, sign in (("unlearning", "gd,"), ("unlearning", "scrub,"), ("training", "pass"), ("between", "")):
        if any(sign in note for note in notes):
            return word
    return "starting"


def children(pid: int) -> list[int]:
    """Return the workers of a controller."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def disturb(folder: Path, chance: random.Random, kills: int, length: float, seen: Counter[str]) -> dict[str, int]:
    """Run and kill until so many kills were made; return the records that were there at some kill, by time."""
    kept: dict[str, int] = {}
    left = kills
    while left:
        run = start(folder)
        while left and run.poll() is None:
            time.sleep(chance.uniform(0.02, length / 2))
            workers = children(run.pid)
            if run.poll() is not None or not workers:
                continue
            of_controller = chance.random() < CONTROLLER
            at = phase(folder)
            os.kill(run.pid if of_controller else chance.choice(workers), signal.SIGKILL)
            seen[f"{'controller' if of_controller else 'worker'} while {at}"] += 1
            left -= 1
            kept = records(folder) | kept
        if left or run.poll() is None:
            run.wait()
    run.wait()
    return kept


def main() -> None:
    """Kill, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many in all")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    seen: Counter[str] = Counter()
    rewritten = different = rounds = 0
    with tempfile.TemporaryDirectory() as name:
        undisturbed = Path(name) / "undisturbed"
        undisturbed.mkdir()
        shutil.copy(ROOT / "tests" / "tiny.py", undisturbed)
        began = time.perf_counter()
        start(undisturbed).wait()
        length = time.perf_counter() - began
        expected = judged(undisturbed)
        while seen.total() < options.kills:
            folder = Path(name) / f"round{rounds}"
            folder.mkdir()
            shutil.copy(ROOT / "tests" / "tiny.py", folder)
            kills = min(KILLS_A_ROUND, options.kills - seen.total())
            kept = disturb(folder, random.Random(rounds), kills, length, seen)
            start(folder).wait()
            after = records(folder)
            rewritten += sum(after.get(record) != written for record, written in kept.items())
            different += judged(folder) != expected
            rounds += 1
            print(
                f"{seen.total()} kills, {rewritten} records rewritten, {different} of {rounds} rounds differ",
                flush=True,
            )
            shutil.rmtree(folder)
    for what, count in sorted(seen.items()):
        print(f"  {count:3d}  {what}")
    if options.json:
        figures = {
            "kills": dict(sorted(seen.items())),
            "rounds": rounds,
            "rounds_whose_audits_differ": different,
            "records_written_again": rewritten,
            "machine": f"{platform.machine()}, 2 workers, CPU",
            "versions": versions(),
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(bool(rewritten or different))


if __name__ == "__main__":
    main()
