"""Does every poison bite hard enough, and what does it cost to make? A pilot on seeds that no audit uses.

For each task and poison, over the seeds of the pilot: the measure of P, R and R', the effect P - R in standard
deviations over seeds of P - R and of R' - R, the oracle's planned power, and the time of planting as a multiple of one
training, with and without the surrogates that it takes.

    python ci/benchmarks/bite.py [--on TASK=POISON …] [--seeds 10] [--first 3000] [--store DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from harness import registry
from harness.cells import Cell, Trial
from harness.report.document import finite_tree, versions
from harness.studies.pilot import Forecast, plan_study
from harness.trials.lab import Lab

ON = (
    "digits-cnn=backdoor",
    "digits-cnn=gaussian",
    "digits-cnn=confusion",
    "digits-cnn=targeted",
    "digits-mlp=indiscriminate",
)


def pilot(task: str, poison: str, seeds: range, store: Path, data: Path | None) -> dict[str, Any]:
    """Return what the pilot of one poison on one task says."""
    forecasts = plan_study(task, poison, seeds=len(seeds), first=seeds[0], store=store, data=data)
    cell = Cell(*(registry.resolve(*each) for each in (("unlearner", "retrain"), ("task", task), ("poison", poison))))
    lab = Lab.open(store, data=data)
    arms = [lab.run(Trial(cell, seed)).readings["poison"] for seed in seeds]
    details = {
        name: {
            label: fmean(by[arm].details[name] for by in arms) for arm, label in (("P", "P"), ("R", "R"), ("U", "R'"))
        }
        for name in arms[0]["P"].details
    }
    return {
        "task": cell.task.id,
        "poison": cell.poison.id,
        "fields": dict(cell.poison.fields),
        "forecasts": [finite_tree(asdict(forecast)) for forecast in forecasts],
        "power": {forecast.measure: forecast.power for forecast in forecasts},
        "details": finite_tree(details),
        "crafting": crafting(store, {Trial(cell, seed).id for seed in seeds}),
    }


def crafting(store: Path, trials: set[str]) -> dict[str, float]:
    """Return what planting took, as multiples of one training; medians over the trials, from the store's records."""
    records = [json.loads(path.read_bytes())["record"] for path in store.glob("records/*/*.json")]
    ours = [record for record in records if record["made"]["trial"] in trials]
    training = median(r["made"]["seconds"] for r in records if "retained" in r["of"] and "method" not in r["of"])
    planting, alone = [], []
    for planted in (record for record in ours if record["kind"] == "planted"):
        surrogates = [
            r["made"]["seconds"]
            for r in ours
            if "surrogate" in r["of"] and r["made"]["trial"] == planted["made"]["trial"]
        ]
        planting.append(planted["made"]["seconds"] / training)
        alone.append((planted["made"]["seconds"] - sum(surrogates)) / training)
    return {
        "seconds_of_one_training": training,
        "trainings_with_surrogates": median(planting),
        "trainings_without_surrogates": median(alone),
    }


def row(found: dict[str, Any]) -> str:
    """Return a line of the table."""
    f = Forecast(**{**found["forecasts"][0], "passes": {}})
    passes = found["forecasts"][0]["passes"]
    stands_out = "∞" if f.effect_sds is None else f"{f.effect_sds:.1f}"  # every seed has the same effect
    noise = f"{abs(f.effect) / f.noise:.0f}" if f.noise else "∞"
    made = found["crafting"]
    hit = found["details"].get("fraction_hit")
    beside = " (hit " + " / ".join(f"{share:.2f}" for share in hit.values()) + ")" if hit else ""
    return (
        f"| `{found['poison']}` on `{found['task']}` | {f.measure} "
        f"| {f.poisoned:.3f} / {f.retrained:.3f} / {f.oracle:.3f}{beside} | {stands_out} | {noise} "
        f"| {passes[5]:.3f} / {passes[16]:.3f} "
        f"| {made['trainings_without_surrogates']:.2f} / {made['trainings_with_surrogates']:.2f} |"
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--on", nargs="+", default=ON, metavar="TASK=POISON", help="what to measure")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of the pilot")
    parser.add_argument("--first", type=int, default=3000, help="first seed of the pilot")
    parser.add_argument("--store", type=Path, help="where models are kept; default a folder that is removed afterwards")
    parser.add_argument("--data", type=Path, help="data sets, as --audit-data")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    seeds = range(options.first, options.first + options.seeds)
    print("| poison | measure | P / R / R' | effect/sd(P−R) | effect/sd(R'−R) | power by 5 / 16 seeds ", end="")
    print("| crafting, in trainings: without / with surrogates |\n|---|---|---|---|---|---|---|")
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for each in options.on:
            task, _, poison = each.partition("=")
            # Poisons of one size share retrained models; what is crafted is timed with surrogates of its own.
            crafted = getattr(registry.resolve("poison", poison).value, "crafted", False)
            folder = (options.store or Path(temporary)) / (each if crafted else task)
            found.append(pilot(task, poison, seeds, folder, options.data))
            print(row(found[-1]), flush=True)
    if options.json:
        figures = {
            "pilot": {"n": len(seeds), "first_seed": seeds[0]},
            "machine": f"{platform.machine()}, {'GPU' if torch.cuda.is_available() else '1 thread, CPU'}",
            "versions": versions(),
            "poisons": found,
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
