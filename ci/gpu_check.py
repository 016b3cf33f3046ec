"""Check whether a machine with a GPU is fast enough for full-size audits. Can write the results as JSON.

    python ci/gpu_check.py [--data DIR] [--json FILE]                  on a machine with a GPU, in 4 minutes
    python ci/gpu_check.py --part audit --minutes 8 --store DIR        begin a longer audit, or go on with it
    python ci/gpu_check.py --device cpu --quick                        the same code on tiny models, on any machine

The parts run one after another. If a part fails, its error is written to the JSON, the other parts still run, and the
exit code is 1. Where steps of a part were not recorded, the JSON says why:

    tests       the tests that can run on a chosen device (tests/runs/test_ci_scripts.py -k on_device)
    matmul      bf16 matrix products: the rate that the device reaches, in TFLOP/s
    together    the largest difference between the weights of models trained in a group, alone, and unrecorded
    digits      seconds to train digits-cnn: unrecorded, recorded, and recorded in groups
    throughput  training of cifar10-resnet18 in the same ways: images/s, memory, FLOP/s as a share of matmul's rate
    language    training of a GPT-2 with 355M randomly initialised parameters: tokens/s, memory, the same share; as a
                classifier, with noise on the embeddings of one review in ten, and as a causal model
    brew        one targeted poison: how long crafting takes, and whether every pixel changes by at most eps
    audit       pytest test_suites on CIFAR-10: scrub, gd, neggrad_plus and short against three poisons, with as many
                epochs as are expected to fit in two thirds of --minutes, from 5 to 100; after --minutes it is stopped

An audit that was stopped is an error that says how many models it left. With --store DIR they stay in DIR, with the
number of epochs, so that the same command goes on where it was. DIR can be copied to another machine.

Without --data, the script generates images and reviews in the layout of the real data sets. Their classes are easy to
tell apart. So times are meaningful, and accuracies are not. Figures from a CPU say nothing about a GPU; the JSON states
that a CPU was used.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from gpu.auditing import audit
from gpu.bench import LARGE, QUICK, Bench
from gpu.generated import generate
from gpu.soundness import brew, tests, together
from gpu.speed import digits, language, matmul, throughput
from reproduce.machine import describe

from harness.api import UnlearningError
from harness.training.engine import StepsNotRecorded
from harness.trials.devices import device_of, kind_of_device

PARTS: tuple[Callable[[Bench], dict[str, Any]], ...] = (
    tests, matmul, together, digits, throughput, language, brew, audit,
)  # fmt: skip


def check(bench: Bench, names: list[str]) -> list[dict[str, Any]]:
    """Run the parts; return what each found, or its error."""
    found = []
    for part in PARTS:
        if part.__name__ not in names:
            continue
        print(f"{part.__name__} …", flush=True)
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", StepsNotRecorded)
            try:
                entry = {"ok": True, "result": part(bench)}
            except Exception as error:  # whatever it is: the other parts are worth having
                entry = {"ok": False, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        unrecorded = [str(each.message) for each in said if issubclass(each.category, StepsNotRecorded)]
        entry |= {"not_recorded": sorted(set(unrecorded)), "seconds": time.perf_counter() - started}
        entry = {"name": part.__name__, **entry}
        print(f"  {'ok' if entry['ok'] else 'FAILED'} after {entry['seconds']:.0f} s: {_shown(entry)}", flush=True)
        found.append(entry)
    return found


def _shown(entry: dict[str, Any]) -> str:
    if not entry["ok"]:
        return str(entry["error"])
    numbers = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in entry["result"].items()}
    shown = ", ".join(f"{name} {value}" for name, value in numbers.items())
    return "; ".join([shown, *entry["not_recorded"]])


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        "gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.__name__ for part in PARTS]
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="device to check; default cuda")
    add("--quick", action="store_true", help="use tiny sizes, only to see whether the code runs")
    add("--part", action="append", choices=names, help="run only this part; can be repeated")
    add(
        "--data", metavar="DIR", type=_folder, help="CIFAR-10 in DIR/cifar10, IMDb in DIR/imdb; default: generated data"
    )
    add("--minutes", metavar="M", type=_minutes, help="stop the audit after M minutes; default: what is left of 4")
    add("--store", metavar="DIR", type=Path, help="keep the audit's models in DIR; default: delete them at the end")
    add("--json", metavar="FILE", type=Path, help="write the results to FILE")
    options = parser.parse_args()
    options.part = options.part or names
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no directory for {options.json}")
    return options


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a valid number of minutes")
    return minutes


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return Path(text).resolve()


def main() -> int:
    """Check, print and write; return the exit code."""
    options = parse()
    try:
        device = device_of(kind_of_device(options.device))
    except UnlearningError:
        print("gpu_check: no GPU can be used here; --device=cpu runs the same code on the CPU", file=sys.stderr)
        return 2
    if device.type == "cpu":
        torch.set_num_threads(1)
    size = QUICK if options.quick else LARGE
    started, began = time.time(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.data is None and set(options.part) - {"tests", "matmul", "digits"}:
            generate(folder, size)
        store = (options.store or folder / "store").resolve()
        bench = Bench(device, size, options.data or folder, folder, options.minutes, store, began)
        parts = check(bench, options.part)
    document = {
        "schema": 1,
        "ok": all(part["ok"] for part in parts),
        "note": "measured on the CPU: this shows that the code runs, and says nothing about a GPU"
        if device.type == "cpu"
        else "",
        **describe(device),
        "quick": options.quick,
        "size": asdict(size),
        "data": "generated" if options.data is None else "given",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": time.time() - started,
        "parts": parts,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    failed = [part["name"] for part in parts if not part["ok"]]
    print(f"{len(parts) - len(failed)} of {len(parts)} parts are fine on {document['device']['name']} ({device.type})")
    if document["note"]:
        print(document["note"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
