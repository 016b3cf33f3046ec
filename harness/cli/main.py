"""The commands of pytest-unlearning."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.api import UnlearningError
from harness.cli.bundles import add_submit, add_verify
from harness.cli.canaries import add_canaries
from harness.cli.drill import add_drill
from harness.cli.gate import add_gate
from harness.cli.glossary import add_glossary
from harness.cli.plan import add_plan
from harness.cli.report import add_figure, add_report
from harness.cli.results import add_compare, add_results
from harness.cli.store import add_store
from harness.report.console import make_readable

#: Each adds one command, with ``run``: from options to an exit code.
COMMANDS = (
    add_drill, add_plan, add_gate, add_submit, add_verify, add_canaries, add_report, add_results, add_compare,
    add_figure, add_store, add_glossary,
)  # fmt: skip
#: Exit code of a command that was stopped by Ctrl-C, as shells have it.
INTERRUPTED = 130


def parser_of_commands() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="pytest-unlearning", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, 2 if it cannot be run."""
    parser = parser_of_commands()
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, further = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    options = parser.parse_args(own)
    if further and not hasattr(options, "pytest"):
        parser.error(f"this command takes no options for pytest: {' '.join(further)}")
    if further:  # argparse would look for them beside the first of the command's own arguments
        options.pytest = further
    make_readable(sys.stdout)
    make_readable(sys.stderr)
    try:
        return int(options.run(options) or 0)
    except UnlearningError as error:
        said = str(error)
    except OSError as error:
        said = str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"{parser.prog}: error: {said}", file=sys.stderr)
    return 2
