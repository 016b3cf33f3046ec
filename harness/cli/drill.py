"""``drill``: can one's own pipeline take a source of its data back out of its model?"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.api import UnlearningError
from harness.calling import of_plugin
from harness.canaries.planting import FEWEST
from harness.cells import Registered, Trial
from harness.cli.suite import options_in, repeated, run_suite
from harness.columns import parted
from harness.importing import raised
from harness.report.document import read, write_text
from harness.report.drilling import canary_line, drill_lines
from harness.report.words import percent
from harness.specs import shown
from harness.studies.recall import CANARIES, lacking, recall, trials
from harness.trials.lab import Lab, new_run

#: What a drill runs, for pytest; with a budget, `BUDGET`, too. They are named so that ``-k`` and ``-m`` stay free.
SUITES = ("test_suites.test_forgetting", "test_suites.test_utility")
BUDGET = "test_suites.test_budget"


def add_drill(subparsers: Any) -> None:
    """Add ``drill``."""
    parser = subparsers.add_parser(
        "drill",
        help="Take a source back out of your own model: does your removal work?",
        description="Train your model with and without a source of its data, by your own code, have your removal take "
        "the source out, and test whether the result matches the model that never saw it. Poisons that fit your data "
        "are planted in as many rows, because a source that is like the other data leaves little to measure. Models "
        "are stored, so a drill that was stopped goes on where it was. See docs/pipeline.md.",
    )
    parser.add_argument(
        "pipeline", metavar="PIPELINE.py", help="File with your functions load, train, predict and remove"
    )
    parser.add_argument(
        "--source", required=True, metavar="COLUMN=VALUE|FILE|FILE.py:FUNCTION", help="Rows to remove: those whose "
        "column has the value (with * and ? as wildcards); or a text file with their row numbers in the training set, "
        "counted from 0, one per line; or a function that is handed the training set and returns a truth value for "
        "each row, or row numbers",
    )  # fmt: skip
    parser.add_argument(
        "--remove", default="remove", metavar="NAME", help="Name of your removal in PIPELINE.py (a function or a "
        "command), or the name of another method. Default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--poison", action="append", default=[], metavar="SPEC", help="Poison to plant besides the "
                        "source. It replaces those that are chosen to fit the data. Repeatable")  # fmt: skip
    parser.add_argument("--plan", choices=("quick", "reliable"), default=DEFAULTS["plan"],
                        help="Plan of the audits (pytest's --audit-plan). Default: %(default)s")  # fmt: skip
    parser.add_argument("--budget", metavar="SHARE", help="Compute that the removal may use, as a share of "
                        "retraining's (pytest's --audit-budget). Without it, compute is not judged")  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="Print how many trainings the drill needs, and their time, memory and "
        "disk, then stop. To measure it, one model is trained on a tenth of the rows",
    )  # fmt: skip
    parser.add_argument("--store", metavar="PATH", help="Where trained models are kept (pytest's --audit-store)")
    parser.add_argument("--report", metavar="DIR", help="Folder for an HTML report and the JSON results")
    parser.add_argument("--workers", metavar="N", help="Worker processes (pytest's -n)")
    parser.add_argument("pytest", nargs="*", metavar="-- OPTION=VALUE", help="Further options for pytest")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the audits, then judge by canaries; return pytest's exit code: 0 if every audit passes."""
    task = registry.resolve("task", options.pipeline)
    if not hasattr(task.value, "fitting"):
        raise UnlearningError(f"{options.pipeline!r} is not a pipeline; give the path of a Python file")
    named, name = source_of(options.source)
    spec = registry.resolve("poison", f"{named},probe_set=true" if task.value.probe_set() is not None else named).id
    rows, of = _count(task, spec)
    share = rows / of
    for each in options.poison:
        if why := task.value.refuses(each):
            raise UnlearningError(f"--poison {each} cannot be planted: {why}")
    considered = {} if options.poison else task.value.considered(share)
    specs = [spec, *options.poison, *(each for each, why in considered.items() if not why)]
    canaries = registry.resolve("poison", f"{named},canaries={CANARIES}")
    unfit = f"the source has {rows} rows; at least {FEWEST} are needed to show anything" if rows < FEWEST else ""
    method = options.remove if ":" in options.remove else f"{options.pipeline}:{options.remove}"
    if not _defines(options.pipeline, options.remove) and options.remove in registry.available("unlearner"):
        method = options.remove
    unlearner = registry.resolve("unlearner", method)
    print(f"Recall drill of {options.pipeline}: source {name}, {rows:,} of {of:,} training rows ({percent(share)}).")
    print(f"Also planted: {', '.join([*specs[1:], *([] if unfit else ['canaries'])]) or 'nothing'}.")
    for each, why in {**considered, "canaries": unfit}.items():
        if why:
            print(f"Not planted: {each}: {why}.")
    if taken := ", ".join(f"{each} = {value!r}" for each, value in task.value.changed.items()):
        print(f"Settings of {options.pipeline}: {taken}.")
    audited = trials(unlearner, task, registry.resolve("poison", spec))
    lines = []
    with tempfile.TemporaryDirectory(prefix="unlearning-drill-") as folder:
        report = Path(options.report or folder)
        report.mkdir(parents=True, exist_ok=True)
        result, found = report / "audits.json", report / "drill.json"
        for each in (result, found):
            each.unlink(missing_ok=True)
        files = {"--audit-json": result} | ({"--audit-html": report / "report.html"} if options.report else {})
        arguments = _arguments(options, method, specs, files)
        code = run_suite(SUITES if options.budget is None else (*SUITES, BUDGET), options, arguments)
        if not options.dry_run and result.is_file():
            print()
            lines += drill_lines(read(result), spec, name, rows, of)
            print(*lines, sep="\n")
        if not unfit and code in (0, 1):
            lines.append(_canaries(options, arguments, audited, canaries))
            print(lines[-1])
        if options.report and not options.dry_run:
            drilled = {"source": name, "rows": rows, "of": of, "lines": lines}
            write_text(found, json.dumps(drilled, indent=1, ensure_ascii=False) + "\n")
    return code


def _arguments(options: argparse.Namespace, method: str, specs: Sequence[str], files: Mapping[str, Path]) -> list[str]:
    """Return the options of the drill's pytest."""
    arguments = [f"--task={options.pipeline}", f"--unlearner={method}", *repeated("--poison", specs)]
    arguments += [f"--audit-plan={options.plan}", *(f"{option}={file}" for option, file in files.items())]
    arguments += [] if options.budget is None else [f"--audit-budget={options.budget}"]
    return [*arguments, *(["--audit-dry-run"] if options.dry_run else []), *options.pytest]


def _canaries(
    options: argparse.Namespace, arguments: Sequence[str], audited: Sequence[Trial], source: Registered
) -> str:
    """Return what canaries show, in a line; what they would cost, if only that is asked for."""
    given = options_in([*([f"--audit-store={options.store}"] if options.store else []), *arguments])
    cell = audited[0].cell
    try:
        lab = Lab.open(
            given.audit_store, data=given.audit_data and Path(given.audit_data).expanduser().absolute(),
            device=given.audit_device, budget=given.audit_budget, timeout=given.audit_timeout,
            group=given.audit_group, run=new_run("drill"),
        )  # fmt: skip
        if options.dry_run:
            # Seeds that are drawn do not have the one of the canaries.
            soon = () if given.audit_seeds_from else audited
            trainings, unlearnings = lacking(cell.unlearner, cell.task, source, lab, soon)
            return f"Canaries: {_several(trainings, 'training')} and {_several(unlearnings, 'unlearning')} more."
        return canary_line(recall(cell.unlearner, cell.task, source, lab))
    except Exception as error:
        if not of_plugin(error):
            raise
        return f"Canaries: not judged: {str(error) if isinstance(error, UnlearningError) else raised(error)}"


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def source_of(text: str) -> tuple[str, str]:
    """Return the spec of the poison that is a source, and what people call it.

    Raises:
        UnlearningError: It is neither COLUMN=VALUE nor a file, nor a function in one.
    """
    file, _, function = text.rpartition(":")
    if file.endswith(".py") and function.isidentifier() and (Path(file).is_file() or "=" not in text):
        return f"source:where={shown(text)}", text
    if Path(text).is_file():
        return f"source:rows={shown(text)}", text
    if "=" not in text:
        raise UnlearningError(
            f"--source {text!r} must be COLUMN=VALUE, the path of a file that exists, or FILE.py:FUNCTION"
        )
    column, value = parted(text)
    return f"source:column={shown(column)},value={shown(value)}", text


def _count(task: Registered, spec: str) -> tuple[int, int]:
    """Return the rows of a source and of the training set."""
    poison = registry.resolve("poison", spec)
    split = task.value.load(None)
    return len(poison.value.plant(task.value, split, 0).forget), len(split.train)


def _defines(pipeline: str, name: str) -> bool:
    try:
        registry.resolve("unlearner", f"{pipeline}:{name}")
    except UnlearningError:
        return False
    return True
