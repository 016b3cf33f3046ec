"""What the usual metrics say of every method, beside what the audits of its poisons say.

Runs ``pytest test_suites -m "heuristic or audit"`` for every registered method and the oracle, and writes the means
over seeds of the unlearned models, with those of the retrained ones beside them, and the figure of both:

    python ci/benchmarks/heuristics.py [--store DIR] [-n N] [--json FILE] [--markdown FILE] [--figure FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.report.contrast import contrast_file
from harness.report.document import write_text

SUITES = Path(__file__).resolve().parents[2] / "test_suites"
COLUMNS = ("membership", "likelihood", "forget-accuracy", "agreement", "retain-accuracy")
SAID = {"PASS": "yes", "FAIL": "**no**", "INCONCLUSIVE": "?"}


def run(store: Path, result: Path, processes: int) -> dict[str, Any]:
    """Return the JSON result of the run."""
    command = [
        sys.executable, "-m", "pytest", str(SUITES), f"-n{processes}", "-m", "heuristic or audit", "--unlearner=all",
        "--unlearner=retrain", f"--audit-store={store}", f"--audit-json={result}",
        "--audit-futility=0", "-p", "no:cacheprovider", "-q",
    ]  # fmt: skip
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):  # 1: audits failed, which is what the figure is about
        raise SystemExit(code)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def markdown(heuristics: list[dict[str, Any]]) -> str:
    """Return the table: a row per method and poison, a column per heuristic."""
    lines = [
        f"| method | poison | audit of the poison | {' | '.join(COLUMNS)} | TPR at 1 % FPR by loss |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for each in heuristics:
        cells.setdefault((each["unlearner"], each["poison"]), {})[each["claim"]] = each
    for (method, poison), by in cells.items():
        said = [f"{SAID[by[claim]['verdict']]} {_means(by[claim])}" for claim in COLUMNS]
        rates = by["membership"]["details"]
        tpr = f"{rates['tpr_at_1_percent_fpr']:.3f} ({rates['tpr_at_1_percent_fpr_retrained']:.3f})"
        lines.append(f"| `{method}` | {poison} | {by['membership']['poison_verdict']} | {' | '.join(said)} | {tpr} |")
    return "\n".join(lines) + "\n"


def _means(found: dict[str, Any]) -> str:
    unlearned, retrained = (fmean(found["values"][arm]) for arm in ("unlearned", "retrained"))
    return f"{unlearned:.3f} ({retrained:.3f})"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="where to train; default a folder that is removed afterwards")
    parser.add_argument("-n", type=int, default=2, help="processes; default 2")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--figure", type=Path, help="draw the figure to this SVG file")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        found = run(options.store or Path(temporary) / "store", Path(temporary) / "result.json", options.n)
    table = markdown(found["heuristics"])
    print(table)
    if options.markdown:
        options.markdown.write_text(table)
    if options.figure:
        write_text(options.figure, contrast_file(found))
    if options.json:
        kept = (
            "unlearner", "task", "poison", "claim", "title", "test", "verdict", "reason", "estimate", "interval",
            "level", "margin", "seeds", "values", "details", "by_seed",
        )  # fmt: skip
        figures = {
            "heuristics": [
                {**{name: each[name] for name in kept}, "poison_verdict": each["poison_verdict"]}
                for each in found["heuristics"]
            ],
            "audits": [{name: each[name] for name in kept} for each in found["audits"] if each["claim"] == "poison"],
            "machine": f"{platform.machine()}, {found['run']['device']}",
            "versions": found["run"]["versions"],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
