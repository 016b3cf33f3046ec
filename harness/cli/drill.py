"""``drill``: can one's own pipeline take a source of its data back out of its model?"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.api import UnlearningError
from harness.canaries.planting import FEWEST
from harness.cells import Registered
from harness.cli.suite import repeated, run_suite
from harness.columns import parted
from harness.importing import raised
from harness.report.document import read
from harness.report.drilling import canary_line, drill_lines
from harness.report.words import percent
from harness.specs import shown
from harness.studies.recall import CANARIES, recall, trials
from harness.trials.lab import Lab, new_run

#: What a drill runs, for pytest.
SUITES = ("test_suites", "-m", "not contract")


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
        "--source", required=True, metavar="COLUMN=VALUE|FILE", help="Rows to remove: those whose column has the value "
        "(with * and ? as wildcards), or a text file with their row numbers in the training set, counted from 0, one "
        "per line",
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
    parser.add_argument("--report", metavar="DIR", help="Folder for an HTML report and the JSON result")
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
    with tempfile.TemporaryDirectory(prefix="unlearning-drill-") as folder:
        report = Path(options.report or folder)
        report.mkdir(parents=True, exist_ok=True)
        result = report / "audits.json"
        result.unlink(missing_ok=True)
        files = {"--audit-json": result} | ({"--audit-html": report / "report.html"} if options.report else {})
        code = run_suite(SUITES, options, _arguments(options, method, specs, files))
        if not options.dry_run and result.is_file():
            print()
            for line in drill_lines(read(result), spec, name, rows, of):
                print(line)
    if not unfit and code in (0, 1):
        print(_canaries(options, unlearner, task, canaries))
    return code


def _arguments(options: argparse.Namespace, method: str, specs: Sequence[str], files: Mapping[str, Path]) -> list[str]:
    """Return the options of the drill's pytest."""
    arguments = [f"--task={options.pipeline}", f"--unlearner={method}", *repeated("--poison", specs)]
    arguments += [f"--audit-plan={options.plan}", *(f"{option}={file}" for option, file in files.items())]
    arguments += ["-k", "not test_budget"] if options.budget is None else [f"--audit-budget={options.budget}"]
    return [*arguments, *(["--audit-dry-run"] if options.dry_run else []), *options.pytest]


def _canaries(options: argparse.Namespace, method: Registered, task: Registered, source: Registered) -> str:
    """Return what canaries show, in a line; what they would cost, if only that is asked for."""
    given = dict(each.partition("=")[::2] for each in options.pytest)
    timeout = float(given["--audit-timeout"]) if "--audit-timeout" in given else None
    budget, device = float(options.budget or DEFAULTS["budget"]), given.get("--audit-device", DEFAULTS["device"])
    try:
        lab = Lab.open(options.store, run=new_run("drill"), budget=budget, timeout=timeout, device=device)
        if options.dry_run:
            missing = [arm for arm in lab.missing(trials(method, task, source)[0]) if arm != "R"]
            return f"Canaries: {missing.count('P')} training and {missing.count('U')} unlearning more."
        return canary_line(recall(method, task, source, lab))
    except Exception as error:  # of the removal, as a rule, which the audits report in full
        said = str(error) if isinstance(error, UnlearningError) else raised(error)
        return f"Canaries: not judged: {said}"


def source_of(text: str) -> tuple[str, str]:
    """Return the spec of the poison that is a source, and what people call it.

    Raises:
        UnlearningError: It is neither COLUMN=VALUE nor a file.
    """
    if Path(text).is_file():
        return f"source:rows={shown(text)}", text
    if "=" not in text:
        raise UnlearningError(f"--source {text!r} must be COLUMN=VALUE or the path of a file that exists")
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
