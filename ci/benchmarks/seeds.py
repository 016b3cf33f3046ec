"""How many trainings the seed plan saves, and which verdicts it changes.

Trains everything that 16 seeds of every registered method take on digits-cnn, in one process, then judges the same
evidence by the plan and at fixed numbers of seeds, once, at the whole error rate. A cell's trainings are counted as if
its method were audited alone: P, R and R' of every seed that the judgement takes, and the unlearning beside them. The
harness goes on until each of a cell's audits is decided or given up; the cell as a whole is decided sooner, by its
first FAIL. "to the end" is the plan that gives nothing up:

    python ci/benchmarks/seeds.py [--store DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness import registry
from harness.api import Outcome
from harness.cells import Cell
from harness.judging.claims import Criterion
from harness.judging.intersection import judge_all
from harness.judging.plan import LOOKS, Plan
from harness.judging.verdict import Evidence
from harness.report.document import versions
from harness.statistics import equivalence_paired, exact_null, retention
from harness.studies.study import Study
from harness.trials.lab import Lab

TASK = "digits-cnn"
TOLERANCE = 0.2
FIXED = (10, 16)
MODELS = 3  # trained for each seed of a cell: P, R and R'


def fixed(claim: Mapping[Criterion, Evidence], n: int) -> Outcome:
    """Judge all traces of a claim once, on its first seeds: all must pass."""
    outcomes = [fixed_trace(criterion, evidence, n) for criterion, evidence in claim.items()]
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if set(outcomes) == {Outcome.PASS} else Outcome.INCONCLUSIVE


def fixed_trace(claim: Criterion, evidence: Evidence, n: int) -> Outcome:
    """Judge one trace once, on its first seeds."""
    here = evidence.first(n)
    if claim.measure.test == "retention":
        worse = 1 if claim.measure.worse == "higher" else -1
        return retention(
            here.poisoned, here.retrained, here.unlearned, tau=claim.margin, direction=worse, sd_floor=here.resolution
        ).outcome
    if claim.measure.test == "exact-null":
        return exact_null(here.poisoned, here.retrained, here.unlearned).outcome
    return equivalence_paired(
        here.unlearned, here.retrained, -claim.margin, float("inf"), sd_floor=here.resolution
    ).outcome


def row(study: Study, cell: Cell) -> dict[str, Any]:
    """Return what the plan and fixed numbers of seeds say of a cell, and what each takes."""
    evidence = study.evidence(cell, LOOKS[-1])
    verdicts = {name: study.verdict(cell, name) for name in evidence}
    said = {name: {"plan": verdict.outcome.value} for name, verdict in verdicts.items()}
    through = {}
    for name, claim in evidence.items():
        through[name] = judge_all(tuple(claim), tuple(claim.values()), Plan(futility=0))
        said[name]["to the end"] = through[name].outcome.value
        said[name] |= {f"fixed {n}": fixed(claim, n).value for n in FIXED}
    seeds = study._seeds_used(cell)  # the oracle's included, for which a verdict may have had to wait
    failed = [len(verdict.seeds) for verdict in verdicts.values() if verdict.outcome is Outcome.FAIL]
    return {
        "method": cell.unlearner.id,
        "poison": cell.poison.id,
        "seeds": seeds,
        "seeds_to_the_end": max(judgement.looked for judgement in through.values()),
        "seeds_of_the_cell": min(failed, default=seeds),
        "verdicts": said,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where to train; default a folder that is removed afterwards")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    methods = registry.resolve_all("unlearner", ["all"])
    cells = registry.cells(methods, [registry.resolve("task", TASK)])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        study = Study(cells, Lab.open(options.store or temporary, device="cpu"), Plan(), TOLERANCE)
        for cell in cells:
            rows.append(row(study, cell))
            print(f"{cell.id}: {rows[-1]['seeds']} seeds", flush=True)
    taken = sum(each["seeds"] for each in rows)
    fewer = {f"fixed {n}": 1 - taken / (n * len(rows)) for n in FIXED}
    to_the_end, of_cells = (sum(each[name] for each in rows) for name in ("seeds_to_the_end", "seeds_of_the_cell"))
    longer = {f"fixed {n}": 1 - to_the_end / (n * len(rows)) for n in FIXED}
    sooner = {f"fixed {n}": 1 - of_cells / (n * len(rows)) for n in FIXED}
    differ = [
        {"method": each["method"], "poison": each["poison"], "measure": name, **said}
        for each in rows
        for name, said in each["verdicts"].items()
        if len(set(said.values())) > 1
    ]
    print(f"{taken} seeds for {len(rows)} cells: {taken * MODELS} trainings and {taken} unlearnings")
    for name, share in fewer.items():
        print(
            f"against {name}: {100 * share:.0f} % fewer; {100 * longer[name]:.0f} % if nothing is given up; "
            f"{100 * sooner[name]:.0f} % until the cell is decided"
        )
    print(f"{len(differ)} verdicts differ:")
    for each in differ:
        print("  " + "  ".join(map(str, each.values())))
    if options.json:
        figures = {
            "seeds": taken,
            "cells": len(rows),
            "trainings": taken * MODELS,
            "fewer_trainings": fewer,
            "fewer_if_nothing_is_given_up": longer,
            "fewer_until_the_cell_is_decided": sooner,
            "differ": differ,
            "rows": rows,
            "machine": f"{platform.machine()}, 1 thread, CPU",
            "versions": versions(),
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
