"""The way in: pytest's entry point, the table of its options, and the command ``pytest-unlearning``.

This module stands at the top level, under a name that no other project has, and imports nothing of ours. Every run of
pytest in the environment loads it, so it must be silent and harmless in a project without audits. The plugin itself,
`harness.plugin.hooks`, is loaded when an audit is asked for: an option is given, or a collected test is an audit.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

if TYPE_CHECKING:
    import pytest

# Not pytest's own, which would import pytest: the command and `harness.audit` do without it.
hookimpl = HookimplMarker("pytest")


_JOINING = threading.Lock()

#: Numbers of seeds at which the plan looks at the evidence; the rest of it is in `harness.judging.plan`.
LOOKS = (3, 5, 8, 12, 16)


def _checked(takes: str, allowed: Callable[[Any], object], convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """Return a type for an option: it converts a text and refuses a value that is not allowed."""

    def checked(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if allowed(value := convert(text)):
                return value
        raise argparse.ArgumentTypeError(f"takes {takes}, not {text!r}")

    return checked


_looks = ", ".join(map(str, LOOKS[:-1])) + f" or {LOOKS[-1]}"
_seeds = _checked(f"{_looks} seeds (a FAIL needs 3, a PASS 5)", LOOKS.__contains__, int)
_count = _checked("a number of settings, at least 1", lambda n: n >= 1, int)
_path = _checked("a path (for --audit-store also a URL)", str.strip)


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    On the command line an option that is not given is None, whatever its default is.

    Attributes:
        name: With its dashes.
        help: One sentence; the default is added to it.
        metavar: What the help shows as its value; ``""`` for a flag, which has none.
        type: From the text that is given to the value.
        default: The value if it is not given, here and in the Python interface.
        choices: The allowed values; empty if `type` decides.
        many: Whether it can be given several times.
        repeats: Whether it stands in the command that repeats an audit. Options that only say what to write do not.
        recorded: Whether its value stands in the settings of the result.
        short: A second name, which is taken only where nobody else has it.
    """

    name: str
    help: str
    metavar: str = ""
    type: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] = ()
    many: bool = False
    repeats: bool = True
    recorded: bool = False
    short: str = ""

    @property
    def dest(self) -> str:
        """Its attribute of ``config.option``."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def is_flag(self) -> bool:
        """Whether it has no value."""
        return not self.metavar and not self.choices

    @property
    def key(self) -> str:
        """What it is called in `DEFAULTS` and in the settings of the result."""
        return self.dest.removeprefix("audit_")

    def register(self, group: pytest.OptionGroup) -> None:
        """Add it to a group of pytest's command line."""
        help = self.help + (". Repeatable" if self.many else "")
        if self.default is not None:
            help += f". Default: {self.default:g}" if isinstance(self.default, float) else f". Default: {self.default}"
        if self.is_flag:
            group.addoption(self.name, action="store_const", const=True, help=help)
        elif self.many:
            group.addoption(self.name, action="append", dest=self.dest, metavar=self.metavar, help=help)
        elif self.choices:
            group.addoption(self.name, choices=self.choices, help=help)
        else:
            group.addoption(self.name, metavar=self.metavar, type=self.type, help=help)

    def called(self, config: pytest.Config) -> str:
        """Return the name by which it can be given in this project, the short one if that is ours."""
        given = getattr(config.option, self.dest)
        return self.short if self.short and config.getoption(self.short, None) is given else self.name


_NOUN = "NAME[:FIELD=VALUE,...]"
OPTIONS = (
    Option(
        "--audit-unlearner",
        "Unlearning method to audit: a registered name, 'all', a path such as mymodule:forget, or @FILE with one "
        "method per line; ALIAS=NAME shows it under a short name. Without this option, the controls are audited",
        _NOUN, many=True, repeats=False, short="--unlearner",
    ),
    Option("--audit-task", "Task that the models learn", _NOUN, default="digits-cnn", many=True, short="--task"),
    Option(
        "--audit-poison",
        "Poison to plant: a registered name, 'all', or a path such as mymodule:Poison, with fields for its strength: "
        "gaussian:fraction=0.025. Without this option, the poisons that the task lists, at the strengths that it lists",
        _NOUN, many=True, short="--poison",
    ),
    Option("--audit-seeds", f"Stop the seed plan at N seeds, one of {_looks}", "N", _seeds, default=16, recorded=True),
    Option(
        "--audit-seeds-from",
        "Draw the seeds by the methods and a secret salt, in place of the fixed list. Name the environment variable or "
        "the FILE that holds the salt; never write the salt itself", "env:NAME|FILE", _path, recorded=True,
    ),
    Option(
        "--audit-seeds-for", "Method that counts for the draw of seeds, although this run does not audit it; a gate "
        "gives it to the controls", _NOUN, many=True,
    ),
    Option(
        "--audit-plan",
        "What a PASS rests on. 'quick': the average over seeds; 'reliable': also 16 good seeds, and evidence that "
        "needs no normality",
        default="quick", choices=("quick", "reliable"), recorded=True,
    ),
    Option(
        "--audit-alpha", "Error rate of a PASS, and of a FAIL", "P",
        _checked("a number in (0, 0.5)", lambda x: 0 < x < 0.5, float), default=0.05, recorded=True,
    ),
    Option(
        "--audit-futility",
        "Stop an audit early, as INCONCLUSIVE, if 16 seeds would decide it with a probability below P; 0: never",
        "P", _checked("a number in [0, 1)", lambda x: 0 <= x < 1, float), default=0.1, recorded=True,
    ),
    Option(
        "--audit-tolerance", "Fraction of a poison's effect that still passes", "F",
        _checked("a number in [0, 1)", lambda x: 0 <= x < 1, float), default=0.2, recorded=True,
    ),
    Option(
        "--audit-budget", "Compute that a method may use, as a fraction of retraining", "F",
        _checked("a number in (0, inf)", lambda x: 0 < x < float("inf"), float), default=0.1, recorded=True,
    ),
    Option(
        "--audit-timeout",
        "Seconds after which a method is stopped. Without this option, 20 times as long as training, at least a minute",
        "SECONDS", _checked("a number in (0, inf)", lambda x: 0 < x < float("inf"), float), recorded=True,
    ),
    Option(
        "--audit-group", "Train up to K models side by side. Without this option: on a GPU, the number that trains "
        "fastest; on a CPU, 1", "K", _checked("an integer of at least 1", lambda x: x >= 1, int),
    ),
    Option(
        "--audit-discovery",
        "Fraction of the poisoned points that the method is given as its forget set; the others stay in its retain set",
        "F", _checked("a number in (0, 1]", lambda x: 0 < x <= 1, float), default=1.0, recorded=True,
    ),
    Option(
        "--audit-store",
        "Where trained models are kept: a directory, or a URL such as s3://bucket/prefix. Without it, the user's cache",
        "PATH_OR_URL", _path, recorded=True,
    ),
    Option("--audit-data", "Directory of data sets as on the hub (DIR/cifar10, DIR/imdb)", "DIR", _path, recorded=True),
    Option(
        "--audit-isolated",
        "Run each method in its own process, without access to the store or the network. Needs Linux with Landlock",
        recorded=True,
    ),
    Option("--audit-device", "Device that models are trained on", default="auto", choices=("auto", "cpu", "cuda")),
    Option("--audit-json", "Write the machine-readable result to FILE", "FILE", _path, repeats=False),
    Option(
        "--audit-html", "Write a report for people to FILE, a single page that needs no network", "FILE", _path,
        repeats=False,
    ),
    Option(
        "--audit-executor", "Where trials run: 'local', in pytest's own processes; 'ray', on the Ray cluster of "
        "RAY_ADDRESS or on a local one; or 'ray://HOST:PORT'", "local|ray[://...]", default="local",
    ),
    Option("--audit-inconclusive", "What INCONCLUSIVE does to a run", default="fail", choices=("fail", "warn")),
    Option("--audit-expect", "TOML file of expected verdicts; an expected FAIL keeps the run green", "FILE", _path),
    Option("--audit-expect-update", "Write the verdicts of this run to the --audit-expect file", repeats=False),
    Option(
        "--audit-tune", "Try N settings of each method on seeds that no audit uses, print the fronts, write the best, "
        "and stop", "N", _count,
    ),
    Option(
        "--audit-tune-file", "File that --audit-tune writes, for --unlearner=@FILE; FILE.json has all that was tried",
        "FILE", _path, default="tuned.txt",
    ),
    Option(
        "--audit-dry-run", "Report how many trainings the run needs, how long they take and how much disk they use; "
        "train nothing", repeats=False,
    ),
)  # fmt: skip

#: The default of every option, by its name without ``--`` and ``--audit-``; the Python interface has the same.
DEFAULTS: dict[str, Any] = {option.key: option.default for option in OPTIONS}

#: The marks that a test may carry before the plugin is loaded; those of single claims are the plugin's.
MARKS = (
    "audit(*claims, control=None): the test requires a verdict on each of these claims, such as 'poison'. With a "
    "control, it runs on that control, if no unlearner is asked for.",
    "audits(...): the cases that harness.parametrize_with_audits gives a test.",
    "contract: the test examines one line of an unlearner's contract, its fixture `clause`.",
)
#: What makes a marked test one of ours: marks of these names may be somebody else's.
FIXTURES = {"audited", "clause", "verdict"}

NAME = "unlearning"  # of the plugin in pytest's registry
#: The folder that holds our packages: where they are installed, or the checkout.
HOME = Path(__file__).resolve().parent
SUITES = HOME / "test_suites"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options under their own heading of ``pytest --help``."""
    group = parser.getgroup("unlearning", "machine unlearning audits")
    for option in OPTIONS:
        option.register(group)


@hookimpl(wrapper=True)
def pytest_load_initial_conftests(args: list[str], parser: pytest.Parser) -> Generator[None, Any, Any]:
    """Register the short names of options, once all conftests that may have options of these names are loaded.

    Only if one is given, or help is asked for: a conftest deeper in the tree is loaded later, and may have them too.
    """
    result = yield
    names = {argument.partition("=")[0] for argument in args}
    if names & {"-h", "--help", *(option.short for option in OPTIONS)}:
        register_short_names(parser)
    return result


def register_short_names(parser: pytest.Parser) -> None:
    """Give options their short names, such as ``--task`` for ``--audit-task``, where nobody else has them."""
    group = parser.getgroup("unlearning", "machine unlearning audits")
    for option in (option for option in OPTIONS if option.short):
        with contextlib.suppress(argparse.ArgumentError, ValueError):  # another plugin or a conftest has it
            shared = {"action": "append", "dest": option.dest, "metavar": option.metavar}
            group.addoption(option.short, help=f"Short for {option.name}", **shared)


@hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Load the plugin, if the command line asks for audits."""
    if asked(config):
        load(config)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks; a project with strict markers uses them in its test files."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)


@hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Let ``-n auto`` mean one worker per GPU in a run of audits; otherwise, xdist counts the cores."""
    workers: int | None = load(config).auto_workers() if asked(config) else None
    return workers


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> None:
    """Load the plugin before a module of our suites is imported."""
    if module_path.parent == SUITES:
        load(parent.config, collecting=True)


@hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> Any:
    """Load the plugin for a test that is an audit, and let it take part in the collection of that test."""
    config = collector.config
    if config.pluginmanager.has_plugin(NAME) or not is_audit(collector, obj):
        return None
    load(config, collecting=True)
    return config.hook.pytest_pycollect_makeitem(collector=collector, name=name, obj=obj)


@hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Load the plugin if a test module has imported us: it explains the failures of `harness.audit`."""
    if "harness.api" in sys.modules and obstacle() is None:
        load(config)


@hookimpl(optionalhook=True, tryfirst=True)
def pytest_report_from_serializable(config: pytest.Config, data: dict[str, Any]) -> None:
    """Load the plugin on xdist's controller, which collects nothing, as soon as a worker reports an audit.

    xdist calls this in a thread per worker: the first one loads the plugin, and the others wait until it has joined.
    """
    if "unlearning" in data:
        with _JOINING:
            if not config.pluginmanager.has_plugin(NAME):
                load(config).join()


def asked(config: pytest.Config) -> bool:
    """Return whether the command line asks for audits: an option is given, or our suites are named."""
    return given(config) or any(SUITES in (path, *path.parents) for path in named(config))


def given(config: pytest.Config) -> bool:
    """Return whether any of the options is given, on the command line or in a configuration file."""
    return any(getattr(config.option, option.dest, None) is not None for option in OPTIONS)


def values(config: pytest.Config) -> argparse.Namespace:
    """Return the value of every option, its default if it is not given."""
    found = {option.dest: getattr(config.option, option.dest, None) for option in OPTIONS}
    defaults = {
        option.dest: [option.default] if option.many and option.default else option.default for option in OPTIONS
    }
    return argparse.Namespace(**{dest: defaults[dest] if value is None else value for dest, value in found.items()})


def named(config: pytest.Config) -> list[Path]:
    """Return the files and folders that the arguments name, resolved."""
    found = []
    for argument in map(str, config.args):
        name = argument.partition("[")[0].partition("::")[0]
        path = config.invocation_params.dir / name
        if config.option.pyargs and not path.exists() and name.partition(".")[0] == SUITES.name:
            try:
                spec = importlib.util.find_spec(name)
            except ImportError:
                continue  # pytest reports it
            if spec is None or spec.origin is None:
                continue
            path = Path(spec.origin)
            path = path.parent if path.name == "__init__.py" else path
        found.append(path.resolve())
    return found


def is_audit(collector: pytest.Collector, obj: object) -> bool:
    """Return whether a test function carries one of our marks and uses one of our fixtures."""
    marks = [*collector.iter_markers(), *getattr(obj, "pytestmark", [])]
    if not {getattr(mark, "name", "") for mark in marks} & {"audit", "audits", "contract"}:
        return False
    return inspect.isfunction(obj) and bool(FIXTURES & set(inspect.signature(obj).parameters))


def load(config: pytest.Config, collecting: bool = False) -> Any:
    """Return the plugin, registered.

    Raises:
        pytest.UsageError: Another package stands in the way of ours.
        pytest.Collector.CollectError: The same, while tests are collected.
    """
    plugin = config.pluginmanager.get_plugin(NAME)
    if plugin is None:
        if sentence := obstacle():
            import pytest

            raise (pytest.Collector.CollectError if collecting else pytest.UsageError)(sentence)
        plugin = importlib.import_module("harness.plugin.hooks").register(config)
    return plugin


def obstacle() -> str | None:
    """Return a sentence on what Python imports in place of our package, or None; imports nothing."""
    try:
        spec = importlib.util.find_spec("harness")
    except ValueError:  # a module that was put together by hand
        spec = None
    places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or "an unknown place"])
    if places and Path(places[0]).resolve() == HOME / "harness":
        return None
    found = f"the package 'harness' in {places[0]}" if places else "something else that is called 'harness'"
    return (
        f"pytest-unlearning cannot run here: Python imports {found} in place of the one in {HOME}; "
        "run audits from another directory, or rename the other package"
    )


def main() -> int:
    """Run the command ``pytest-unlearning``, and return its exit code; 4 if another package stands in the way."""
    sys.path.insert(0, os.getcwd())  # as ``python -m harness`` has it: methods of the working directory can be named
    if sentence := obstacle():
        print(f"pytest-unlearning: error: {sentence}", file=sys.stderr)
        return 4
    code: int = importlib.import_module("harness.cli.main").main()
    return code
