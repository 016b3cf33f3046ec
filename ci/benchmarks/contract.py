"""How often the contract accuses a sound method, and how long it takes.

Every method of ours is examined on the edge cases and on many requests that hypothesis draws. Methods that are known to
be sound break no line: each line that one breaks is a false alarm. CPU seconds, after everything is imported:

    python ci/benchmarks/contract.py [--requests 200] [--unlearner NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from harness import registry
from harness.cells import Registered
from harness.contract import checks
from harness.contract.checks import CHECKS
from harness.contract.lines import LINES, BrokenContract, NotExamined
from harness.contract.requests import generated
from harness.contract.watching import Examination
from harness.report.document import versions

BUDGET, EPOCHS = 2.0, 20  # as on digits-cnn, 10 % of retraining


def examine(method: Registered, requests: int) -> dict:
    """Examine a method on all lines, each on so many generated requests; return what was found."""
    watched = Examination(method, BUDGET, EPOCHS)
    alarms, unknown = {}, {}
    checks.GENERATED = requests
    started = time.process_time()
    for line in LINES:
        try:
            CHECKS[line](watched, line)
        except BrokenContract as error:
            alarms[line] = error.explain()
        except NotExamined as reason:
            unknown[line] = str(reason)
    seconds = time.process_time() - started
    cases = generated(requests)
    return {
        "lines": len(LINES),
        "alarms": alarms,
        "not_examined": unknown,
        "requests": len(cases),
        "refused": sum(watched.good(case) is None for case in cases),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="requests that are generated for every line")
    parser.add_argument("--unlearner", action="append", help="a method; default all of ours. Repeatable")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    usual = checks.GENERATED
    examine(registry.resolve("unlearner", "gd"), usual)  # imports, and the models of the requests: once in a process
    print(f"{'method':<28}{'alarms':>8}{'refused':>12}{'seconds':>9}{f'with {usual}':>10}")
    methods = {}
    for method in registry.resolve_all("unlearner", options.unlearner or ["all"]):
        found = examine(method, options.requests)
        found["seconds_as_tested"] = examine(method, usual)["seconds"]
        methods[method.id] = found
        print(
            f"{method.id:<28}{len(found['alarms']):>5}/{found['lines']}{found['refused']:>8}/{found['requests']}"
            f"{found['seconds']:>9.1f}{found['seconds_as_tested']:>10.2f}",
            flush=True,
        )
        for text in found["alarms"].values():
            print(text)
    figures = {
        "false_alarms": sum(len(found["alarms"]) for found in methods.values()),
        "lines_examined": sum(found["lines"] - len(found["not_examined"]) for found in methods.values()),
        "requests_per_method": options.requests,
        "requests_as_tested": usual,
        "methods": methods,
        "machine": f"{platform.machine()}, 1 thread, CPU",
        "versions": versions(),
    }
    print(f"{figures['false_alarms']} false alarms in {figures['lines_examined']} lines of {options.requests} requests")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
