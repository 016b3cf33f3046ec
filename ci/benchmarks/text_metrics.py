"""How often do the usual metrics of language models conclude what is not so? On trained models of causal-lm.

For each poison and each block of seeds, every metric judges two "methods": R', retrained once more, which left nothing
to forget, and P, which forgot nothing. To call R' "not unlearned" is wrong, and so is to call P "unlearned". Block b of
size s has the seeds 40000 + s b to 40000 + s b + s - 1, which nothing else uses; the metrics look at 3 seeds, then at
5. Blocks of 3 and of 5 are made of the same models, each read once. Studies of 5 seeds are also drawn from all seeds,
with replacement. Results are written after every 15 seeds.

    python ci/benchmarks/text_metrics.py [--seeds 30] [--store DIR] [--json FILE]

Only metrics that models of texts alone have are reported. The others read all test documents, which would take a third
more time; here they read 16 of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness import registry
from harness.api import Outcome
from harness.cells import ARMS, Cell, Registered, Trial
from harness.judging.claims import CLAIMS, Criterion, Limits
from harness.judging.judge import Judgement, judge, ungated
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence
from harness.report.document import finite_tree, versions
from harness.statistics import clopper_pearson
from harness.trials import language, metrics, questions
from harness.trials.lab import Lab

FIRST_SEED = 40_000
SIZES, TOGETHER = (3, 5), 15
TASK, POISONS = "causal-lm", ("continuation-backdoor", "false-fact", "text-canaries")
METRICS = ("memorisation", "extraction", "verbatim", "truth-ratio", "forget-quality", "leakage", "perplexity")
LIMITS = Limits(tolerance=0.2, budget=0.1)
#: Studies that are drawn from the seeds, of each poison and metric.
RUNS = 4000
#: Test documents for the metrics that are not reported.
TEST = 16


class Seed:
    """What the models of one seed and poison answer, and what was planted.

    Args:
        lab: Where models are trained.
        cell: Of the oracle.
        number: The seed.
    """

    def __init__(self, lab: Lab, cell: Cell, number: int) -> None:
        self.task, trial = cell.task.value, Trial(cell, number)
        arms = lab.models(trial)
        self.retain, self.forget, planted = lab._readings._parts(trial)
        self.asked = lab._readings._questions(cell.poison, cell.task, planted)
        test = lab.split(cell.task).test.subset(torch.arange(TEST))
        with torch.random.fork_rng():
            torch.manual_seed(number)
            wrecked = self.task.new_model().eval()  # adapters begin as nothing: every such model is the base model
        self.wrecked = language.log_perplexity(wrecked, self.task, self.retain)[0].value
        self.answers = {}
        for arm in ARMS:
            model = lab.bench.model(cell.task, arms[arm])
            self.answers[arm] = metrics.answers(model, self.task, self.forget, test, self.retain, self.asked)
        self._model = lambda: lab.bench.model(cell.task, arms["R"])

    def losses_of(self, other: Seed) -> Tensor:
        """Return the losses of another seed's poisoned documents in this one's retrained model."""
        return metrics.asked(self._model(), self.task, other.forget)[0]

    def ratios_of(self, other: Seed) -> Tensor:
        """Return the truth ratios of another seed's questions in this one's retrained model."""
        return questions.truth_ratios(self._model(), self.task, other.asked)


def judged(cell: Cell, block: Sequence[Seed]) -> list[dict[str, Any]]:
    """Return a row for every metric: what it concludes on a block of seeds of R', and of P."""
    n = len(block)
    retrained = [[other.losses_of(of) for other in block] for of in block]
    ratios = [block[(s + 1) % n].ratios_of(of) for s, of in enumerate(block)]
    read = metrics.readings([of.answers for of in block], retrained, ratios)
    rows = []
    for name in METRICS:
        if name not in read[0]:
            continue
        (criterion,) = CLAIMS[name].criteria(cell, LIMITS)
        by_seed = [of[name] for of in read]
        if any(by[arm].unusable for by in by_seed for arm in ARMS):  # it does not apply to the poison
            continue
        values = {arm: tuple(by[arm].value for by in by_seed) for arm in ARMS}
        wrecked = tuple(of.wrecked for of in block)  # a gate of perplexity alone
        resolution = max(by[arm].resolution for by in by_seed for arm in ARMS)
        evidence = Evidence(
            values["P"], values["R"], values["U"], values["U"], wrecked, resolution=resolution
        )  # fmt: skip
        rows.append(
            {
                "poison": cell.poison.id,
                "metric": name,
                "size": n,
                "retrained_again": concluded(criterion, evidence, n),
                "doing_nothing": concluded(criterion, evidence.of(values["P"]), n),
                **{label: values[arm] for arm, label in zip(ARMS, ("P", "R", "R'"), strict=True)},
            }
        )
    return rows


def concluded(criterion: Criterion, evidence: Evidence, n: int) -> str:
    """Return what a metric concludes, in the words of its table."""
    found = judge(criterion, evidence, Plan(seeds=n).informing)
    # The oracle is its own gate: where it FAILs, the verdict is that nothing can be judged.
    if evidence.unlearned == evidence.oracle and found.reason == "oracle-fails":
        return "not unlearned"
    return _said(found)


def table_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for every size, poison and metric, how often R' and P were called what, with 95 % intervals."""
    table = []
    for key in dict.fromkeys((row["size"], row["poison"], row["metric"]) for row in rows):
        own = [row for row in rows if (row["size"], row["poison"], row["metric"]) == key]
        entry: dict[str, Any] = dict(zip(("size", "poison", "metric"), key, strict=True)) | {"blocks": len(own)}
        for who, wrong in (("retrained_again", "not unlearned"), ("doing_nothing", "unlearned")):
            count = Counter(row[who] for row in own)
            interval = clopper_pearson(count[wrong], len(own), 0.95)
            entry[who] = {"concluded": dict(count), "wrong": count[wrong], "interval": interval}
        entry["means"] = {arm: fmean(x for row in own for x in row[arm]) for arm in ("P", "R", "R'")}
        if key[-1] == "forget-quality":  # how often TOFU would say "unlearned", of one model
            above = {arm: sum(p > questions.SIGNIFICANT for row in own for p in row[arm]) for arm in entry["means"]}
            entry["above_5_percent"] = above | {"of": entry["size"] * len(own)}
        table.append(entry)
    return table


def resampled(rows: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Return how often studies of 5 seeds, drawn with replacement from all, conclude what: `RUNS` of each poison.

    Without gates and without a least spread that is believed: both could only make wrong conclusions rarer.
    """
    cells = {name: Cell(*_registered(name)) for name in POISONS}
    found = []
    for poison, metric in dict.fromkeys((row["poison"], row["metric"]) for row in rows):
        own = [row for row in rows if (row["size"], row["poison"], row["metric"]) == (n, poison, metric)]
        seeds = np.array([[x for row in own for x in row[arm]] for arm in ("P", "R", "R'")])
        (criterion,) = CLAIMS[metric].criteria(cells[poison], LIMITS)
        rng, counts = np.random.default_rng(1), {"retrained_again": Counter[str](), "doing_nothing": Counter[str]()}
        for _ in range(RUNS):
            p, r, again = map(tuple, seeds[:, rng.integers(seeds.shape[1], size=n)].tolist())
            evidence = Evidence(p, r, again, again, ())
            for who, arm in zip(counts, (again, p), strict=True):
                counts[who][_said(ungated(criterion, evidence.of(arm), Plan(seeds=n).informing))] += 1
        shares = {who: {said: k / RUNS for said, k in count.items()} for who, count in counts.items()}
        found.append({"poison": poison, "metric": metric, "seeds": seeds.shape[1], "runs": RUNS, **shares})
    return found


def _said(found: Judgement) -> str:
    if found.outcome is Outcome.FAIL:
        return "not unlearned"
    return "unlearned" if found.outcome is Outcome.PASS else str(found.reason)


def _registered(poison: str) -> tuple[Registered, ...]:
    return tuple(registry.resolve(*of) for of in (("unlearner", "retrain"), ("task", TASK), ("poison", poison)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30, help=f"a multiple of {TOGETHER}")
    parser.add_argument("--store", help="where models are kept; default a temporary directory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    cells = [Cell(*_registered(poison)) for poison in POISONS]
    rows: list[dict[str, Any]] = []
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as temporary:
        lab = Lab.open(options.store or temporary, device="cpu", run="text-metrics")
        for first in range(0, options.seeds, TOGETHER):
            seeds: dict[Cell, list[Seed]] = {cell: [] for cell in cells}
            for number in range(FIRST_SEED + first, FIRST_SEED + first + TOGETHER):
                for cell in cells:
                    seeds[cell].append(Seed(lab, cell, number))
                print(f"seed {number} after {time.process_time() - begun:.0f} s of CPU time", flush=True)
            for size in SIZES:
                for cell, own in seeds.items():
                    for at in range(0, TOGETHER, size):
                        rows += judged(cell, own[at : at + size])
            figures = {
                "first_seed": FIRST_SEED,
                "seeds": first + TOGETHER,
                "cpu_seconds": time.process_time() - begun,
                "table": table_of(rows),
                "resampled": resampled(rows, SIZES[-1]),
                "rows": rows,
                "machine": f"{platform.machine()}, CPU, 1 thread",
                "versions": versions(),
            }
            if options.json:
                options.json.write_text(json.dumps(finite_tree(figures), indent=1) + "\n")
    for entry in figures["table"]:
        said = {who: entry[who]["concluded"] for who in ("retrained_again", "doing_nothing")}
        print(entry["size"], entry["poison"], entry["metric"], entry["means"], said)


if __name__ == "__main__":
    main()
