"""What a console can show and run: signs that its encoding lacks, and command lines of its shell."""

from __future__ import annotations

import codecs
import contextlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

#: What stands in the place of a sign that an encoding such as cp1252 lacks; ``?`` for any other.
PLAIN = {"−": "-", "→": "->", "≥": ">=", "≤": "<=", "…": "...", "·": "|", "—": "-", "–": "-", "×": "x", "±": "+/-"}
HANDLER = "unlearning-plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(HANDLER, _plain)


def make_readable(stream: Any) -> None:
    """Let a text stream write plain signs where its encoding lacks one; those of captured output stay as they are."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # none that can be told
        if stream.errors == "strict":
            stream.reconfigure(errors=HANDLER)


def command_line(argv: Sequence[str], windows: bool = os.name == "nt") -> str:
    """Return arguments as a line for the shell at hand."""
    return subprocess.list2cmdline(argv) if windows else shlex.join(argv)
