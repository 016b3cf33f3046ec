"""The command line, and the settings that it adds up to. Imports no torch."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.api import Cell, Registered, UnlearningError
from harness.contract import LINES, Clause
from harness.plan import LOOKS, MIN_PASS, Plan

#: Controls that are audited where no unlearner is asked for, and what each must show.
CONTROLS = ("retrain", "identity", "wrecked")


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
    option("store", "PATH", None, "Where trained models are kept; default the user's cache directory")
    option("data", "DIR", None, "Data sets in the Hugging Face layout (DIR/cifar10, DIR/imdb)")
    group.addoption(
        "--audit-device", choices=("auto", "cpu", "cuda"), default="auto", help="Where models are trained; default auto"
    )
    option("json", "FILE", None, "Write the machine-readable result to FILE")
    group.addoption(
        "--audit-inconclusive", choices=("fail", "warn"), default="fail",
        help="What an inconclusive audit does to the run; default fail",
    )  # fmt: skip
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


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes:
        config: pytest's configuration, which holds the options.
    """

    config: pytest.Config

    @cached_property
    def plan(self) -> Plan:
        """The seed plan."""
        return Plan(self.config.option.audit_seeds, self.config.option.audit_alpha)

    @cached_property
    def unlearners(self) -> list[Registered]:
        """The methods that are audited; the controls where none is asked for."""
        return _or_usage_error(registry.resolve_all, "unlearner", self.config.option.unlearner or CONTROLS)

    @property
    def controls_only(self) -> bool:
        """Whether no unlearner was asked for."""
        return not self.config.option.unlearner

    @cached_property
    def tasks(self) -> list[Registered]:
        """The tasks."""
        return _or_usage_error(registry.resolve_all, "task", self.config.option.task or ["digits-cnn"])

    @cached_property
    def cells(self) -> list[Cell]:
        """What is audited: every method on every task with every poison of its kind."""
        return _or_usage_error(registry.cells, self.unlearners, self.tasks, self.config.option.poison, self.discovery)

    @property
    def clauses(self) -> list[Clause]:
        """The lines of the contract of every method, with the budget that the first task gives, at least one pass.

        Generated requests are so small that a method may rightly refuse what a fraction of a pass over one pays for.
        """
        epochs = self.tasks[0].value.epochs
        budget = max(1.0, self.budget * epochs)
        return [Clause(method, line, budget, epochs) for method in self.unlearners for line in LINES]

    @property
    def budget(self) -> float:
        """Compute a method may use, as a fraction of retraining."""
        return float(self.config.option.audit_budget)

    @property
    def tolerance(self) -> float:
        """Fraction of a poison's effect that still passes."""
        return float(self.config.option.audit_tolerance)

    @property
    def discovery(self) -> float:
        """Fraction of the poisoned points that the method is told of."""
        return float(self.config.option.audit_discovery)

    @cached_property
    def store(self) -> Path:
        """Directory of the artefacts."""
        from harness.store import default_root

        return Path(self.config.option.audit_store or default_root()).expanduser().absolute()

    @property
    def folder(self) -> Path | None:
        """Directory of data sets, or None."""
        given = self.config.option.audit_data
        return Path(given).expanduser().absolute() if given else None

    @property
    def judging(self) -> bool:
        """Whether audits are run, in place of a listing, a forecast or a search."""
        option = self.config.option
        return not (option.collectonly or option.audit_dry_run or option.audit_tune)

    @property
    def asked(self) -> bool:
        """Whether anything on the command line speaks of audits."""
        option = self.config.option
        arguments = [*map(str, self.config.invocation_params.args), *self.config.args, str(Path.cwd())]
        named = option.unlearner or option.task or option.poison
        return bool(named or any("--audit-" in a or "test_suites" in a for a in arguments))

    def check(self) -> None:
        """Fail early, in one sentence, on what cannot work.

        Raises:
            pytest.UsageError: A name, field, directory or device cannot be used.
        """
        from harness.store import check_writable

        _ = self.cells
        folder = self.folder
        if folder is not None and not folder.is_dir():
            raise pytest.UsageError(f"--audit-data: there is no directory {folder}")
        if self.config.option.audit_json and not Path(self.config.option.audit_json).absolute().parent.is_dir():
            raise pytest.UsageError(f"--audit-json: there is no directory for {self.config.option.audit_json}")
        if self.config.option.audit_device == "cuda" and not visible_gpus():
            raise pytest.UsageError("--audit-device=cuda: no GPU can be used here; run with cpu or auto")
        if self.discovery < 1 and self.controls_only:
            raise pytest.UsageError(
                "--audit-discovery: say which method to audit, --unlearner=NAME; the controls that run without one "
                "are told of every poisoned point"
            )
        if self.config.option.audit_tune:
            self.check_tuning()
        try:
            check_writable(self.store)
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from None

    def check_tuning(self) -> None:
        """Fail early where a search cannot work.

        Raises:
            pytest.UsageError: No unlearner is asked for, several tasks are, or the file cannot be written.
        """
        if self.controls_only:
            raise pytest.UsageError("--audit-tune: say which method to tune, --unlearner=NAME")
        if len(self.tasks) > 1:
            raise pytest.UsageError("--audit-tune: tune on one --task at a time")
        if self.discovery < 1:
            raise pytest.UsageError("--audit-tune: methods are tuned with every poisoned point; drop --audit-discovery")
        if not Path(self.config.option.audit_tune_file).absolute().parent.is_dir():
            raise pytest.UsageError(
                f"--audit-tune-file: there is no directory for {self.config.option.audit_tune_file}"
            )

    def command(self, nodeid: str, unlearner: str) -> str:
        """Return the command line that runs one audit again."""
        kept, arguments = [], iter(map(str, self.config.invocation_params.args))
        for argument in arguments:
            name, equals, _ = argument.partition("=")
            if name in ("--task", "--poison") or (
                name.startswith("--audit-") and name not in ("--audit-json", "--audit-dry-run")
            ):
                kept.append(argument if equals else f"{name}={next(arguments, '')}")
        method = [] if self.controls_only else [f"--unlearner={unlearner}"]
        return shlex.join(["pytest", nodeid, *method, *kept])


def _or_usage_error(function: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
    try:
        return function(*arguments)
    except UnlearningError as error:
        raise pytest.UsageError(str(error)) from error


def visible_gpus() -> list[str]:
    """Return the GPUs the caller may use, as opaque tokens for ``CUDA_VISIBLE_DEVICES``; makes no CUDA context."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    listing = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        listing = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    present = listing.split() if "GPU-" in listing else []
    if given is None or not present:
        return present
    return [token.strip() for token in given.split(",") if token.strip() and token.strip() != "-1"]
