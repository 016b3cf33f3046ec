"""Does the poison come back in unlearned models? Planned power from a pilot, then every method.

The pilot forecasts, from seeds that no audit uses, how often the oracle passes the relearning audit; then
``pytest test_suites -m relearning`` audits every registered method and the oracle:

    python ci/benchmarks/relearning.py [--store DIR] [--json FILE] [--markdown FILE] [--pilot N] [--first 3000]
        [--task digits-mlp] [--poison indiscriminate ...] [--processes 2]

Without ``--poison`` it takes those that the task lists.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from harness import registry
from harness.cells import Trial
from harness.judging.claims import CLAIMS, Criterion
from harness.judging.plan import Plan
from harness.report.document import finite_tree, versions
from harness.studies.pilot import forecast_from
from harness.studies.study import Study
from harness.trials.lab import Lab

SUITES = Path(__file__).resolve().parents[2] / "test_suites"
TOLERANCE = 0.2


def pilot(store: Path, seeds: int, first: int, task: str, poisons: list[str]) -> list[dict[str, Any]]:
    """Return the forecast of every poison."""
    plan = Plan(futility=0, first=first)
    oracle = registry.resolve("unlearner", "retrain")
    cells = registry.cells([oracle], [registry.resolve("task", task)], poisons)
    study = Study(cells, Lab.open(store, device="cpu"), plan, TOLERANCE)
    found = []
    for cell in cells:
        study.evidence(cell, seeds)
        by_arm = [study.lab.relearned(Trial(cell, seed)) for seed in plan.numbers(seeds)]
        main = Criterion(cell.poison.value.measure, TOLERANCE)
        evidence = study._evidence(cell, CLAIMS["relearning"], main, seeds)
        forecast = forecast_from(main, evidence, cell.poison.id, plan)
        alone = {arm: fmean(each[arm].details["retained_alone"] for each in by_arm) for arm in "PRU"}
        draws = fmean(each["R"].details["sd_over_draws"] for each in by_arm)
        found.append(finite_tree({**asdict(forecast), "retained_alone": alone, "sd_over_draws_of_R": draws}))
        f, by_5, in_all = forecast, forecast.passes[5], forecast.passes[16]
        print(
            f"{cell.poison.id}: relearned P {f.poisoned:.3f}, R {f.retrained:.3f}, R' {f.oracle:.3f}; effect "
            f"{f.effect_sds:.1f} sd; power by 5 seeds {by_5:.3f}, in all {in_all:.3f}; on kept data alone "
            f"P {alone['P']:.3f}, R {alone['R']:.3f}",
            flush=True,
        )
    return found


def run(store: Path, result: Path, processes: int, task: str, poisons: list[str]) -> dict[str, Any]:
    """Return the JSON result of the audits."""
    command = [
        sys.executable, "-m", "pytest", str(SUITES), f"-n{processes}", "-m", "relearning or audit", "-k", "not budget",
        "--unlearner=all", "--unlearner=retrain", f"--audit-store={store}", f"--audit-json={result}",
        "--audit-futility=0", "-q", "-p", "no:cacheprovider", f"--task={task}",
        *(f"--poison={poison}" for poison in poisons),
    ]  # fmt: skip
    subprocess.run(command, check=False)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def markdown(audits: list[dict[str, Any]]) -> str:
    """Return the table: a row per method and poison."""
    lines = [
        "| method | poison | poison left | left after relearning | measure after relearning: U (P, R) | n |",
        "|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for each in audits:
        cells.setdefault((each["unlearner"], each["poison"]), {})[each["claim"]] = each
    for (method, poison), by in cells.items():
        static, again = by["poison"], by["relearning"]
        u, p, r = (fmean(again["values"][arm]) for arm in ("unlearned", "poisoned", "retrained"))
        lines.append(
            f"| `{method}` | {poison} | {_shown(static)} | {_shown(again)} | {u:.3f} ({p:.3f}, {r:.3f}) "
            f"| {len(again['seeds'])} |"
        )
    return "\n".join(lines) + "\n"


def _shown(audit: dict[str, Any]) -> str:
    low, high = audit["interval"]
    bounds = f"{low:.2f}, {high:.2f}" if low is not None and high is not None else "?"
    return f"{audit['verdict']} {audit['estimate']:.2f} [{bounds}]"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where to train; default a folder that is removed afterwards")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--pilot", type=int, default=10, help="seeds of the pilot; 0 for none")
    parser.add_argument("--first", type=int, default=3000, help="first seed of the pilot")
    parser.add_argument("--task", default="digits-cnn", help="what is learned")
    parser.add_argument("--poison", action="append", default=[], help="what is planted; may be repeated")
    parser.add_argument("--processes", type=int, default=2, help="workers that audit side by side")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        store = options.store or Path(temporary) / "store"
        where = options.task, options.poison
        forecasts = pilot(store, options.pilot, options.first, *where) if options.pilot else []
        audits = run(store, Path(temporary) / "result.json", options.processes, *where)["audits"]
    table = markdown(audits)
    print(table)
    if options.markdown:
        options.markdown.write_text(table)
    if options.json:
        kept = (
            "unlearner",
            "poison",
            "claim",
            "verdict",
            "reason",
            "estimate",
            "interval",
            "seeds",
            "values",
            "details",
        )
        figures = {
            "pilot": {"n": options.pilot, "first_seed": options.first, "forecasts": forecasts},
            "audits": [{name: each[name] for name in kept} for each in audits],
            "task": options.task,
            "machine": f"{platform.machine()}, {options.processes} workers, CPU",
            "versions": versions(),
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
