"""The words of the output. They are those of docs/glossary.md, which is installed with the package."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
#: Where the page is: beside this module if it is installed, in a checkout where it is written.
PLACES = (HERE / "glossary.md", HERE.parent.parent / "docs" / "glossary.md")

#: Words that stand on the HTML page, in the order in which it explains them.
ON_THE_PAGE = (
    "P", "R", "R′", "U", "poison", "trace", "kappa", "tolerance", "second moment", "exact null", "bite", "seed", "look",
    "verdict", "controls", "yardstick", "pp", "TPR at 1 % FPR", "mu",
)  # fmt: skip


@cache
def meanings() -> dict[str, str]:
    """Return the meaning of each word as plain text, in the order of the page; words of one meaning stand apart."""
    text = next(place for place in PLACES if place.is_file()).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for words, meaning in re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE):
        if meaning not in ("meaning", "---"):
            found |= dict.fromkeys(_plain(words).split(", "), _plain(meaning))
    return found


def _plain(text: str) -> str:
    """Return a text without links, emphasis and marks of code."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("*", "").replace("`", "")
