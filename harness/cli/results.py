"""``results`` and ``compare``: JSON results as tables, and what changed between them."""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.cli.report import check_folder
from harness.report.changes import changes, made_with, unchanged
from harness.report.document import read, write_text
from harness.report.results import read_results


def add_results(subparsers: Any) -> None:
    """Add ``results RESULT.json ... --to FORM``."""
    parser = subparsers.add_parser(
        "results", help="Print the audits of JSON results as a table",
        description="Print the audits of JSON results as a table: for people, for a spreadsheet, for a paper. From "
        "Python, harness.read_results(...).to_frame() returns a pandas DataFrame.",
    )  # fmt: skip
    _files(parser)
    parser.add_argument(
        "--to", choices=("text", "csv", "markdown", "latex"), default="text", help="csv has a row for each audit with "
        "all its numbers; the others have a row for each file, method and poison. Default: %(default)s",
    )  # fmt: skip
    parser.set_defaults(run=_results)


def add_compare(subparsers: Any) -> None:
    """Add ``compare BEFORE.json AFTER.json ...``."""
    parser = subparsers.add_parser(
        "compare", help="Print what changed between results",
        description="Print what changed between JSON results, each compared with the one before it: verdicts, "
        "estimates whose intervals do not overlap, compute, versions, settings and sources. Exit with 1 if the last "
        "result is worse than the one before it: a verdict is further from PASS, or an audit is missing.",
    )  # fmt: skip
    _files(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="Also write the history of all results as a page")
    parser.set_defaults(run=_compare, parser=parser)


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="RESULT.json", help="What --audit-json wrote, or a bundle"
    )


def _results(options: argparse.Namespace) -> None:
    found = read_results(*options.files)
    forms = {
        "text": lambda: f"{found!r}\n",
        "csv": found.to_csv,
        "markdown": found.to_markdown,
        "latex": found.to_latex,
    }
    print(forms[options.to](), end="")


def _compare(options: argparse.Namespace) -> int:
    if len(options.files) < 2:
        options.parser.error("name at least two results, the earlier one first")
    if options.html:
        check_folder(options.html)
    documents = [read(file) for file in options.files]
    for (before, old), (after, new) in pairwise(zip(options.files, documents, strict=True)):
        found = changes(old, new)
        print(f"{before} → {after}")
        for line in made_with(old, new):
            print(f"  {line}")
        for change in found:
            print(f"  {'worse: ' if change.worse else ''}{change.sentence}")
        print(f"  {unchanged(new, found)}")
    if options.html:
        from harness.report.history import render

        write_text(
            options.html.absolute(),
            render([(str(file), of) for file, of in zip(options.files, documents, strict=True)]),
        )
    return int(any(change.worse for change in found))
