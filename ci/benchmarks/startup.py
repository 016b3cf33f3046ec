"""What a run costs beside its trainings: CPU seconds of whole processes, theirs and their children's.

``warm``: everything of an audit of scrub on digits-cnn is stored, so that the run reads, judges and reports.
``cold``: a fresh store, and a task that trains in milliseconds (three seeds), so that nearly all is start-up. Checkouts
that are compared take turns:

    python ci/benchmarks/startup.py NAME=CHECKOUT[,PYTHON[,WARM_STORE]] [...] [--rounds 5] [--json FILE]

torch imports its compiler, ``torch._dynamo``, at the first optimiser, which is a third of a cold start. It cannot be put
off soundly: every step of an optimiser of torch imports it and calls into it (``_use_grad_for_differentiable``).

A warm store that is not given is made first, which takes minutes. The task of ``cold`` is ``tests/tiny.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

WARM = ("--unlearner=scrub",)
TINY = ("--task=tiny:Tiny", "--poison=backdoor:size=1", "--audit-seeds=3")
COLD = ("--unlearner=gd", *TINY, "--ignore=test_suites/test_contract.py")


@dataclass(frozen=True)
class Checkout:
    """A version of the project, the Python that has it installed, and a store with everything that is audited."""

    name: str
    folder: Path
    python: str
    store: str

    @classmethod
    def of(cls, text: str) -> Checkout:
        name, _, rest = text.partition("=")
        folder, python, store, *_ = [*rest.split(","), "", ""]
        return cls(name, Path(folder).resolve(), python or sys.executable, store)

    def run(self, store: str, *arguments: str) -> float:
        """Run pytest on the suites; return the CPU seconds that it took."""
        before = os.times()
        command = [self.python, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider"]
        paths = os.pathsep.join(map(str, (self.folder, self.folder / "tests")))
        done = subprocess.run(
            [*command, "test_suites", f"--audit-store={store}", "--audit-device=cpu", *arguments], cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        after = os.times()
        if done.returncode not in (0, 1):  # 1: an audit failed, as it may
            raise SystemExit(done.stdout + done.stderr)
        return after.children_user + after.children_system - before.children_user - before.children_system


def versions(python: str) -> dict[str, str]:
    """Return the versions that one Python sees."""
    said = "dict(python=platform.python_version(), torch=torch.__version__, pytest=pytest.__version__)"
    code = f"import json, platform, pytest, torch; print(json.dumps({said}))"
    return dict(json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout))


def main() -> None:
    """Measure and print; write if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Checkout.of)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, dict[str, list[float]]] = {each.name: {"warm": [], "cold": []} for each in options.checkouts}
    with tempfile.TemporaryDirectory() as folder:
        stores = {each.name: each.store or f"{folder}/{each.name}" for each in options.checkouts}
        for each in options.checkouts:
            each.run(stores[each.name], *WARM)  # makes what is missing, and has modules compiled
        for number in range(options.rounds):
            for each in options.checkouts:
                seconds[each.name]["warm"].append(each.run(stores[each.name], *WARM))
                seconds[each.name]["cold"].append(each.run(f"{folder}/{each.name}-{number}", *COLD))
    summary = {
        name: {kind: {"mean": fmean(of), "sd": stdev(of), "seconds": of} for kind, of in by_kind.items()}
        for name, by_kind in seconds.items()
    }
    for name, by_kind in summary.items():
        for kind, of in by_kind.items():
            print(f"{name} {kind}: {of['mean']:.2f} s (sd {of['sd']:.2f}, n = {options.rounds})")
    about: dict[str, Any] = {"machine": platform.machine(), "cpus": os.cpu_count(), "system": platform.platform()}
    about |= {"n": options.rounds, "unit": "CPU seconds", "load": os.getloadavg()[0]}
    about |= versions(options.checkouts[0].python)
    if options.json:
        options.json.write_text(json.dumps({"run": about, "results": summary}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
