"""Every method against every poison, and what the harness adds to the unlearning itself.

First all that does not depend on the methods is trained: P, R and the controls, on every seed of the plan, and the
checkpoints that some methods want. From a copy of this store one process audits every registered method, and another
process the next round; right after each trial it unlearns and measures once more, bare, nothing stored, counted or
judged, so that both meet the machine in the same mood. Bare begins with a copy of the poisoned model, as any script
would that needs it again for the next method; the ratio without the copies is written, too. What torch loads when it
first trains is loaded before. Writes the table, and the medians of the ratios of CPU times:

    python ci/benchmarks/methods.py [--store DIR] [--rounds N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import io
import json
import math
import multiprocessing
import platform
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from harness import ForgetRequest, registry
from harness.api import declares
from harness.cells import Cell, Trial
from harness.judging.plan import LOOKS
from harness.report.document import versions
from harness.studies.controls import REFERENCES
from harness.training.data import Data
from harness.training.isolation import isolated_rng
from harness.training.seeds import derive
from harness.trials.accuracy import accuracy
from harness.trials.lab import Lab

SUITES = str(Path(__file__).resolve().parents[2] / "test_suites")
TASK = "digits-cnn"


def prepare(store: Path) -> None:
    """Train what does not depend on the methods."""
    lab = Lab.open(store, device="cpu")
    methods = registry.resolve_all("unlearner", ["all"])
    cells = registry.cells(methods, [registry.resolve("task", TASK)])
    lab.will_need(cells)
    references = [registry.resolve("unlearner", name) for name in REFERENCES]
    for cell in {(cell.task, cell.poison): cell for cell in cells}.values():
        for seed in range(LOOKS[-1]):
            for reference in references:
                lab.run(Trial(Cell(reference, cell.task, cell.poison), seed))


def audit(store: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Audit every method; return the CPU seconds of the run, of the bare work and its copies, and the JSON result."""
    torch.set_num_threads(1)
    Lab.open(store, device="cpu").cost(registry.resolve("task", TASK))  # trains a few steps
    alone = Bare()
    result = store / "table.json"
    arguments = [SUITES, f"--ignore={SUITES}/test_contract.py", "-q", "-n0", "-p", "no:cacheprovider"]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--unlearner=all", f"--task={TASK}"]
    arguments += [f"--audit-store={store}", f"--audit-json={result}"]
    gc.freeze()  # what is loaded here already; a process of its own would collect without it
    started = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(arguments, plugins=[alone])
    spent = {"audit": time.process_time() - started - alone.hidden, "bare": alone.spent, "copies": alone.copying}
    return spent, json.loads(result.read_text())


class Bare:
    """Does what each trial did once more, bare.

    Attributes:
        spent: CPU seconds of unlearning and measuring; and
        copying: of making the copies to unlearn.
        hidden: CPU seconds of all this, which are none of the audit's.
    """

    def __init__(self) -> None:
        self.spent = self.copying = self.hidden = 0.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Follow a trial that unlearned."""
        trial = getattr(report, "unlearning", {}).get("trial")
        if trial is not None and "U" in (trial["cost"] or {"built": []})["built"]:
            started = time.process_time()
            with isolated_rng(0):
                self._repeat(trial)
            self.hidden += time.process_time() - started

    def _repeat(self, trial: dict[str, Any]) -> None:
        task = registry.resolve("task", trial["task"]).value
        poison = registry.resolve("poison", trial["poison"]).value
        method = registry.resolve("unlearner", trial["unlearner"]).value
        split = task.load(None)
        planted = poison.plant(task, split, derive("poison", trial["seed"]))
        keep = torch.ones(len(split.train), dtype=torch.bool)
        keep[planted.forget] = False
        poisoned = task.new_model()
        history = declares(method, "history")
        request = ForgetRequest(
            split.train.subset(keep.nonzero().squeeze(1)), Data(planted.inputs, planted.labels), 0.1 * task.epochs,
            torch.Generator().manual_seed(trial["seed"]), torch.device("cpu"), task,
            {epoch: poisoned.state_dict() for epoch in history(task.epochs)} if history else {},
        )  # fmt: skip
        started = time.process_time()
        model = copy.deepcopy(poisoned).train()
        self.copying += time.process_time() - started
        started = time.process_time()
        cleaned = method(model, request).eval()
        poison.probe(cleaned, planted, task, split)
        accuracy(cleaned, task, split.test)
        self.spent += time.process_time() - started


def markdown(document: dict[str, Any]) -> str:
    """Return the table: a row per method and poison."""
    lines = [
        "| method | poison | verdict | poison left [interval] | accuracy against retraining | compute | n |",
        "|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for each in document["audits"]:
        cells.setdefault((each["unlearner"], each["poison"]), {})[each["claim"]] = each
    for (method, poison), claims in cells.items():
        verdicts = {claim: each["verdict"] for claim, each in claims.items()}
        worst = next((v for v in ("ERROR", "FAIL", "INCONCLUSIVE") if v in verdicts.values()), "PASS")
        why = "" if worst == "PASS" else " (" + ", ".join(c for c, v in verdicts.items() if v == worst) + ")"
        left, accuracy, cost = (claims[name] for name in ("poison", "accuracy", "cost"))
        low, high = (_number(x) for x in left["interval"])
        seeds = max(len(each["seeds"]) for each in claims.values())
        difference = f"{100 * accuracy['estimate']:+.1f} pp ({accuracy['verdict']})"
        lines.append(
            f"| `{method}` | {poison} | {worst}{why} | {_number(left['estimate'])} [{low}, {high}] "
            f"| {difference} | {100 * cost['estimate']:.0f} % | {seeds} |"
        )
    return "\n".join(lines).replace(" -", " −") + "\n"


def _number(x: float | None) -> str:
    return f"{x:.2f}" if x is not None and math.isfinite(x) else "?"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where to train; default a folder that is removed afterwards")
    parser.add_argument("--rounds", type=int, default=3, help="how often the table is made; default %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        store = options.store or Path(temporary) / "warm"
        prepare(store)
        stores = [shutil.copytree(store, Path(temporary) / f"round{i}") for i in range(options.rounds)]
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
            rounds = processes.map(audit, stores, chunksize=1)
    spent, document = [each for each, _ in rounds], rounds[0][1]
    built = [arm for trial in document["trials"] for arm in trial["cost"]["built"]]
    table = markdown(document)
    kept = ("unlearner", "poison", "claim", "verdict", "reason", "estimate", "interval", "p_pass", "p_fail", "seeds")
    figures = {
        "audit_over_bare": median(each["audit"] / (each["bare"] + each["copies"]) for each in spent),
        "audit_over_bare_without_copies": median(each["audit"] / each["bare"] for each in spent),
        "cpu_seconds": spent,
        "built": {arm: built.count(arm) for arm in "PRU"},
        "audits": [{**{name: each[name] for name in kept}, "details": each["details"]} for each in document["audits"]],
        "unlearners": document["unlearners"],
        "machine": f"{platform.machine()}, 1 thread, CPU",
        "versions": versions(),
    }
    print(table)
    print(f"built: {figures['built']} (no P and no R)")
    over, without = figures["audit_over_bare"], figures["audit_over_bare_without_copies"]
    print(f"audit from a warm store over bare unlearning and measures: {over:.3f} (at most 1.15)")
    print(f"over the same without the copies that were unlearned: {without:.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(table)


if __name__ == "__main__":
    main()
