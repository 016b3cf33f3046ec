"""How the documentation site is built: `CONTRIBUTING.md` has the command.

The source folder is the repository itself. So README.md and the pages of docs/ are read where they are, and their
relative links lead to the same place here as on GitHub. Nothing is fetched, neither by the build nor by a page.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

import harness

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
sys.path.insert(0, str(HERE))

project = "pytest-unlearning"
author = "The pytest-unlearning maintainers"
project_copyright = author
version = release = harness.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "ci/site/api.rst", "ci/example_plugin/README.md"]
# An environment in the checkout, say, is not searched for pages.
exclude_patterns = [".*", "build", "dist"]
needs_sphinx = "8.2"

myst_heading_anchors = 4
highlight_language = "text"  # what is indented is mostly output

# Our docstrings: Google style, with names in single backticks.
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_class_signature = "separated"
autodoc_preserve_defaults = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = "pytest-unlearning"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False, "top_of_page_buttons": []}


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the navigation to the first page: GitHub need not show it."""
    if docname == root_doc:
        source[0] += "\n" + (HERE / "navigation.md").read_text(encoding="utf-8")


def add_results(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the tables of the bundles into the page of results, and what changed between them."""
    if docname == "docs/results":
        import leaderboard

        made = {"tables": leaderboard.tables, "history": leaderboard.history}
        for place, make in made.items():
            text = make(RESULTS, lambda file: f"../{file.relative_to(RESULTS.parents[1]).as_posix()}")
            source[0] = source[0].replace(f"<!-- {place} -->", text)


#: What screen readers and the keyboard need, and the theme or Sphinx leave out.
MISSING = (
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="Pages">'),
    ('<aside class="toc-drawer">', '<aside class="toc-drawer" aria-label="On this page">'),
    ('<div class="highlight"><pre>', '<div class="highlight"><pre tabindex="0">'),  # what may scroll
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
)


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Make every page accessible, and let a web server find the first one."""
    if exception is not None or app.builder.name != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for found, mended in MISSING:
            text = text.replace(found, mended)
        text = re.sub(r'<p>(?=<img [^>]*src="[^"]*/table\.svg")', '<p tabindex="0">', text)
        # The lines of a signature are a list without terms, which HTML does not have.
        text = re.sub(r'(?s)<dt class="sig .*?</dt>', lambda sig: re.sub("<(/?)d[ld]>", r"<\1span>", sig[0]), text)
        page.write_text(text, encoding="utf-8")
    shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the three."""
    app.connect("source-read", add_navigation)
    app.connect("source-read", add_results)
    app.connect("build-finished", finish)
