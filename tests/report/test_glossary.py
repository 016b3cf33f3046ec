"""The words of the output, and where they are explained."""

from __future__ import annotations

import re
from html import unescape

from documents import document

from harness.cli.main import main
from harness.report.glossary import ON_THE_PAGE, meanings
from harness.report.page import render
from harness.report.tables import LEGEND


def test_meanings_are_plain_text():
    found = meanings()

    assert {"P", "trace", "kappa", "retained fraction", "look", "bad seed"} <= set(found)
    assert found["kappa"] == found["retained fraction"]
    assert found["kappa"].startswith("mean(U − R) / mean(P − R).")
    assert not [word for word, meaning in found.items() if re.search(r"\]\(|\*|`", word + meaning)]


def test_the_page_explains_its_words_and_links_to_them():
    page = render(document())
    linked = set(re.findall(r'href="#(word-[^"]*)"', page))

    assert {"word-kappa", "word-look", "word-seed", "word-yardstick", "word-P"} <= linked
    assert all(page.count(f'id="{anchor}"') == 1 for anchor in linked)
    assert all(f"<dd>{meanings()[word]}</dd>" in unescape(page) for word in ON_THE_PAGE)


def test_the_terminal_names_the_command_that_explains_words(capsys):
    assert main([*LEGEND.rpartition("pytest-unlearning ")[2].split(), "TRACE", "bad seed"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("trace: what a poison leaves in a model, read by one of its measures;")
    assert "\nbad seed: a seed whose result is beyond a limit" in text


def test_an_unknown_word_is_an_error_that_helps(capsys):
    assert main(["glossary", "stake"]) == 2
    said = "'stake' is not in the glossary; it stands in what is said of: e-value"
    assert capsys.readouterr().err == f"pytest-unlearning: error: {said}\n"
