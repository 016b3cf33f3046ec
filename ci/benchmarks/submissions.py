"""How often does a method pass that was fitted to the audit's own seeds, and how often on seeds that are drawn?

    python ci/benchmarks/submissions.py [--worlds 400] [--json FILE]

An author tries 100 settings of a method. Every one leaves 0.35 of the poison on average, where 0.2 is tolerated, so
each PASS is wrong. A *world* is what 100 settings do on all seeds there are. P, R and the oracle are the same for all
settings at a seed, and a setting does the same at the same seed whenever it is asked. What it leaves varies from seed
to seed, by one of five laws.

After 1, 10, 30 and 100 tries on the fixed list, the author submits one: of those that PASS the one with the smallest
estimate, or else of all of them. It is judged again on seeds that `harness.judging.drawing` draws for it: by the quick
plan ("drawn"), as the tries were, and by the reliable plan ("gate"), as the gate does by default. Counts come with 95 %
Clopper-Pearson intervals over worlds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.api import Measure, Outcome
from harness.cells import Registered
from harness.judging.claims import Criterion
from harness.judging.drawing import draw
from harness.judging.judge import Judgement, judge
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence
from harness.report.document import versions
from harness.statistics import clopper_pearson

KAPPA = 0.35
CRITERION = Criterion(Measure("simulated", "simulated", worse="higher", test="retention"), 0.2)
TRIES = (1, 10, 30, 100)
#: Standard deviation over seeds of P, of R and of the oracle, where the poison's effect is 1.
SPREAD = 0.05

Law = Callable[[np.random.Generator, int], np.ndarray]
#: What settings leave of the poison at one seed, with mean `KAPPA`.
LAWS: dict[str, Law] = {
    "normal, sd 0.2": lambda rng, n: rng.normal(KAPPA, 0.2, n),
    "normal, sd 0.5": lambda rng, n: rng.normal(KAPPA, 0.5, n),
    "beta, concentration 2.5": lambda rng, n: rng.beta(2.5 * KAPPA, 2.5 * (1 - KAPPA), n),
    "beta, concentration 1": lambda rng, n: rng.beta(KAPPA, 1 - KAPPA, n),
    "all or nothing": lambda rng, n: (rng.random(n) < KAPPA).astype(float),
}


class World:
    """What all settings do on all seeds, by one law.

    Args:
        law: Name of one of `LAWS`.
        number: Which of many.
        salt: Where the salt of the gate is, for `draw`.
    """

    def __init__(self, law: str, number: int, salt: str) -> None:
        self._law = law
        self._number = number
        self._salt = salt
        self._at = cache(self._seed)

    def _seed(self, seed: int) -> tuple[float, float, float, list[float]]:
        """Return P, R, the oracle, and U by setting, at a seed."""
        rng = np.random.default_rng((self._number, list(LAWS).index(self._law), seed))
        effect, r, oracle = rng.normal((1.0, 0.0, 0.0), SPREAD).tolist()
        left = LAWS[self._law](rng, TRIES[-1])
        return effect, r, oracle, (r + left * (effect - r)).tolist()

    def judged(self, setting: int, plan: Plan) -> Judgement:
        """Return what a plan concludes of a setting."""
        p, r, oracle, u = zip(*(self._at(seed) for seed in plan.numbers(plan.looks[-1])), strict=True)
        own = tuple(of[setting] for of in u)
        return judge(CRITERION, Evidence(p, r, own, oracle, r), plan)

    def drawn(self, setting: int, kind: str) -> Plan:
        """Return the plan of a submission of one setting."""
        fields = {"world": self._number, "setting": setting}
        method = Registered("unlearner", f"s{setting}", "s", None, fields, "(local)", "", "0" * 64)
        return Plan(drawn=draw(self._salt, [method]).seeds, kind=kind)


def tried(world: World) -> list[dict[str, bool]]:
    """Return what comes of so many tries, for each of `TRIES`."""
    fixed = [world.judged(setting, Plan()) for setting in range(TRIES[-1])]

    def order(setting: int) -> tuple[bool, float]:
        return fixed[setting].outcome is not Outcome.PASS, fixed[setting].result.estimate

    found = []
    for tries in TRIES:
        best = min(range(tries), key=order)
        found.append(
            {
                "fixed": fixed[best].outcome is Outcome.PASS,
                "drawn": world.judged(best, world.drawn(best, "quick")).outcome is Outcome.PASS,
                "gate": world.judged(best, world.drawn(best, "reliable")).outcome is Outcome.PASS,
            }
        )
    return found


def rate(happened: Sequence[bool]) -> dict[str, Any]:
    """Return a count with its share and interval."""
    count, n = sum(happened), len(happened)
    return {"count": count, "n": n, "rate": count / n, "interval": clopper_pearson(count, n, 0.95)}


def simulate(worlds: int, salt: str) -> list[dict[str, Any]]:
    """Return a row per law and number of tries."""
    rows = []
    for law in LAWS:
        found = [tried(World(law, number, salt)) for number in range(worlds)]
        for at, tries in enumerate(TRIES):
            names = found[0][at]
            rates = {name: rate([each[at][name] for each in found]) for name in names}
            rows.append({"law": law, "tries": tries, **rates})
            shown = "   ".join(f"{n} {r['rate']:.3f} [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}]"
                               for n, r in rates.items())  # fmt: skip
            print(f"{law:24s} {tries:3d} tries   {shown}", flush=True)
    return rows


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=400, help="simulated authors per law")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    os.environ["SALT_OF_THE_SIMULATION"] = "known to everybody: it protects nothing"
    started = time.perf_counter()
    rows = simulate(options.worlds, "env:SALT_OF_THE_SIMULATION")
    if options.json:
        figures = {
            "kappa": KAPPA, "tolerance": CRITERION.margin, "spread": SPREAD, "rows": rows,
            "seconds": round(time.perf_counter() - started, 1),
            "machine": f"{platform.machine()}, CPU, 1 process", "versions": versions(),
        }  # fmt: skip
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
