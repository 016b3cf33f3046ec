"""What tests need to know of a page in Markdown: its headings, links and blocks. The form is that of our own pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

#: What the site shows, as ``include_patterns`` of ci/site/conf.py has it.
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "ci" / "example_plugin" / "README.md"]

FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`+[^`]*`+")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the HTML comment in the line before it, without the marks."""

    language: str
    text: str
    note: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        note = re.search(r"<!-- (.*) -->\n\Z", text[: match.start()])
        found.append(Block(match[2], match[3], note[1] if note else ""))
    return found


def prose(page: Path) -> str:
    """Return a page without its blocks, fenced or indented."""
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page: those of its headings, as GitHub makes them, and those that it sets itself."""
    found: set[str] = set(re.findall(r'<\w+ id="([^"]+)"', page.read_text(encoding="utf-8")))
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its text
        slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
        n = 1
        while (name := slug if n == 1 else f"{slug}-{n - 1}") in found:
            n += 1
        found.add(name)
    return found


def links(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead."""
    return re.findall(r"\]\(<?([^)\s>]+)>?\)", CODE.sub("", prose(page)))
