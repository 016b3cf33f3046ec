"""Run the suites of this project in a pytest of their own."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Sequence


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


def repeated(option: str, values: Iterable[str]) -> list[str]:
    """Return an option once for each value."""
    return [f"{option}={value}" for value in values]
