"""What does the second margin of retention cost, and does it keep its error rates? By simulation.

    python ci/benchmarks/two_sided.py [--runs 4000] [--json FILE]

Methods on either margin, where PASS and FAIL are both wrong, and the oracle go through the plan twice: with both
margins (tau_over = tau), and with the upper one alone (tau_over = inf). Nothing is given up, so every error shows.
Measures are normal, seeds vary by 1, arms share half their variance; "wild" methods vary by 40, which is more than the
distance between the margins. The levels are those of a cell with one judged audit, the least strict ones.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from harness.api import Measure, Outcome
from harness.judging.claims import Criterion
from harness.judging.judge import judge
from harness.judging.plan import LOOKS, MIN_PASS, Plan
from harness.judging.verdict import Evidence
from harness.report.document import versions
from harness.statistics import clopper_pearson, rejects, retention

TAU = 0.2
PLAN = Plan(futility=0)
CRITERION = Criterion(Measure("simulated", "simulated", worse="higher", test="retention"), TAU)
EFFECTS = (4.0, 6.0, 8.0, 10.0)
#: Retained fraction, and standard deviation of the unlearned models over seeds.
METHODS = {
    "oracle": (0.0, 1.0), "upper margin": (TAU, 1.0), "lower margin": (-TAU, 1.0), "wild, upper margin": (TAU, 40.0),
    "wild, lower margin": (-TAU, 40.0), "half left": (0.5, 1.0), "reflected": (-1.0, 1.0), "identity": (1.0, 1.0),
}  # fmt: skip


def draw(generator: np.random.Generator, runs: int, effect: float, kappa: float, spread: float) -> np.ndarray:
    """Return (runs, 3, 16): P, R and U."""
    shared = generator.normal(size=(runs, 1, LOOKS[-1]))
    own = generator.normal(size=(runs, 3, LOOKS[-1])) * np.array([1.0, 1.0, spread]).reshape(1, 3, 1)
    means = np.array([effect, 0.0, kappa * effect]).reshape(1, 3, 1)
    return means + np.sqrt(0.5) * (shared + own)


def by_plan(p: tuple, r: tuple, u: tuple, tau_over: float) -> tuple[Outcome, int]:
    """Go through the looks of the plan as `judge` does with a perfect oracle, with a lower margin of its own."""
    bites = False
    for n in PLAN.looks:
        found = retention(p[:n], r[:n], u[:n], tau=TAU, tau_over=tau_over)
        bites = bites or rejects(found.p_bite or 0.0, PLAN.bite_level)
        if bites and rejects(found.p_fail, PLAN.fail_level(1)):
            return Outcome.FAIL, n
        if bites and n >= MIN_PASS and rejects(found.p_pass, PLAN.pass_level):
            return Outcome.PASS, n
    return Outcome.INCONCLUSIVE, PLAN.looks[-1]


def check(p: tuple, r: tuple, u: tuple) -> None:
    """Assert that the looks above are those of the judge."""
    judgement = judge(CRITERION, Evidence(p, r, u, r, r), PLAN)
    assert (judgement.outcome, judgement.looked) == by_plan(p, r, u, TAU)


def simulate(runs: int) -> list[dict[str, Any]]:
    """Return the rates of every method under both plans."""
    rows = []
    for effect in EFFECTS:
        for label, (kappa, spread) in METHODS.items():
            studies = [
                tuple(map(tuple, s)) for s in draw(np.random.default_rng(1), runs, effect, kappa, spread).tolist()
            ]
            for study in studies[:50]:
                check(*study)
            for name, tau_over in (("two-sided", TAU), ("one-sided", math.inf)):
                found = [by_plan(*study, tau_over) for study in studies]
                row: dict[str, Any] = {"effect_sds": effect, "method": label, "plan": name}
                for outcome in (Outcome.PASS, Outcome.FAIL):
                    k = sum(o is outcome for o, _ in found)
                    row[outcome.value] = {"rate": k / runs, "interval": clopper_pearson(k, runs)}
                row["seeds"] = fmean(seeds for _, seeds in found)
                rows.append(row)
                print(
                    f"effect {effect:4.0f} sd  {label:18s} {name}  PASS {row['PASS']['rate']:.4f}  "
                    f"FAIL {row['FAIL']['rate']:.4f}  seeds {row['seeds']:.2f}",
                    flush=True,
                )
    return rows


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000, help="simulated studies per row")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, Any] = {"runs": options.runs, "alpha": PLAN.alpha, "tau": TAU, "rows": simulate(options.runs)}
    if options.json:
        figures |= {"machine": f"{platform.machine()}, CPU, 1 thread", "versions": versions()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
