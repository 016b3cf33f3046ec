"""An audit on CIFAR-10 that ends in a given time, and goes on another day."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from gpu.bench import ROOT, WHOLE, Bench, require, run_pytest, tail
from gpu.speed import throughput

from harness.report.document import write_text
from harness.store.files import files_at
from harness.store.inventory import Inventory

YARDSTICKS = ("examples", "flops", "cpu_seconds")


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
        done = run_pytest(
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
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{tail(done)}")
    found = json.loads(result.read_text(encoding="utf-8"))
    verdicts: dict[str, dict[str, Any]] = {}
    for each in found["audits"]:
        of = verdicts.setdefault(f"{each['unlearner']} {each['poison']}", {})
        of[each["claim"]] = {name: each[name] for name in ("verdict", "reason", "estimate", "interval")}
    every = {claim["verdict"] for of in verdicts.values() for claim in of.values()}
    require(bool(every) and "ERROR" not in every, f"verdicts {sorted(every)}:\n{tail(done)}")
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
