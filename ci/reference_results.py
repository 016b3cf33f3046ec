"""The reference results: a bundle without models for each method on each task, which the site makes its table of.

    python ci/reference_results.py --task=digits-cnn --store=DIR [--unlearner=SPEC ...] [--sign=KEY]

Each bundle is what ``pytest-unlearning submit --without-models`` writes, so it names the versions and the machine, and
anybody can verify it. A bundle that is there, of the same sources, versions and plan, is not made again: name the same
folders to go on after an interruption. A method that cannot be submitted, because it breaks the contract or is not for
the task, is listed in ``left_out.json`` with the reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import registry
from harness.api import UnlearningError
from harness.bundles.bundle import opened
from harness.bundles.made import sources_of
from harness.cells import Registered
from harness.cli.store import in_bytes
from harness.report.document import versions, worst_of, write_json

HERE = Path(__file__).resolve().parent


def main(words: Sequence[str] | None = None) -> None:
    """Make what is missing, and print a line for each bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", required=True, metavar="SPEC", help="task; repeatable")
    parser.add_argument("--unlearner", action="append", metavar="SPEC", help="method; repeatable; default all")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="where models are kept meanwhile")
    parser.add_argument("--out", type=Path, default=HERE / "results", metavar="DIR", help="default %(default)s")
    parser.add_argument("--plan", choices=("quick", "reliable"), default="quick", help="default %(default)s")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="key of OpenSSH")
    parser.add_argument("--workers", metavar="N", help="worker processes (pytest's -n)")
    options = parser.parse_args(words)

    methods = registry.resolve_all("unlearner", options.unlearner or ["all"])
    wanted = [(task, method) for task in options.task for method in methods]
    for i, (task, method) in enumerate(wanted, 1):
        print(f"[{i}/{len(wanted)}] {method.id} on {task}: {make(task, method, options)}", flush=True)


def make(task: str, method: Registered, options: argparse.Namespace) -> str:
    """Make the bundle of a method on a task if it is missing; return what became of it, in words."""
    folder = options.out / named(task)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.glob(f"{named(method.id)}-????-??-??.zip")):
        if stands(file, method, options.plan):
            return f"is there, {file.name}"
    file = folder / f"{named(method.id)}-{time.strftime('%Y-%m-%d', time.gmtime())}.zip"
    command = [sys.executable, "-m", "harness", "submit", "--without-models", f"--unlearner={method.id}"]
    command += [f"--task={task}", f"--store={options.store}", f"--out={file}"]
    command += [f"--sign={options.sign}"] if options.sign else []
    command += [f"--workers={options.workers}"] if options.workers else []
    started = time.monotonic()
    done = subprocess.run([*command, "--", f"--audit-plan={options.plan}"], capture_output=True, text=True, check=False)
    left_out = folder / "left_out.json"
    reasons = json.loads(left_out.read_text(encoding="utf-8")) if left_out.exists() else {}
    if done.returncode:
        reasons[method.id] = reason(done)
        write_json(left_out, reasons)
        return f"left out: {reasons[method.id]}"
    if reasons.pop(method.id, None):
        write_json(left_out, reasons)
    with tempfile.TemporaryDirectory() as place:
        audits = opened(file, Path(place), None).document["audits"]
    return f"{worst_of(audits)}, {time.monotonic() - started:.0f} s, {in_bytes(file.stat().st_size)}, {file.name}"


def stands(file: Path, method: Registered, plan: str) -> bool:
    """Return whether a bundle is what would be made now: of the same sources, versions and plan."""
    with tempfile.TemporaryDirectory() as place:
        try:
            bundle = opened(file, Path(place), None)
        except UnlearningError:
            return False
        document = bundle.document
        of = {each["name"]: each["source_sha256"] for each in document["unlearners"]}
        run = document["run"]
        same = of == {method.id: method.source} and run["versions"] == versions() and run["settings"]["plan"] == plan
        return same and bundle.made.sources == sources_of(document)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return why a submission failed: what the command said last, or pytest before it."""
    said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    found = re.findall(r"^(?:E +|ERROR: |.*UsageError: )(.*)$", done.stdout + done.stderr, re.MULTILINE)
    last = said[-1].partition(": error: ")[2] if said else ""
    return found[-1] if "pytest did not finish" in last and found else last or f"exit code {done.returncode}"


def named(spec: str) -> str:
    """Return a spec as the name of a file or folder."""
    return re.sub(r"[^\w.-]+", "_", spec)


if __name__ == "__main__":
    main()
