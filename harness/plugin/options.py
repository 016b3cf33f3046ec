"""The command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from harness.judging.plan import LOOKS, MIN_PASS, Plan


def add_options(parser: pytest.Parser) -> None:
    """Register the options under their own heading of ``pytest --help``."""
    group = parser.getgroup("unlearning", "machine unlearning audits")
    noun = "NAME[:FIELD=VALUE,...]"
    group.addoption(
        "--unlearner", action="append", default=[], metavar=noun,
        help="Unlearning method to audit: a registered name, 'all', a dotted path such as mymodule:forget, or @FILE "
        "with one per line. Repeatable. Without it the controls are audited",
    )  # fmt: skip
    group.addoption(
        "--task", action="append", default=[], metavar=noun, help="What is learned; default digits-cnn. Repeatable"
    )
    group.addoption(
        "--poison", action="append", default=[], metavar=noun,
        help="What is planted: a name, 'all' or a dotted path; default every poison that is known to bite on the task. "
        "Repeatable",
    )  # fmt: skip

    def option(name: str, metavar: str, default: Any, help: str, type: Callable[[str], Any] = str) -> None:
        group.addoption(f"--audit-{name}", metavar=metavar, default=default, type=type, help=help)

    option("seeds", "N", LOOKS[-1], f"Stop the seed plan ({', '.join(map(str, LOOKS))}) at N seeds", _seeds)
    option(
        "alpha",
        "P",
        0.05,
        "Error rate of a PASS, and of a FAIL; default .05",
        _number("(0, .5)", lambda x: 0 < x < 0.5),
    )
    option(
        "futility",
        "P",
        Plan.futility,
        f"Give an audit up, INCONCLUSIVE, from {MIN_PASS} seeds on, where {LOOKS[-1]} would decide it with less "
        "probability than P; default .1, and 0 gives none up",
        _number("[0, 1)", lambda x: 0 <= x < 1),
    )
    option(
        "tolerance",
        "F",
        0.2,
        "Fraction of a poison's effect that still passes; default .2",
        _number("[0, 1)", lambda x: 0 <= x < 1),
    )
    option(
        "budget",
        "F",
        0.1,
        "Compute a method may use, as a fraction of retraining; default .1",
        _number("(0, inf)", lambda x: 0 < x < float("inf")),
    )
    option(
        "discovery",
        "F",
        1.0,
        "Fraction of the poisoned points that the method is told of; the rest stay in its retain set; default 1",
        _number("(0, 1]", lambda x: 0 < x <= 1),
    )
    option(
        "store", "PATH_OR_URL", None,
        "Where trained models are kept, such as s3://bucket/prefix; default the user's cache directory",
    )  # fmt: skip
    option("data", "DIR", None, "Data sets in the Hugging Face layout (DIR/cifar10, DIR/imdb)")
    group.addoption(
        "--audit-device", choices=("auto", "cpu", "cuda"), default="auto", help="Where models are trained; default auto"
    )
    option("json", "FILE", None, "Write the machine-readable result to FILE")
    option(
        "executor", "local|ray[://...]", "local",
        "Where trials are computed: here, on the Ray cluster of RAY_ADDRESS or a local one (ray), or at ray://HOST:PORT",
    )  # fmt: skip
    option("html", "FILE", None, "Write a report to look at to FILE, one page that needs no network")
    group.addoption(
        "--audit-inconclusive", choices=("fail", "warn"), default="fail",
        help="What an inconclusive audit does to the run; default fail",
    )  # fmt: skip
    option("expect", "FILE", None, "Verdicts that are expected, in TOML: a FAIL that is expected keeps the run green")
    group.addoption(
        "--audit-expect-update",
        action="store_true",
        help="Write the verdicts that were seen to the --audit-expect file",
    )
    option(
        "tune", "N", None, "Search the methods' fields over N settings on seeds that no audit uses, then stop", _count
    )
    option("tune-file", "FILE", "tuned.txt", "Where --audit-tune writes what it chose, for --unlearner=@FILE")
    group.addoption(
        "--audit-dry-run", action="store_true", help="Say how many trainings, how long and how much disk; train nothing"
    )


def _seeds(text: str) -> int:
    try:
        Plan(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"takes {LOOKS[0]} to {LOOKS[-1]} seeds, not {text!r}: nothing fails before {LOOKS[0]} "
            f"or passes before {MIN_PASS}, and the plan ends at {LOOKS[-1]}"
        ) from None
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number of settings, at least 1, not {text!r}")
    return int(text)


def _number(range_: str, allowed: Callable[[float], bool]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not allowed(value):
            raise argparse.ArgumentTypeError(f"takes a number in {range_}, not {text!r}")
        return value

    return convert
