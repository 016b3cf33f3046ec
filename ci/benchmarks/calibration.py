"""Are the error rates what they are said to be? By simulation, and on real trained models.

    python ci/benchmarks/calibration.py --simulate [--runs 4000]
    python ci/benchmarks/calibration.py --real [--blocks 20] [--poisons ...] [--processes 2] [--store DIR]
    python ci/benchmarks/calibration.py --robust [--runs 4000]
    python ci/benchmarks/calibration.py --resample [--runs 4000] [--store DIR]
    python ci/benchmarks/calibration.py --heuristics [--blocks 24] [--size 5] [--processes 2] [--store DIR]

``--simulate`` puts methods exactly on the margin, where PASS and FAIL are both wrong, and others beside them through
fixed numbers of seeds, through the plan, and through a plan that gives nothing up ("to the end"). ``--robust`` does so
with numbers that are not normal, through the quick plan and the reliable one, and compares the rules that the latter
could have had. ``--resample`` draws studies from 40 real seeds of methods, with the margin at what each leaves; these
are the seeds 30000 to 30039, which nothing else uses. ``--real`` audits oracle and identity on digits-cnn, trace by
trace, once per block of 16 seeds: block b has the seeds 10000 + 16 b to 10015 + 16 b, which nothing else uses.
``--heuristics`` asks how often the usual metrics call the oracle different from retraining, once per block of
``--size`` seeds, the last look of the block: block b of size s has the seeds 20000 + s b to 20000 + s b + s - 1. Counts
come with 95 % Clopper-Pearson intervals. ``--json FILE`` writes any.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import anylaw
import numpy as np
from scipy.stats import kstest

from harness import registry
from harness.api import Measure, Outcome
from harness.cells import Cell, Trial
from harness.judging.claims import CLAIMS, INFORMING, Criterion, walking
from harness.judging.judge import judge, ungated
from harness.judging.plan import KINDS, LOOKS, Plan
from harness.judging.verdict import Evidence, Trace
from harness.report.document import versions
from harness.statistics import clopper_pearson, retention

FIRST_SEED = 10_000
FIRST_SEED_OF_HEURISTICS = 20_000
FIRST_SEED_OF_RESAMPLING = 30_000
#: Real seeds of each method that studies are drawn from, and the methods, which leave some of the backdoor.
RESAMPLED, RESAMPLED_METHODS = 40, ("gd", "cfk", "ssd")
METHODS = ("retrain", "identity")
POISONS = ("backdoor", "gaussian")
MEASURE = Measure("simulated", "simulated", worse="higher", test="retention")
TAU = 0.2
#: What simulated methods leave of the poison.
METHODS_SIMULATED = {
    "as if retrained": 0.0, "half the margin": TAU / 2, "on the margin": TAU, "1.5 margins": 1.5 * TAU, "identity": 1.0,
}  # fmt: skip


def draw(generator: np.random.Generator, runs: int, effect: float, kappa: float) -> np.ndarray:
    """Return (runs, 3, 16): P, R and U whose seeds vary by 1, share half their variance, and keep kappa."""
    shared = generator.normal(size=(runs, 1, LOOKS[-1]))
    own = generator.normal(size=(runs, 3, LOOKS[-1]))
    means = np.array([effect, 0.0, kappa * effect]).reshape(1, 3, 1)
    return means + np.sqrt(0.5) * (shared + own)


def by_plan(plan: Plan, p: tuple, r: tuple, u: tuple) -> tuple[Outcome, int]:
    """Judge by a plan, with a perfect oracle, so that the method's own error rates are seen."""
    judgement = judge(Criterion(MEASURE, TAU), Evidence(p, r, u, r, r), plan)
    return judgement.outcome, judgement.seeds


def by_fixed(n: int, p: tuple, r: tuple, u: tuple) -> tuple[Outcome, int]:
    """Judge once, on the first n seeds, at the whole alpha."""
    return retention(p[:n], r[:n], u[:n], tau=TAU).outcome, n


def simulate(runs: int) -> list[dict[str, Any]]:
    """Return the rates of every scheme for methods on the margin, perfect ones, and the identity."""
    rows = []
    for effect in (8.0, 15.0):
        for label, kappa in METHODS_SIMULATED.items():
            studies = draw(np.random.default_rng(1), runs, effect, kappa).tolist()
            schemes = {f"fixed {n}": lambda *arms, n=n: by_fixed(n, *arms) for n in (3, 5, 8, 10, 16)}
            schemes |= {"plan": partial(by_plan, Plan()), "to the end": partial(by_plan, Plan(futility=0))}
            for name, scheme in schemes.items():
                found = [scheme(*map(tuple, study)) for study in studies]
                count = Counter(outcome for outcome, _ in found)
                rows.append(
                    {
                        "effect_sds": effect,
                        "method": label,
                        "scheme": name,
                        "pass": count[Outcome.PASS] / runs,
                        "fail": count[Outcome.FAIL] / runs,
                        "seeds": fmean(seeds for _, seeds in found),
                    }
                )
                print(
                    f"effect {effect:4.0f} sd  {label:16s} {name:9s} PASS {rows[-1]['pass']:.3f}  "
                    f"FAIL {rows[-1]['fail']:.3f}  seeds {rows[-1]['seeds']:.1f}",
                    flush=True,
                )
    return rows


def audit_block(block: int, store: str, poisons: Sequence[str]) -> list[dict[str, Any]]:
    """Audit the controls on one block of seeds; return a row per control, poison, measure and trace."""
    from harness.studies.study import Study
    from harness.trials.lab import Lab

    task = registry.resolve("task", "digits-cnn")
    lab = Lab.open(store, device="cpu", run=f"calibration-{block}")
    cells = [
        Cell(registry.resolve("unlearner", method), task, registry.resolve("poison", poison))
        for method in METHODS
        for poison in poisons
    ]
    study = Study(cells, lab, Plan(first=FIRST_SEED + LOOKS[-1] * block), TAU)
    rows = []
    for cell in cells:
        for claim in walking(cell):
            verdict = study.verdict(cell, claim.name)
            retrained = [study.result(Trial(cell, seed)).readings[claim.name]["R"] for seed in verdict.seeds]
            common = {"block": block, "method": cell.unlearner.id, "poison": cell.poison.id}
            rows.append(
                {
                    **common,
                    "measure": claim.name,
                    **said(verdict),
                    "t_retrained": [reading.details.get("T") for reading in retrained],
                }
            )
            for name, trace in verdict.traces.items():  # at the look where the audit as a whole stopped
                rows.append({**common, "measure": f"{claim.name}: {name}", **said(trace)})
    return rows


def said(of: Trace) -> dict[str, Any]:
    """Return what is kept of a verdict, and of a trace of it."""
    kept = {"verdict": of.outcome.value, "reason": of.reason, "estimate": of.estimate, "p_fail": of.p_fail}
    return kept | {"seeds": len(of.seeds)}


def real(blocks: int, processes: int, store: str, poisons: Sequence[str]) -> dict[str, Any]:
    """Audit every block; return the rows and, per control, poison and measure, the counts."""
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(audit_block, range(blocks), [store] * blocks, [poisons] * blocks):
            rows += found
            print(f"block {found[0]['block']} of {blocks}", flush=True)
    table = []
    for method, poison, measure in dict.fromkeys((r["method"], r["poison"], r["measure"]) for r in rows):
        own = [r for r in rows if (r["method"], r["poison"], r["measure"]) == (method, poison, measure)]
        entry: dict[str, Any] = {"method": method, "poison": poison, "measure": measure, "blocks": len(own)}
        for outcome in ("PASS", "FAIL", "INCONCLUSIVE"):
            k = sum(r["verdict"] == outcome for r in own)
            entry[outcome] = {"count": k, "interval": clopper_pearson(k, len(own), 0.95)}
        entry["seeds"] = fmean(r["seeds"] for r in own)
        table.append(entry)
        shown = "  ".join(
            f"{o} {entry[o]['count']:3d}/{len(own)} [{entry[o]['interval'][0]:.2f}, {entry[o]['interval'][1]:.2f}]"
            for o in ("PASS", "FAIL", "INCONCLUSIVE")
        )
        print(f"{method:9s} {poison:9s} {measure:30s} {shown}  seeds {entry['seeds']:.1f}")
    # Of models that never saw the noise the set statistics are N(0, 1) exactly; the oracle's rows have each seed once.
    t = [x for r in rows if r["method"] == METHODS[0] for x in r.get("t_retrained", ()) if x is not None]
    null = {"sets": len(t), "mean": fmean(t), "sd": stdev(t), "ks_p": float(kstest(t, "norm").pvalue)}
    print(
        f"set statistics of R: n {null['sets']}  mean {null['mean']:+.3f}  sd {null['sd']:.3f}  KS p {null['ks_p']:.2f}"
    )
    return {"table": table, "null": null, "rows": rows, "first_seed": FIRST_SEED, "blocks": blocks}


def resample(runs: int, store: str) -> list[dict[str, Any]]:
    """Judge studies of 16 seeds, drawn with replacement from real ones, with the margin at what the method leaves.

    The mean over the 40 seeds is the truth here, so that both a PASS and a FAIL are wrong. Nothing passes or fails for
    the oracle's sake. ``alpha`` is not split over claims.
    """
    from harness.trials.lab import Lab

    lab = Lab.open(store, device="cpu", run="resampling")
    task, poison = registry.resolve("task", "digits-cnn"), registry.resolve("poison", "backdoor")
    seeds = range(FIRST_SEED_OF_RESAMPLING, FIRST_SEED_OF_RESAMPLING + RESAMPLED)

    def values(method: str) -> tuple[np.ndarray, float]:
        cell = Cell(registry.resolve("unlearner", method), task, poison)
        found = [lab.run(Trial(cell, seed)).readings["poison"] for seed in seeds]
        return np.array([[of[arm].value for arm in "PRU"] for of in found]), max(of["U"].resolution for of in found)

    oracle, resolution = values("retrain")
    rows = []
    for method in RESAMPLED_METHODS:
        p, r, u = (arms := values(method)[0]).T
        kappa = float((u - r).mean() / (p - r).mean())
        row: dict[str, Any] = {"method": method, "kappa": kappa, "fractions": ((u - r) / (p - r).mean()).tolist()}
        criterion = Criterion(MEASURE, kappa)
        for kind in KINDS:
            rng, count = np.random.default_rng(1), Counter[Outcome]()
            for _ in range(runs if 0 <= kappa < 1 else 0):
                drawn = rng.integers(RESAMPLED, size=LOOKS[-1])
                own, fresh = (tuple(map(tuple, of[drawn].T.tolist())) for of in (arms, oracle))
                evidence = Evidence(*own, oracle=fresh[2], wrecked=own[1], resolution=resolution)
                count[ungated(criterion, evidence, Plan(kind=kind)).outcome] += 1
            for name, outcome in (("pass", Outcome.PASS), ("fail", Outcome.FAIL)):
                interval = clopper_pearson(count[outcome], runs)
                row |= {f"{kind}_{name}": {"rate": count[outcome] / runs, "interval": interval}}
        rows.append(row)
        shown = "  ".join(f"{key} {one['rate']:.3f}" for key, one in row.items() if isinstance(one, dict))
        print(
            f"{method:12s} kappa {kappa:.3f}  sd over seeds {np.std(row['fractions'], ddof=1):.3f}  {shown}", flush=True
        )
    return rows


def heuristics_block(block: int, size: int, store: str) -> list[dict[str, Any]]:
    """Let the usual metrics judge the oracle on one block of seeds; return a row per poison and heuristic."""
    import torch

    from harness.studies.study import Study
    from harness.trials.lab import Lab

    torch.set_num_threads(1)
    task = registry.resolve("task", "digits-cnn")
    plan = Plan(seeds=size, first=FIRST_SEED_OF_HEURISTICS + size * block)
    cells = registry.cells([registry.resolve("unlearner", "retrain")], [task], POISONS)
    study = Study(cells, Lab.open(store, device="cpu", run=f"heuristics-{block}"), plan, TAU)
    rows = []
    for cell in cells:
        study.evidence(cell, size)
        for claim in (CLAIMS[name] for name in INFORMING if CLAIMS[name].applies(cell)):
            (criterion,) = claim.criteria(cell, study.limits)
            evidence = study._evidence(cell, claim, criterion, size)
            judgement = judge(criterion, evidence, plan)
            # The oracle is its own gate: where it FAILs, the verdict is that nothing can be judged.
            differs = judgement.outcome is Outcome.FAIL or judgement.reason == "oracle-fails"
            rows.append(
                {
                    "block": block,
                    "poison": cell.poison.id,
                    "heuristic": claim.name,
                    "differs": differs,
                    "verdict": judgement.outcome.value,
                    "reason": judgement.reason,
                    "seeds": judgement.seeds,
                    "poisoned": evidence.poisoned,
                    "retrained": evidence.retrained,
                    "oracle": evidence.unlearned,
                }
            )
    return rows


def calibrate_heuristics(blocks: int, size: int, processes: int, store: str) -> dict[str, Any]:
    """Judge the oracle on every block; return the rows and, per poison and heuristic, how often it "differs"."""
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(heuristics_block, range(blocks), [size] * blocks, [store] * blocks):
            rows += found
            print(f"block {found[0]['block']} of {blocks}", flush=True)
    table = []
    for poison, name in dict.fromkeys((r["poison"], r["heuristic"]) for r in rows):
        own = [r for r in rows if (r["poison"], r["heuristic"]) == (poison, name)]
        k = sum(r["differs"] for r in own)
        low, high = clopper_pearson(k, len(own), 0.95)
        fresh = [o - r for each in own for o, r in zip(each["oracle"], each["retrained"], strict=True)]
        entry = {
            "poison": poison,
            "heuristic": name,
            "blocks": len(own),
            "differs": {"count": k, "interval": (low, high)},
            "verdicts": dict(Counter(r["verdict"] if not r["differs"] else "FAIL" for r in own)),
            "retrained": fmean(x for each in own for x in each["retrained"]),
            "oracle": fmean(x for each in own for x in each["oracle"]),
            "sd_of_difference": stdev(fresh),
        }
        table.append(entry)
        print(
            f"{poison:9s} {name:16s} FAIL {k:3d}/{len(own)} [{low:.2f}, {high:.2f}]  {entry['verdicts']}  "
            f"R {entry['retrained']:.3f}  R' {entry['oracle']:.3f}  sd of R' - R {entry['sd_of_difference']:.3f}"
        )
    return {"table": table, "rows": rows, "first_seed": FIRST_SEED_OF_HEURISTICS, "blocks": blocks, "size": size}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--simulate", action="store_true", help="normal numbers")
    kind.add_argument("--real", action="store_true", help="trained models")
    kind.add_argument("--robust", action="store_true", help="numbers that are not normal")
    kind.add_argument("--resample", action="store_true", help="trained models, resampled")
    kind.add_argument("--heuristics", action="store_true", help="the usual metrics, on trained models")
    parser.add_argument("--runs", type=int, default=4000, help="simulated studies per row")
    parser.add_argument("--blocks", type=int, default=20, help="disjoint blocks of 16 seeds, or of --size")
    parser.add_argument("--size", type=int, default=5, help="seeds of a block of --heuristics, 3, 5, 8, 12 or 16")
    parser.add_argument("--poisons", nargs="+", default=POISONS, help="what --real audits on digits-cnn")
    parser.add_argument("--processes", type=int, default=2, help="blocks audited side by side")
    parser.add_argument("--store", help="where models are kept; default a temporary directory")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    if options.simulate:
        figures: dict[str, Any] = {"runs": options.runs, "rows": simulate(options.runs)}
    elif options.robust:
        figures = {
            "runs": options.runs,
            "margins": anylaw.margins(options.runs),
            "powers": anylaw.powers(options.runs),
            "candidates": anylaw.candidates(options.runs),
            "uneven": anylaw.uneven(options.runs),
        }
    else:
        with tempfile.TemporaryDirectory() as temporary:
            store = options.store or temporary
            if options.resample:
                rows = resample(options.runs, store)
                seeds = {"first_seed": FIRST_SEED_OF_RESAMPLING, "seeds": RESAMPLED}
                figures = {"runs": options.runs, "rows": rows, **seeds}
            elif options.real:
                figures = real(options.blocks, options.processes, store, options.poisons)
            else:
                figures = calibrate_heuristics(options.blocks, options.size, options.processes, store)
    if options.json:
        figures |= {"machine": f"{platform.machine()}, CPU, 1 thread per process", "versions": versions()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
