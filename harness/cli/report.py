"""``report`` and ``figure``: what is made of a JSON result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.report.document import read, write_text


def add_report(subparsers: Any) -> None:
    """Add ``report RESULT.json REPORT.html``."""
    parser = subparsers.add_parser(
        "report", help="Make the HTML report of a JSON result",
        description="Make the HTML report of a JSON result, with pictures of what was planted if the run's store still "
        "exists.",
    )  # fmt: skip
    _files(parser, "REPORT.html")
    parser.set_defaults(run=_report)


def add_figure(subparsers: Any) -> None:
    """Add ``figure RESULT.json FIGURE.svg``."""
    parser = subparsers.add_parser(
        "figure", help="Draw membership inference beside the poison's own measure",
        description="Draw membership inference beside the poison's own measure, from a run of "
        '-m "heuristic or audit".',
    )  # fmt: skip
    _files(parser, "FIGURE.svg")
    parser.set_defaults(run=_figure)


def _files(parser: argparse.ArgumentParser, target: str) -> None:
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="what --audit-json wrote")
    parser.add_argument("target", type=Path, metavar=target, help="the file to write")


def _report(options: argparse.Namespace) -> None:
    from harness.report.page import write_report

    document = read(options.result)
    check_folder(options.target)
    write_report(document, options.target.absolute())


def _figure(options: argparse.Namespace) -> None:
    from harness.report.contrast import contrast_file

    document = read(options.result)
    check_folder(options.target)
    try:
        drawn = contrast_file(document)
    except ValueError as error:
        raise UnlearningError(str(error)) from None
    write_text(options.target.absolute(), drawn)


def check_folder(target: Path) -> None:
    """Fail early if a file cannot be written.

    Raises:
        UnlearningError: Its directory is missing, or it is a directory.
    """
    if not target.absolute().parent.is_dir() or target.is_dir():
        raise UnlearningError(f"the directory of {target} is missing, or {target} is itself a directory")
