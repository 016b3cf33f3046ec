"""``pytest-unlearning glossary``: what a word of the output means."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from harness.api import UnlearningError
from harness.report.glossary import meanings


def add_glossary(subparsers: Any) -> None:
    """Add the command."""
    about = "Print what the words of the output mean: all of them, or those that are named."
    command = subparsers.add_parser("glossary", help=about, description=about)
    command.add_argument("words", nargs="*", metavar="WORD", help="such as: trace, look, kappa, 'bad seed'")
    command.set_defaults(run=_glossary)


def _glossary(options: argparse.Namespace) -> None:
    """Print the words.

    Raises:
        UnlearningError: A word is not in the glossary.
    """
    known = meanings()
    by_lower = {word.lower(): word for word in known}
    for asked in options.words:
        if asked not in known and asked.lower() not in by_lower:
            alike = [word for word in known if asked.lower() in f"{word} {known[word]}".lower()]
            more = f"; it stands in what is said of: {', '.join(alike)}" if alike else ""
            raise UnlearningError(f"{asked!r} is not in the glossary{more}")
    chosen = [word if word in known else by_lower[word.lower()] for word in options.words] or list(known)
    for word in chosen:
        print(textwrap.fill(f"{word}: {known[word]}", width=100, subsequent_indent="  "))
