"""``python -m harness COMMAND``: what is done with results, outside of pytest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.api import UnlearningError
from harness.commands import add_figure, add_report

#: Each adds a command, a parser whose defaults name the function that runs it.
COMMANDS = (add_report, add_figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code, 2 for what the person at the keyboard can mend."""
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UnlearningError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
