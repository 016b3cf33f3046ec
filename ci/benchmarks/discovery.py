"""What methods do where only some of the poisoned points are known.

Runs ``pytest test_suites --audit-discovery=F`` for every registered method and the oracle, for each F, and writes what
is left of the poison against clean data and which retraining a method reaches:

    python ci/benchmarks/discovery.py [--store DIR] [--json FILE] [--markdown FILE] [--processes 2]
        [--discovery 0.5 0.9 1]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SUITES = Path(__file__).resolve().parents[2] / "test_suites"
KEPT = ("unlearner", "task", "poison", "discovery", "claim", "verdict", "reason", "estimate", "interval", "seeds")
#: Kept of the audits of the poison, too.
OF_POISON = ("values", "details")
#: What is asked of D, in words: 1 where it is shown, 0 where the opposite is, None where neither is.
REACHES = {1: "yes", 0: "**no**", None: "?"}


def run(discovery: float, store: Path, result: Path, processes: int) -> dict[str, Any]:
    """Return the JSON result of the run at one fraction."""
    command = [
        sys.executable, "-m", "pytest", str(SUITES), f"-n{processes}", "-k", "not contract", "--unlearner=all",
        "--unlearner=retrain", f"--audit-discovery={discovery:g}", f"--audit-store={store}", f"--audit-json={result}",
        "--audit-futility=0", "-q", "-p", "no:cacheprovider",
    ]  # fmt: skip
    subprocess.run(command, check=False)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def markdown(audits: list[dict[str, Any]]) -> str:
    """Return the table: a row per method and poison, a group of columns per fraction, the largest first."""
    shares = sorted({each["discovery"] for each in audits}, reverse=True)
    heads = []
    for share in shares:
        heads += [f"{100 * share:g} % known: poison left", *(["reaches D"] if share < 1 else []), "n"]
    lines = ["| method | poison | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    by = {(a["unlearner"], a["poison"], a["discovery"]): a for a in audits if a["claim"] == "poison"}
    for method, poison in sorted({key[:2] for key in by}):
        cells = []
        for share in shares:
            found = by[method, poison, share]
            low, high = (f"{x:.2f}" if x is not None else "?" for x in found["interval"])
            cells.append(f"{found['verdict']} {found['estimate']:.2f} [{low}, {high}]")
            if share < 1:
                cells.append(REACHES[found["details"]["reaches_remaining"]])
            cells.append(str(len(found["seeds"])))
        lines.append(f"| `{method}` | {poison} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def remaining(audits: list[dict[str, Any]]) -> str:
    """Return what retraining on what remains keeps, from the row of the oracle, a line per poison and fraction."""
    lines = []
    for each in audits:
        if each["unlearner"] == "retrain" and each["claim"] == "poison" and each["discovery"] < 1:
            of = each["details"]
            lines.append(
                f"{each['poison']}, {100 * each['discovery']:g} % known: D keeps {of['remaining_keeps']:.3f} "
                f"[{of['remaining_keeps_low']:.3f}, {of['remaining_keeps_high']:.3f}] of the effect, "
                f"n = {of['remaining_seeds']:.0f}; doing nothing reaches it: "
                f"{REACHES[of['identity_reaches_remaining']]}"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where to train; default a folder that is removed afterwards")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--processes", type=int, default=2, help="workers that audit side by side")
    parser.add_argument("--discovery", type=float, nargs="+", default=[0.5, 0.9, 1.0], help="fractions that are known")
    options = parser.parse_args()

    audits, runs = [], []
    with tempfile.TemporaryDirectory() as temporary:
        store = options.store or Path(temporary) / "store"
        for share in options.discovery:
            found = run(share, store, Path(temporary) / f"result-{share:g}.json", options.processes)
            for each in found["audits"]:
                kept = (*KEPT, *OF_POISON) if each["claim"] == "poison" else KEPT
                audits.append({name: each[name] for name in kept})
            runs.append(found["run"])
    table = markdown(audits)
    print(table)
    print(remaining(audits))
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    if options.json:
        figures = {
            "audits": audits,
            "machine": f"{platform.machine()}, {runs[0]['device']}",
            "versions": runs[0]["versions"],
            "seconds": [each["seconds"] for each in runs],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
