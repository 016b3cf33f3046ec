"""How near honest methods come to the retrained model, against how near the poisoned and a second retrained one are.

Runs trials over blocks of seeds, each block in a seed range of its own, and prints for each task and method the
smallest ratio over blocks: the nearest of the method's models, by weights and by scores, over the nearest of the
others. `harness.trials.nearness.NEAR` must lie well below all of them. It also adds noise to the retrained model, at
several sizes, and says which of these copies would be refused. What is stored is not computed again:

    python ci/benchmarks/nearness.py --store DIR [--blocks 24] [--first-seed 0] [--tasks digits-cnn digits-mlp]
        [--methods all identity short] [--size 16] [--data DIR] [--json FILE]

FILE keeps what it says of other tasks.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import registry
from harness.cells import Cell, Registered, Trial
from harness.report.document import versions
from harness.trials.lab import Lab
from harness.trials.nearness import NEAR, nearest, nearness

#: Noise that is added to every parameter of R, as a share of the parameter's own root mean square.
NOISE = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
CONTROLS = ("identity", "short")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=16, help="seeds in a block")
    parser.add_argument("--tasks", nargs="+", default=["digits-cnn", "digits-mlp"])
    parser.add_argument("--methods", nargs="+", default=["all", *CONTROLS])
    parser.add_argument("--poisons", nargs="*", default=[])
    parser.add_argument("--data", type=Path, help="data sets, for tasks that read files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lab = Lab.open(options.store, data=options.data, device="cpu", run="nearness")
    methods = registry.resolve_all("unlearner", options.methods)
    found: dict[str, Any] = {}
    for task in registry.resolve_all("task", options.tasks):
        cells = registry.cells(methods, [task], options.poisons)
        lab.will_need(cells)
        for block in range(options.blocks):
            first = options.first_seed + block * options.size
            for name, ratios in block_of(lab, cells, range(first, first + options.size)):
                rows = found.setdefault(task.id, {}).setdefault(name, {measure: [] for measure in NEAR})
                for measure, ratio in ratios.items():
                    rows[measure].append(ratio)
            show(task.id, found[task.id], block + 1)
            if options.json:
                write(options, task.id, found[task.id], block + 1)


def block_of(lab: Lab, cells: list[Cell], seeds: range) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (method, the smallest ratio of a block by measure) for each cell, and the largest for R with noise."""
    oracle = registry.resolve("unlearner", "retrain")
    second: dict[Registered, list[Mapping[str, Mapping[str, float]]]] = {}
    for cell in cells:
        retrained = Cell(oracle, cell.task, cell.poison)
        if cell.poison not in second:
            beside = second[cell.poison] = [lab.run(Trial(retrained, seed)).nearness for seed in seeds]
            for size in NOISE:
                noisy = [{"P": of["P"], "U": with_noise(lab, Trial(retrained, seed), size)}
                         for seed, of in zip(seeds, beside, strict=True)]  # fmt: skip
                yield f"R + {size:g} noise", {m: max(ratio(m, of, beside) for of in noisy) for m in NEAR}
        own = [lab.run(Trial(cell, seed)).nearness for seed in seeds]
        yield cell.unlearner.id, {m: min(ratio(m, of, second[cell.poison]) for of in own) for m in NEAR}


def ratio(
    measure: str, of: Mapping[str, Mapping[str, float]], oracle: Sequence[Mapping[str, Mapping[str, float]]]
) -> float:
    """Return what `NEAR` is a limit of."""
    return of["U"][measure] / nearest(measure, of, oracle)


def with_noise(lab: Lab, trial: Trial, size: float) -> dict[str, float]:
    """Return how near a copy of R is that noise was added to."""
    task = trial.cell.task
    retrained = lab.model(task, lab.models(trial)["R"])
    model = copy.deepcopy(retrained)
    generator = torch.Generator().manual_seed(trial.seed)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = torch.randn(parameter.shape, generator=generator)
            parameter.add_(draw * size * parameter.square().mean().sqrt())
    return nearness(task.value, model, retrained, lab.split(task).test)


def show(task: str, rows: dict[str, dict[str, list[float]]], blocks: int) -> None:
    """Print the smallest ratio over blocks, by method; of R with noise the largest."""
    print(f"{task}, {blocks} blocks: smallest ratio to the nearest of the oracle's models (limits {NEAR})")
    for name, by in rows.items():
        of = max if name.startswith("R +") else min
        said = "  ".join(f"{measure} {of(values):8.4f}" for measure, values in by.items())
        caught = name.startswith("R +") and any(max(values) < NEAR[measure] for measure, values in by.items())
        print(f"  {name:20s} {said}{'  refused' if caught else ''}", flush=True)


def write(options: argparse.Namespace, task: str, ratios: dict[str, Any], blocks: int) -> None:
    """Write the ratios of a task by method and measure, one for each poison of each block."""
    before = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    place = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    asked = {"blocks": blocks, "first_seed": options.first_seed, "size": options.size, "poisons": options.poisons}
    entry = {"versions": versions(), **place, **asked, "limits": dict(NEAR), "ratios": ratios}
    text = json.dumps({**before, task: entry}, indent=1)
    options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
