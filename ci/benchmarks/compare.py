"""Are the audits of two results equal, number by number?

    python ci/benchmarks/compare.py BEFORE.json AFTER.json

Compares what ``--audit-json`` wrote: verdicts, reasons, estimates, intervals, margins, p-values, levels, seeds, values,
looks, details and references of every audit and usual metric, but no seconds. Prints what differs, and exits with 1 if
anything does. A change of the code that is not meant to change a verdict shows so with this.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

NAMES = ("unlearner", "task", "poison", "claim")
FIELDS = (
    "verdict", "reason", "estimate", "interval", "margin", "p_pass", "p_fail", "p_bite", "level", "seeds", "values",
    "looks", "by_seed", "references", "details",
)  # fmt: skip


def audits(document: dict[str, Any], kind: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the audits of a result by what they are about, without times."""
    found = {}
    for audit in document.get(kind, ()):
        details = {name: value for name, value in audit.get("details", {}).items() if "seconds" not in name}
        found[tuple(audit[name] for name in NAMES)] = {**audit, "details": details}
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a line for everything that differs."""
    lines = []
    for kind in ("audits", "heuristics"):
        old, new = audits(before, kind), audits(after, kind)
        lines += [f"{' '.join(key)}: only in one of them" for key in sorted(old.keys() ^ new.keys())]
        for key in sorted(old.keys() & new.keys()):
            lines += [
                f"{' '.join(key)}: {field} is {new[key].get(field)}, was {old[key].get(field)}"
                for field in FIELDS
                if old[key].get(field) != new[key].get(field)
            ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (options.before, options.after))
    found = differences(before, after)
    print("\n".join(found) or f"{len(before['audits'])} audits are equal, number by number")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
