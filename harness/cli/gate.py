"""The gate for a new method, in one command: its contract, the controls, the audits, and a report.

``pytest-unlearning gate --unlearner=mine:forget`` runs ``test_suites`` in three stages, each a pytest of its own, and
stops at the first stage that is red:

1. the contract, in seconds: a method that breaks it is not worth an audit;
2. the controls: if retraining fails or doing nothing passes, no verdict on a method means anything;
3. the audits of the poison, of accuracy and of the budget. Most of the models that they need were trained for the
   controls.

Controls and audits follow the reliable plan, which passes nothing before 16 good seeds; ``-- --audit-plan=quick`` is
faster.

A stage is green if its pytest is, and if its result holds a verdict on everything that was asked for. The exit code is
pytest's: 0 if everything passes or fails as expected, 1 if not or if something was not judged, 4 for an invalid command
line.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from _pytest_unlearning import LOOKS
from harness.api import UnlearningError
from harness.cli import ledger
from harness.cli.suite import repeated, run_suite
from harness.judging.drawing import read_salt
from harness.report import github
from harness.report.document import not_judged, read


@dataclass(frozen=True)
class Stage:
    """One pytest of the gate.

    Attributes:
        name: What it is called.
        arguments: What is run, for pytest.
        judges: What it judges: the part of a result that must answer all that was asked.
        red: What a red stage means.
    """

    name: str
    arguments: tuple[str, ...]
    judges: str
    red: str


STAGES = (
    Stage(
        "contract",
        ("test_suites.test_contract",),
        "contract",
        "the method does not do what every audit relies on; nothing was audited",
    ),
    Stage(
        "controls",
        ("test_suites.test_controls",),
        "audits",
        "the audits do not work here: the task or the poison is at fault; the method was not audited",
    ),
    Stage(
        "audits",
        ("test_suites", "-m", "not contract"),
        "audits",
        "the method does not pass, or not as expected; the table shows where",
    ),
)


#: A gate merges by this plan, and a bundle is judged by it, unless they are told otherwise.
PLAN, FULL = "reliable", str(LOOKS[-1])
#: Options that only the audits understand, or that every stage would write anew.
OF_AUDITS = ("--audit-expect", "--audit-html")
#: The order where methods are isolated: they are done before anything is retrained for the controls.
ISOLATED = (
    STAGES[0],
    STAGES[2],
    replace(STAGES[1], red="the audits do not work here: the task or the poison is at fault, and no verdict counts"),
)


def stages_of(options: argparse.Namespace) -> tuple[Stage, ...]:
    """Return the stages in the order in which they run."""
    return ISOLATED if options.isolated else STAGES


def add_gate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``gate``."""
    parser = subparsers.add_parser(
        "gate",
        help="Contract, controls, audits and a report: may this method be merged?",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    noun = "NAME[:FIELD=VALUE,...]"
    parser.add_argument("--unlearner", action="append", required=True, metavar=noun, help="Method to audit. Repeatable")
    parser.add_argument("--task", action="append", default=[], metavar=noun, help="Task to learn. Repeatable")
    parser.add_argument("--poison", action="append", default=[], metavar=noun, help="Poison to plant. Repeatable")
    parser.add_argument("--expect", metavar="FILE", help="File of expected verdicts (pytest's --audit-expect)")
    parser.add_argument("--store", metavar="PATH", help="Where trained models are kept (pytest's --audit-store)")
    parser.add_argument(
        "--seeds-from", metavar="env:NAME|FILE", help="Draw the seeds by the methods and a secret salt, in place of "
        "the fixed list (pytest's --audit-seeds-from)",
    )  # fmt: skip
    parser.add_argument("--ledger", metavar="FILE", help="Append each submission that was judged to FILE")
    parser.add_argument("--report", metavar="DIR", help="Folder for the report of the audits")
    parser.add_argument(
        "--isolated", action="store_true", help="Run each method in a process of its own, without access to the "
        "store or the network (pytest's --audit-isolated); the controls then run last"
    )  # fmt: skip
    parser.add_argument("--workers", metavar="N", help="Worker processes (pytest's -n)")
    parser.add_argument(
        "pytest", nargs="*", metavar="-- OPTION=VALUE", help="Further options for pytest. Those that begin with "
        "--audit- apply to every stage, the others to the audits",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the stages in order, and return the exit code of the first that is red."""
    if wrong := _misused(options):
        print(f"pytest-unlearning gate: error: {wrong}", file=sys.stderr)
        return 4
    codes: list[int] = []
    noted: list[str] = []
    stages = stages_of(options)
    with tempfile.TemporaryDirectory(prefix="unlearning-gate-") as folder:
        for number, stage in enumerate(stages, start=1):
            print(f"\ngate, {number} of {len(stages)}: {stage.name}", flush=True)
            code, end = _judge(stage, options, Path(folder))
            codes.append(code)
            if stage.name == "audits" and options.ledger:
                result = _files(stage, options, Path(folder))["--audit-json"]
                try:
                    noted = _note(Path(options.ledger), result)
                except UnlearningError as error:  # a submission that nobody counts
                    code, end = code or 1, str(error)
                    codes[-1] = code
            if code:
                break
    if code and end != stage.red and github.wanted():  # no test reports it
        print(github.command("error", "unlearning gate", f"{stage.name}: {end}"))
    end = "everything passes, or fails as expected" if code == 0 else f"{stage.name}: {end}"
    for line in noted:
        print(f"\nledger: {line}")
    print(f"\ngate: {'GREEN' if code == 0 else 'RED'}: {end}", flush=True)
    _summarise(options, codes, end, noted)
    return code


def _note(path: Path, result: Path) -> list[str]:
    """Append what was judged to the ledger, and return what it then says of it, in sentences.

    Raises:
        UnlearningError: The ledger cannot be written.
    """
    try:
        submitted = ledger.submissions_in(read(result))
    except UnlearningError:  # the stage ended without a result
        return []
    ledger.append(path, submitted)
    try:
        return ledger.in_words(path, submitted)
    except UnlearningError as error:  # another line was broken meanwhile; ours is there
        return [str(error)]


def _misused(options: argparse.Namespace) -> str:
    """Return what is wrong with the command line, in a sentence; ``""`` if nothing is."""
    for name in ("expect", "report", "store", "ledger", "seeds_from"):
        if getattr(options, name) == "":
            return f"--{name.replace('_', '-')}: needs a path; write one after it, or leave the option out"
    if any(each.partition("=")[0] == "--audit-json" for each in options.pytest):
        return "--audit-json: the gate reads this file itself; have it written with --report DIR"
    if any(each.startswith("--audit-seeds-f") for each in options.pytest):
        return "--audit-seeds-from: the controls must draw the same seeds; write --seeds-from before the --"
    try:
        if options.seeds_from:
            read_salt(options.seeds_from)
        if options.ledger:
            ledger.read(Path(options.ledger))
    except UnlearningError as error:
        return str(error)
    given = dict(each.partition("=")[::2] for each in options.pytest)
    if given.get("--audit-plan", PLAN) == PLAN and given.get("--audit-seeds", FULL) != FULL:
        return f"--audit-seeds: the {PLAN} plan passes nothing before {FULL} seeds; add --audit-plan=quick"
    return ""


def _judge(stage: Stage, options: argparse.Namespace, folder: Path) -> tuple[int, str]:
    """Run a stage. Return its exit code, and why it is red; ``""`` if it is green."""
    files = _files(stage, options, folder)
    for file in files.values():
        file.unlink(missing_ok=True)  # that of an earlier run is no answer to this one
    written = [f"{option}={file}" for option, file in files.items()]
    code = run_suite(stage.arguments, options, [*_arguments(stage, options), *written])
    if code not in (0, 1):
        return code, f"pytest did not finish (exit code {code}); the log shows why"
    try:
        document = read(files["--audit-json"])
    except UnlearningError:
        return 1, "pytest ended without a result, so nothing was judged; the log shows why"
    if code == 0 and (missing := not_judged(document, stage.judges)):
        return 1, missing
    return code, stage.red if code else ""


def _files(stage: Stage, options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Return what a stage writes, by option."""
    if stage.name != "audits" or options.report is None:
        return {"--audit-json": folder / f"{stage.name}.json"}
    report = Path(options.report)
    report.mkdir(parents=True, exist_ok=True)
    return {"--audit-json": report / "audits.json", "--audit-html": report / "report.html"}


def _arguments(stage: Stage, options: argparse.Namespace) -> list[str]:
    arguments = repeated("--task", options.task) + repeated("--poison", options.poison)
    arguments += ["--audit-isolated"] if options.isolated else []
    arguments += [f"--audit-plan={PLAN}"]  # before what was asked for, which wins
    arguments += [
        each
        for each in options.pytest
        if stage.name == "audits" or (each.startswith("--audit-") and not each.startswith(OF_AUDITS))
    ]
    if options.seeds_from and stage.name != "contract":  # the contract has no seeds
        arguments.append(f"--audit-seeds-from={options.seeds_from}")
        arguments += repeated("--audit-seeds-for", options.unlearner if stage.name == "controls" else [])
    if stage.name != "controls":
        arguments += repeated("--unlearner", options.unlearner)
    if stage.name == "audits":
        arguments += [] if options.expect is None else [f"--audit-expect={options.expect}"]
    return arguments


def _summarise(options: argparse.Namespace, codes: Sequence[int], end: str, noted: Sequence[str]) -> None:
    """Report in GitHub's summary of the step how far the gate came."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    words = [("green" if code == 0 else "**red**") for code in codes] + ["not run"] * (len(STAGES) - len(codes))
    colour = "green" if codes[-1] == 0 else "red"
    lines = [
        f"### Unlearning gate: {', '.join(options.unlearner)} is {colour}",
        "",
        "| stage | |",
        "|---|---|",
        *(f"| {stage.name} | {word} |" for stage, word in zip(stages_of(options), words, strict=True)),
        "",
        f"{end[0].upper()}{end[1:]}.",
        "",
        *(f"- ledger: {line}" for line in noted),
        "",
    ]
    with open(path, "a", encoding="utf-8") as summary:
        summary.write("\n".join(lines) + "\n")
