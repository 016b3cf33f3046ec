"""The pages of the documentation: every link leads somewhere, every page can be found, every option is described.

Needs no sphinx. test_building.py builds the site.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml
from documented import PAGES, anchors, blocks, links, prose

import harness
from _pytest_unlearning import OPTIONS
from conftest import ROOT
from harness.contract.lines import LINES

SITE = ROOT / "ci" / "site"
OPTION = re.compile(r"^\| `(--[\w-]+)(?: ([^`]+))?` \|.*\| ([^|]+) \|$", re.MULTILINE)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_anchors_lead_somewhere(page):
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue  # not on this machine
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            wrong.append(link)

    assert not wrong


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b`: *c*!\n\n## Two\n\n## Two\n\n[x](y.md#z) and `[not](this)`\n\n```\n[nor](this)\n```\n")

    assert links(page) == ["y.md#z"]
    assert anchors(page) == {"a-b-c", "two", "two-1"}
    assert blocks(page)[0].text == "[nor](this)\n"


def test_every_page_is_in_the_navigation_once():
    entries = re.findall(r"^(?:.* <)?([\w/]+)>?$", (SITE / "navigation.md").read_text(), re.MULTILINE)
    pages = [name(page).removesuffix(".md") for page in PAGES if page.name != "README.md" or page.parent != ROOT]

    assert sorted(entries) == sorted(["self", "ci/site/api", *pages])


def test_the_reference_of_python_has_every_public_name():
    listed = re.findall(r"^\.\. auto\w+:: (harness\.\w+)$", (SITE / "api.rst").read_text(), re.MULTILINE)
    modules = ("adapters", "api", "canaries", "statistics")

    assert sorted(listed) == sorted(f"harness.{each}" for each in (*harness.__all__, *modules))


def test_every_option_is_described_as_it_is():
    found = OPTION.findall((ROOT / "docs" / "options.md").read_text())
    rows = {option: (value.replace("\\", ""), default) for option, value, default in found}

    assert sorted(rows) == sorted(option.short or option.name for option in OPTIONS)
    for option in OPTIONS:
        value, default = rows[option.short or option.name]
        takes = "SPEC" if "FIELD=VALUE" in option.metavar else option.metavar
        assert value.replace("…", "...") == ("|".join(option.choices) or takes), option.name
        if option.default is not None:
            shown = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
            assert default.split(";")[0].strip("`") == shown, option.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_on_pages_exist(page):
    known = {each for option in OPTIONS for each in (option.name, option.short) if each}

    assert set(re.findall(r"--audit-[a-z-]*[a-z]", page.read_text())) <= known


@pytest.mark.parametrize("drawing", ["flow", "table"])
def test_a_drawing_is_what_its_script_draws(drawing):
    drawn = runpy.run_path(str(ROOT / "docs" / f"draw_{drawing}.py"))["draw"]()

    assert (ROOT / "docs" / f"{drawing}.svg").read_text(encoding="utf-8") == drawn


def test_the_citation_is_of_this_version():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())

    assert said["version"] == harness.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(said)


def test_the_page_of_the_contract_lists_its_lines():
    rows = re.findall(r"^\| `([\w-]+)` \| ", prose(ROOT / "docs" / "contract.md").partition("## ")[0], re.MULTILINE)

    assert rows == list(LINES)
