"""Run the suites of this project in a pytest of their own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from _pytest_unlearning import OPTIONS

#: pytest's exit code of a run that Ctrl-C ended.
INTERRUPTED = 2


def run_suite(what: Sequence[str], options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Return the exit code of a pytest. Ctrl-C reaches it, too, and it is given the time to end in its own way.

    Args:
        what: What is run, for pytest.
        options: Those of the command; its ``store`` and ``workers`` are handed on.
        arguments: Further options for pytest; the last one of a name counts.
    """
    command = [sys.executable, "-m", "pytest", "--pyargs", *what]
    command += [] if options.store is None else [f"--audit-store={options.store}"]
    command += [] if options.workers is None else ["-n", options.workers]
    sys.stdout.flush()  # what was printed so far comes first
    process = subprocess.Popen([*command, *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def options_in(arguments: Sequence[str], default: Any = None) -> argparse.Namespace:
    """Return the options of one value among pytest's arguments, as pytest reads them.

    Args:
        arguments: The arguments.
        default: The value of all that are not among them; their own defaults without it.

    Raises:
        argparse.ArgumentError: A value is invalid.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in OPTIONS:
        if not option.is_flag and not option.many:
            parser.add_argument(option.name, type=option.type, default=default or option.default)
    return parser.parse_known_args(arguments)[0]


def repeated(option: str, values: Iterable[str]) -> list[str]:
    """Return an option once for each value."""
    return [f"{option}={value}" for value in values]
