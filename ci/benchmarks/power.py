"""Does every poison bite hard enough? Planned power of the oracle, from a pilot on seeds that no audit uses.

python ci/benchmarks/power.py [--task digits-cnn] [--seeds 12] [--first 2000] [--store DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

from harness.planning import plan_study
from harness.report import finite_tree, versions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits-cnn", help="spec of the task")
    parser.add_argument("--poison", action="append", help="spec of a poison; default those the task lists")
    parser.add_argument("--seeds", type=int, default=12, help="seeds of the pilot")
    parser.add_argument("--first", type=int, default=2000, help="first seed of the pilot")
    parser.add_argument("--store", type=Path, help="where models are kept")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    forecasts = plan_study(
        options.task, options.poison, seeds=options.seeds, first=options.first, store=options.store
    )  # fmt: skip
    looks = "  ".join(f"{f'by {n}':>5s}" for n in forecasts[0].passes)
    print(f"poison     measure          P      R      R'     effect/sd(P-R)  sd(R'-R)  PASS {looks}  seeds")
    for f in forecasts:
        passes = "  ".join(f"{p:5.3f}" for p in f.passes.values())
        print(
            f"{f.poison:10s} {f.measure:15s} {f.poisoned:6.3f} {f.retrained:6.3f} {f.oracle:6.3f}  {f.effect_sds:13.1f}"
            f"  {f.noise:8.4f}      {passes}   {f.mean_seeds:4.1f}"
        )
    if options.json:
        figures = {
            "task": options.task,
            "pilot": {"n": options.seeds, "first_seed": options.first},
            "machine": f"{platform.machine()}, CPU",
            "versions": versions(),
            "forecasts": [finite_tree(asdict(f)) for f in forecasts],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
