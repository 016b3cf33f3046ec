"""The command line beside pytest's: ``python -m harness COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.api import UnlearningError
from harness.housekeeping import add_store

#: Each adds one command to the subparsers, with ``run``: from options to an exit code.
COMMANDS = (add_store,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; 2 where it cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m harness", description="pytest-unlearning, beside pytest.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (UnlearningError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
