"""``plan``: a pilot that says whether audits on a task and its poisons can reach a verdict."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _pytest_unlearning import DEFAULTS, LOOKS
from harness import registry
from harness.api import UnlearningError
from harness.report.document import finite_tree, versions, write_text
from harness.report.planning import dial_lines, pilot_lines
from harness.specs import shown
from harness.studies.dials import power, stronger
from harness.studies.pilot import PILOT_SEED, Forecast, plan_study

DEFAULT = ". Default: %(default)s"


def add_plan(subparsers: Any) -> None:
    """Add ``plan``."""
    parser = subparsers.add_parser(
        "plan",
        help="A pilot: can audits on this task and these poisons reach a verdict?",
        description="Train three models on each of a few seeds that no audit uses: a poisoned one, a retrained one, "
        "and one that is retrained once more. Print for each claim how probable it is that a perfectly unlearned model "
        "passes, and how many seeds that takes; for accuracy also the smallest margin at which a PASS can be expected. "
        "The models are stored, so the same command is quick when repeated.",
    )
    noun = "NAME[:FIELD=VALUE,...]"
    parser.add_argument("--task", default=DEFAULTS["task"], metavar=noun, help=f"Task to learn{DEFAULT}")
    parser.add_argument(
        "--poison",
        action="append",
        default=[],
        metavar=noun,
        help="Poison to plant; can be repeated. Default: those that the task lists",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", type=_seeds, default=10, metavar="N", help=f"Number of seeds to train on, at least 3{DEFAULT}"
    )
    parser.add_argument(
        "--dials", action="store_true",
        help="Run a pilot of each poison with each field doubled that sets its strength, such as fraction: by which "
        "does the power grow?",
    )  # fmt: skip
    parser.add_argument(
        "--plan", choices=("quick", "reliable"), default=DEFAULTS["plan"],
        help=f"Plan of the audits (pytest's --audit-plan){DEFAULT}",
    )  # fmt: skip
    parser.add_argument("--store", metavar="PATH", help="Where trained models are kept (pytest's --audit-store)")
    parser.add_argument("--data", metavar="PATH", help="Directory with the data sets (pytest's --audit-data)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default=DEFAULTS["device"],
        help="Where to train. Default: %(default)s",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write all numbers to a file")
    parser.set_defaults(run=_plan)


def _seeds(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 3):
        raise argparse.ArgumentTypeError(f"takes a whole number from 3 on, not {text!r}")
    return int(text)


def _plan(options: argparse.Namespace) -> None:
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UnlearningError(f"the directory of {options.json} is missing; make it first")
    task = registry.resolve("task", options.task)

    def on_seed(poison: str, done: int) -> None:
        line = f"{poison}: seed {done} of {options.seeds}"
        if sys.stderr.isatty():
            print(f"\r{line}", end="\n" if done == options.seeds else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    study = functools.partial(
        plan_study, options.task, seeds=options.seeds, plan=options.plan, store=options.store, data=options.data,
        device=options.device, on_seed=on_seed,
    )  # fmt: skip
    forecasts = study(options.poison)
    last = PILOT_SEED + options.seeds - 1
    print(f"A pilot of {options.seeds} seeds, {PILOT_SEED} to {last}; {options.plan} plan, {LOOKS[-1]} seeds at most.")
    for line in pilot_lines(task.id, forecasts):
        print(line)
    dials = _dials(study, forecasts) if options.dials else {}
    if options.json is not None:
        found = {
            "task": task.id, "plan": options.plan, "seeds": options.seeds, "first_seed": PILOT_SEED,
            "versions": versions(), "forecasts": [finite_tree(asdict(forecast)) for forecast in forecasts],
            "dials": dials,
        }  # fmt: skip
        write_text(options.json.absolute(), json.dumps(found, indent=1) + "\n")


def _dials(study: Callable[[str], list[Forecast]], forecasts: Sequence[Forecast]) -> dict[str, dict[str, float | str]]:
    """Run a pilot for each field that can be doubled, and print what it found.

    Returns:
        By poison, then by field and value: the planned power, or why it cannot be planted.
    """
    found: dict[str, dict[str, float | str]] = {}
    for poison in dict.fromkeys(each.poison for each in forecasts):
        registered, powers = registry.resolve("poison", poison), found.setdefault(poison, {})
        for field, (spec, refusal) in stronger(registered).items():
            name = f"{field}={shown(2 * registered.fields[field])}"
            try:
                powers[name] = refusal or power(study(spec))
            except UnlearningError as error:
                powers[name] = str(error)
        print(f"{poison}, each field doubled in turn")
        for line in dial_lines(power([each for each in forecasts if each.poison == poison]), powers):
            print(line)
    return found
