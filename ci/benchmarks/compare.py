"""Are the audits of two results equal, number by number?

    python ci/benchmarks/compare.py BEFORE.json AFTER.json

Compares what ``--audit-json`` wrote as the verification of a bundle does: every value of every audit, usual metric,
line of the contract and method, but no times, paths or commands. Numbers may differ by rounding, 1e-6. Prints what
differs, and exits with 1 if anything does. A change of the code that is not meant to change a verdict shows so with
this.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.bundles.repeating import differences
from harness.report.document import read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    before, after = read(options.before), read(options.after)
    found = differences(before, after)
    print("\n".join(found) or f"{len(before['audits'])} audits are equal, number by number")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
