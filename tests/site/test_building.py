"""The site is built as CONTRIBUTING.md has it: without a warning, and without a request."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from documented import PAGES

from conftest import ROOT

pytest.importorskip("sphinx", reason="sphinx is not installed (the extra docs)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The command of CONTRIBUTING.md, with another target."""
    target = tmp_path_factory.mktemp("site")
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    command = re.search(r"^    sphinx-build (.*?) build/site\b", guide, re.MULTILINE)[1]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *shlex.split(command), "-d", str(target / "read"), str(target / "html")],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target / "html"


def test_every_page_is_there_and_reads_nothing_from_elsewhere(site):
    pages = [site / page.relative_to(ROOT).with_suffix(".html") for page in PAGES]
    for page in (site / "index.html", site / "ci" / "site" / "api.html", *pages):
        found = re.findall(r"<(?:link|script|img|iframe)\b[^>]*\b(?:href|src)=\"(\w+:)?//[^\"]*", page.read_text())
        assert not found, page.name


def test_the_reference_has_the_text_of_the_docstrings(site):
    text = (site / "ci" / "site" / "api.html").read_text()

    assert 'id="harness.audit"' in text
    assert 'id="harness.statistics.retention"' in text
    assert "Raises" in text
