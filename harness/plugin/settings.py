"""The settings that the command line adds up to."""

from __future__ import annotations

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
from harness.contract.lines import LINES, Clause
from harness.judging.plan import Plan
from harness.plugin.expectations import Expectation, Expectations
from harness.trials.devices import visible_gpus

if TYPE_CHECKING:
    from harness.store.files import Files


T = TypeVar("T")


#: Options that say what a run writes, and not what it finds.
NOT_REPEATED = ("--audit-json", "--audit-html", "--audit-dry-run", "--audit-expect-update")


#: Controls that are audited where no unlearner is asked for, and what each must show.
CONTROLS = ("retrain", "identity", "wrecked")


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
        from harness.store.artefacts import default_root
        from harness.store.files import files_at

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
                from harness.studies.ray import connect

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
