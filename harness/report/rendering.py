"""From templates to pages: one file each, no network, no script, in the colours and shapes of the drawings.

Templates escape everything that they are handed, since names, reasons and messages may come from anybody's plugin.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report import svg
from harness.report.contrast import DASH
from harness.report.words import WORST

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")


def environment() -> jinja2.Environment:
    """Return what renders the templates, with the icons, the colours and the style of all pages."""
    import jinja2  # here, because it takes a while and few runs write a page

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["units"] = _units
    found.globals |= {
        "icon": lambda verdict: safe(_icon(verdict)),
        "light": safe(svg.palette()),
        "dark": safe(svg.palette(dark=True)),
        "drawing_style": safe(svg.style() + DASH),
    }
    return found


def safe(text: str) -> Markup:
    """Return a text that templates take as it is."""
    from markupsafe import Markup

    return Markup(text)


def _units(text: str) -> str:
    """Return a sentence whose lines do not break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=%|pp\b|seeds\b)", "\N{NO-BREAK SPACE}", text)


def _icon(verdict: str) -> str:
    """Return the mark of a verdict, for the eye alone: its word always stands beside it."""
    shape = svg.mark(verdict if verdict in WORST else "INCONCLUSIVE", 7, 7, 5)
    return f'<svg class="icon" viewBox="0 0 14 14" aria-hidden="true" focusable="false">{shape}</svg>'
