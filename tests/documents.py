"""Results as ``--audit-json`` writes them, of any size, judged by the real statistics on made-up numbers."""

from __future__ import annotations

import random

from harness.api import Measure, Outcome
from harness.judging.claims import ACCURACY, CLAIMS, COST, Criterion
from harness.judging.judge import judge, path
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence, Verdict
from harness.report.collected import plain

POISON = Measure("score", "trace of the noise", worse="higher", test="retention")
RATE = "tpr_at_1_percent_fpr"
PLAN = Plan()


def judged(measure, margin, effect, left, rng, *, judged=2, cell=("mine", "task", "noise")):
    """Return a verdict on 16 seeds' made-up numbers: an effect, of which a part is left."""
    retrained = [rng.gauss(0.1, 0.02) for _ in range(16)]
    poisoned = [r + effect + rng.gauss(0, 0.02) for r in retrained]
    unlearned = [r + left * effect + rng.gauss(0, 0.02) for r in retrained]
    oracle = [rng.gauss(0.1, 0.02) for _ in range(16)]
    wrecked = [r - 50 for r in retrained]
    evidence = Evidence(*map(tuple, (poisoned, retrained, unlearned, oracle, wrecked)))
    claim = Criterion(measure, margin, judged)
    judgement = judge(claim, evidence, PLAN)
    n, result = judgement.seeds, judgement.result
    evidence = evidence.first(n)
    values = {"poisoned": evidence.poisoned, "retrained": evidence.retrained, "unlearned": evidence.unlearned}
    rates = {arm: tuple(abs(v) / 10 for v in of) for arm, of in values.items()}
    return Verdict(
        **dict(zip(("unlearner", "task", "poison"), cell, strict=True)), measure=measure, outcome=judgement.outcome,
        reason=judgement.reason, estimate=result.estimate, interval=result.interval, margin=margin,
        p_pass=result.p_pass, p_fail=result.p_fail, p_bite=result.p_bite, level=judgement.level,
        seeds=tuple(range(n)), values=values, details={"worst_seed": float(result.worst)}, by_seed={RATE: rates},
        looks=path(claim, evidence, PLAN),
    )  # fmt: skip


def cost(fraction, cell):
    values = {"poisoned": (), "retrained": (1.0,) * 5, "unlearned": (fraction,) * 5}
    return Verdict(
        **dict(zip(("unlearner", "task", "poison"), cell, strict=True)), measure=COST,
        outcome=Outcome.PASS if fraction <= 0.1 else Outcome.FAIL, reason="within-budget", estimate=fraction,
        interval=(fraction, fraction), margin=0.1, p_pass=None, p_fail=None, p_bite=None, level=None,
        seeds=tuple(range(5)), values=values,
        details={"seconds of unlearning": 0.2, "seconds of retraining": 2.0, "examples_of_retraining": fraction,
                 "steps_of_retraining": 0.08},
    )  # fmt: skip


def entry(verdict, claim, **more):
    said = {"claim": claim, "id": f"{claim}[{verdict.cell}]", "command": f"pytest {claim}", "seconds": 0.1}
    said |= {"poison_fields": {}, "control": False}
    said["load"] = "" if verdict.outcome == "PASS" else f"harness.load_models({verdict.unlearner!r}, seed=2)"
    return {**plain(verdict), **said, "as_required": verdict.outcome == "PASS", **more}


def document(methods=("good", "bad"), poisons=("noise",), heuristics=False, seed=0):
    """Return a result: every other method leaves the poison, and every third wants too much compute."""
    rng = random.Random(seed)
    audits, said = [], []
    for i, method in enumerate(methods):
        for poison in poisons:
            cell = (method, "task", poison)
            left = 0.9 if i % 2 else 0.02
            verdict = judged(POISON, 0.2, 1.0, left, rng, cell=cell)
            audits += [
                entry(verdict, "poison"),
                entry(judged(ACCURACY, 0.1, -0.001, 0.5, rng, cell=cell), "accuracy"),
                entry(cost(0.5 if i % 3 == 2 else 0.08, cell), "cost"),
            ]
            if heuristics:
                found = judged(CLAIMS["membership"].measures(None)[""], 0.2, 1.0, 0.05, rng, judged=1, cell=cell)
                said.append(entry(found, "membership", poison_verdict=verdict.outcome.value))
                del said[-1]["as_required"]  # it requires nothing
    cost_of = {
        "train_examples": 100, "unlearn_examples": 8.0, "unlearn_fraction": 0.08,
        "seconds": {"P": 2.0, "R": 2.0, "U": 0.2}, "built": ["P", "R", "U"], "fractions": {"examples": 0.08},
        "first_call": False, "history_bytes": 0, "cpu_seconds": {"P": 2.0, "R": 2.0, "U": 0.2},
    }  # fmt: skip
    return {
        "schema": 1,
        "run": {
            "argv": ["pytest", "test_suites"], "device": "1 process on cpu",
            "versions": {"pytest-unlearning": "0.1.0", "python": "3.11"},
            "started": "2026-01-01T00:00:00Z", "seconds": 12.0,
            "settings": {
                "seeds": 16, "alpha": 0.05, "tolerance": 0.2, "budget": 0.1, "tasks": ["task"], "plan": "quick",
                "seeds_from": "fixed list", "futility": 0.1, "timeout": None, "discovery": 1.0, "store": "store",
                "data": None, "isolated": None, "command": "pytest test_suites",
            },
        },
        "asked": {},
        "unlearners": [
            {
                "name": m, "fields": {"lr": 0.1}, "distribution": "d", "version": "1", "file": "",
                "source_sha256": "ab" * 32,
            }
            for m in methods
        ],
        "audits": audits,
        "trials": [
            {
                "unlearner": m, "task": "task", "poison": p, "discovery": 1.0, "seed": s, "cost": cost_of,
                "word": "trained",
            }
            for m in methods for p in poisons for s in range(5)
        ],
        "contract": [],
        "heuristics": said, "crashes": [],
    }  # fmt: skip
