"""The commands and Python that pages show: every option exists, every spec can be resolved, every number comes out.

The pages that begin at the beginning are run as a whole in test_page_blocks.py.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from documented import PAGES, blocks

from conftest import ROOT
from harness import registry
from harness.cli.main import parser_of_commands

STATISTICS = ROOT / "docs" / "statistics.md"
#: A line of a block that is a command. In prose, a command may lack what it needs.
COMMAND = re.compile(r"^(?: {4})?((?:pytest|pytest-unlearning) .*)$", re.MULTILINE)
#: What a shell would take away, and further ways to end a command.
REST = re.compile(r" [|>&].*")
REMARK = re.compile(r"\(.*\)")
NUMBER = re.compile(r"(?<![\w.])[−-]?\d+(?:\.\d+)?(?:e[−-]?\d+)?")


def commands(page: Path) -> list[list[str]]:
    """Return the commands in the blocks of a page, as words; wildcards and braces stay as they are."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    return [shlex.split(REST.sub("", command), comments=True) for command in COMMAND.findall(text)]


SHOWN = {" ".join(words): words for page in PAGES for words in commands(page) if "…" not in words}


@pytest.mark.parametrize("words", [words for words in SHOWN.values() if words[0] == "pytest"], ids=" ".join)
def test_pytest_knows_every_option(words, pytestconfig):
    _, unknown = pytestconfig._parser.parse_known_and_unknown_args(words[1:])

    assert unknown == []


@pytest.mark.parametrize("words", [words for words in SHOWN.values() if words[0] != "pytest"], ids=" ".join)
def test_every_command_can_be_parsed(words):
    own = words[1 : words.index("--")] if "--" in words else words[1:]

    assert parser_of_commands().parse_args(own).run


def specs() -> set[tuple[str, str]]:
    """Return the specs of this project's own plugins in the commands, each with its kind."""
    found = re.findall(r"--(unlearner|task|poison)[= ](\S+)", " ".join(SHOWN))
    return {(kind, spec) for kind, spec in found if spec.partition(":")[0] in registry.available(kind)}


@pytest.mark.parametrize(("kind", "spec"), sorted(specs()))
def test_every_spec_can_be_resolved(kind, spec, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert registry.resolve(kind, spec.replace("model=DIR,data=talk.jsonl,", "")).id


PYTHON = {f"{page.stem} {i}": b.text for page in PAGES for i, b in enumerate(blocks(page)) if b.language == "python"}


@pytest.mark.parametrize("text", PYTHON.values(), ids=PYTHON)
def test_python_is_python(text):
    ast.parse(text)


def printed(text: str) -> list[tuple[list[float], list[str]]]:
    """Run Python; for each line with a value and a comment, return the numbers of both, those of comments as text."""
    space: dict[str, object] = {"print": lambda *values: values}
    found = []
    for statement in ast.parse(text).body:
        line = text.splitlines()[statement.end_lineno - 1]
        code = ast.Module([statement], [])
        if not isinstance(statement, ast.Expr):
            exec(compile(code, "page", "exec"), space)
            continue
        value = repr(eval(compile(ast.Expression(statement.value), "page", "eval"), space))
        comment = REMARK.sub("", line.partition("  # ")[2])
        found.append(([float(n) for n in NUMBER.findall(value)], NUMBER.findall(comment)))
    return found


def rounds_to(value: float, shown: str) -> bool:
    """Whether a number is shown so if it is rounded, to digits behind the point or to significant ones."""
    shown = shown.replace("−", "-")
    mantissa = shown.partition("e")[0]
    places = len(mantissa.partition(".")[2])
    step = float(f"1e{shown.partition('e')[2] or 0}") / 10**places
    return abs(value - float(shown)) <= 0.5001 * step


@pytest.mark.parametrize(
    "text", [b.text for b in blocks(STATISTICS) if b.language == "python" and b.note != "takes a minute"]
)
def test_the_statistics_come_out_as_they_are_shown(text):
    for values, shown in printed(text):
        assert shown
        for number in shown:
            assert any(rounds_to(value, number) for value in values), f"{number} is none of {values}"
