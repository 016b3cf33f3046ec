"""The command line, and the settings that it adds up to. Imports no torch."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from harness import registry
from harness.api import Cell, Registered, UnlearningError
from harness.contract import LINES, Clause
from harness.devices import visible_gpus
from harness.expectations import Expectation, Expectations
from harness.plan import LOOKS, MIN_PASS, Plan

if TYPE_CHECKING:
    from harness.files import Files

T = TypeVar("T")

#: Options that say what a run writes, and not what it finds.
NOT_REPEATED = ("--audit-json", "--audit-html", "--audit-dry-run", "--audit-expect-update")
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
        option = self.config.option
        return Plan(option.audit_seeds, option.audit_alpha, option.audit_futility)

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
        told = 1.0 if self.controls_only else self.discovery  # or retraining itself would fail
        return _or_usage_error(registry.cells, self.unlearners, self.tasks, self.config.option.poison, told)

    def clauses(self, methods: Iterable[Registered], task: Registered) -> list[Clause]:
        """Return the lines of the contract of every method, with the budget that a task gives, at least one pass.

        Generated requests are so small that a method may rightly refuse what a fraction of a pass over one pays for.
        """
        epochs = task.value.epochs
        budget = max(1.0, self.budget * epochs)
        return [Clause(method, line, budget, epochs) for method in methods for line in LINES]

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
    def store(self) -> Files:
        """Where the artefacts are."""
        from harness.files import files_at
        from harness.store import default_root

        try:
            return files_at(self.config.option.audit_store or default_root())
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from None

    @cached_property
    def expectations(self) -> Expectations | None:
        """The verdicts that are expected, or None."""
        path, updating = self.config.option.audit_expect, self.config.option.audit_expect_update
        if path is None:
            return None
        return _or_usage_error(Expectations, Path(path).expanduser().absolute(), updating)

    def unmatched(self, audits: Iterable[Mapping[str, Any]]) -> tuple[list[Expectation], list[Expectation]]:
        """Return the expectations that no audit can meet, and those about what this run does not audit."""
        if self.expectations is None:
            return [], []
        narrowed = [noun for noun in ("task", "poison") if getattr(self.config.option, noun)]
        return self.expectations.unmatched(self.cells, audits, narrowed)

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
        written = [*self.config.getini("addopts"), *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
        options = [*map(str, self.config.invocation_params.args), *written]
        named = option.unlearner or option.task or option.poison
        return bool(named or self.of_suites or any("--audit-" in each for each in options))

    @property
    def of_suites(self) -> bool:
        """Whether the suites of this project are run, and not only tests of somebody's own."""
        arguments = [*map(str, self.config.invocation_params.args), *self.config.args, str(Path.cwd())]
        return any("test_suites" in each for each in arguments)

    def check(self) -> None:
        """Fail early, in one sentence, on what cannot work.

        Raises:
            pytest.UsageError: A name, field, directory or device cannot be used.
        """
        _ = self.cells
        folder = self.folder
        if folder is not None and not folder.is_dir():
            raise pytest.UsageError(f"--audit-data: there is no directory {folder}")
        for name in ("json", "html", "expect"):
            file = getattr(self.config.option, f"audit_{name}")
            path = Path(file or ".").expanduser().absolute()
            if file and (not path.parent.is_dir() or path.is_dir()):
                raise pytest.UsageError(f"--audit-{name}: there is no directory for {file}, or it is one")
        if self.config.option.audit_expect_update and not self.config.option.audit_expect:
            raise pytest.UsageError("--audit-expect-update: say which file to write, --audit-expect=FILE")
        _ = self.expectations
        if self.config.option.audit_device == "cuda" and not self.on_ray and not visible_gpus():
            raise pytest.UsageError("--audit-device=cuda: no GPU can be used here; run with cpu or auto")
        if self.config.option.audit_tune:
            self.check_tuning()
        try:
            self.store.check()
            if self.on_ray:  # connected until the session ends
                from harness.executors import connect

                if self.config.option.verbose >= 0:  # a cluster that must be started first takes its time
                    print(f"connecting to Ray ({self.config.option.audit_executor})", file=sys.stderr)
                self.config.add_cleanup(connect(self.config.option.audit_executor, str(self.store)))
        except UnlearningError as error:
            raise pytest.UsageError(str(error)) from None

    @property
    def on_ray(self) -> bool:
        """Whether trials are computed on a Ray cluster."""
        return self.judging and bool(self.config.option.audit_executor != "local")

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

    def command(self, item: pytest.Item, unlearner: str) -> str:
        """Return the command line that runs one audit again."""
        kept, arguments = [], iter(map(str, self.config.invocation_params.args))
        for argument in arguments:
            name, equals, _ = argument.partition("=")
            if name in ("--task", "--poison") or (name.startswith("--audit-") and name not in NOT_REPEATED):
                kept.append(argument if equals else f"{name}={next(arguments, '')}")
        method = [] if self.controls_only else [f"--unlearner={unlearner}"]
        target = [item.nodeid]
        if not item.path.is_relative_to(self.config.rootpath):  # as a rule suites that --pyargs found
            test = item.nodeid.partition("::")[2]
            suites = item.path.parent.name == "test_suites"
            target = ["--pyargs", f"test_suites.{item.path.stem}::{test}"] if suites else [f"{item.path}::{test}"]
        return shlex.join(["pytest", *target, *method, *kept])

    def load_line(self, unlearner: str, task: str, poison: str, discovery: float, seed: int, made_on: str) -> str:
        """Return the Python that loads the models of a trial of this run; what is as by default is left out."""
        option = self.config.option
        given: dict[str, Any] = {"task": task, "poison": poison, "seed": seed}
        if self.budget != 0.1:
            given["budget"] = self.budget
        if discovery < 1:
            given["discovery"] = discovery
        if option.audit_store:
            given["store"] = str(self.store)
        if option.audit_data:
            given["data"] = str(self.folder)
        if made_on != "cpu":
            given["made_on"] = made_on
        return f"harness.load_models({unlearner!r}, {', '.join(f'{k}={v!r}' for k, v in given.items())})"


def _or_usage_error(function: Callable[..., T], *arguments: Any) -> T:
    try:
        return function(*arguments)
    except UnlearningError as error:
        raise pytest.UsageError("\n".join([str(error), *registry.trace(error.__cause__)])) from error
