"""Small pieces of SVG: scales, marks, intervals, words. All text is escaped; colours are classes of a style sheet.

Every outcome has a shape, a colour and a word, so that nothing depends on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

MINUS = "−"

#: Shape of the mark of an outcome, of a model, and of an attack.
SHAPES = {
    "PASS": "circle", "FAIL": "square", "INCONCLUSIVE": "diamond", "ERROR": "cross",
    "poisoned": "square", "retrained": "circle", "unlearned": "diamond",
    "membership": "circle", "poison": "diamond",
}  # fmt: skip

#: Colours that colour-blind readers can distinguish (after Okabe and Ito), dark enough for text: light, then dark.
COLOURS = {
    "ink": ("#1b1f24", "#e8eaed"), "soft": ("#4f5761", "#b4bac2"), "line": ("#c9d0d8", "#444b54"),
    "paper": ("#ffffff", "#14171b"), "raised": ("#f4f6f8", "#1e2329"), "band": ("#dcebf5", "#1d3a4f"),
    "pass": ("#005f96", "#7cc4f5"), "fail": ("#a83f00", "#ffa366"), "unclear": ("#4d4d4d", "#c4c4c4"),
    "error": ("#8f2d6b", "#f09acb"), "link": ("#005f96", "#7cc4f5"),
}  # fmt: skip

#: The class that gives each its colour.
CLASSES = {
    "PASS": "pass", "FAIL": "fail", "INCONCLUSIVE": "unclear", "ERROR": "error",
    "poisoned": "fail", "retrained": "pass", "unlearned": "ink", "membership": "pass", "poison": "fail",
}  # fmt: skip


def style() -> str:
    """Return the rules for the classes that drawings use; colours are variables, see `palette`."""
    return (
        "svg text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;"
        "fill:var(--ink)}svg .soft{fill:var(--soft)}svg .strong{font-weight:700}"
        ".rule{stroke:var(--line);fill:none}.edge{stroke:var(--soft);fill:none}"
        ".limit{stroke:var(--ink);stroke-dasharray:4 3;fill:none}.band{fill:var(--band)}"
        ".s{fill-opacity:.72}.wide{stroke-width:4.5}.mean{stroke:var(--ink);stroke-width:2}.thin{stroke-width:1.4}"
    ) + "".join(
        f".c-{name}{{fill:var(--{name});stroke:var(--{name})}}.o-{name}{{fill:var(--paper);stroke:var(--{name})}}"
        for name in ("ink", "pass", "fail", "unclear", "error")
    )


def palette(dark: bool = False) -> str:
    """Return the colours as declarations of variables."""
    return "".join(f"--{name}:{pair[dark]};" for name, pair in COLOURS.items())


def number(x: float | None, digits: int = 3) -> str:
    """Return a number as people read it; ``"–"`` for None."""
    if x is None:
        return "–"
    return f"{x:.{digits}g}".replace("-", MINUS) if abs(x) < 1e5 else f"{x:.2g}".replace("-", MINUS)


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels.

    Attributes:
        low, high: The numbers at the ends; ``low < high``.
        left, right: Their pixels.
    """

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def around(cls, numbers: Sequence[float], left: float, right: float) -> Scale:
        """Return the scale that shows all the numbers, with a little room beside them."""
        low, high = min(numbers), max(numbers)
        room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
        return cls(low - room, high + room, left, right)

    def __call__(self, x: float) -> float:
        """Return the pixel of a number; a number beyond the scale lies at its end."""
        share = (x - self.low) / (self.high - self.low)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round numbers on the scale, at most ``most``."""
        span = self.high - self.low
        size = 10.0 ** math.floor(math.log10(span / most))
        step = next(size * m for m in (1, 2, 5, 10, 20) if span / (size * m) <= most - 1)
        first = math.ceil(self.low / step)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step) + 1)]


def words(x: float, y: float, text: str, anchor: str = "start", classes: str = "") -> str:
    """Return a text."""
    anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}"{anchored}{_class(classes)}>{escape(text)}</text>'


def path(d: str, classes: str) -> str:
    """Return a path."""
    return f'<path d="{d}"{_class(classes)}/>'


def band(x: Scale, low: float, high: float, top: float, bottom: float) -> str:
    """Return the tolerated range, as a band over all rows."""
    left, right = sorted((x(low), x(high)))
    return f'<rect class="band" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"/>'


def mark(kind: str, x: float, y: float, size: float = 5, hollow: bool = False, tip: str = "") -> str:
    """Return the mark of an outcome, a model or an attack, one of `SHAPES`."""
    classes = f"{'o' if hollow else 'c'}-{CLASSES[kind]}"
    inner = f"<title>{escape(tip)}</title>" if tip else ""
    shape = SHAPES[kind]
    if shape == "circle":
        return f'<circle class="{classes} s" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}">{inner}</circle>'
    a, b = 0.88 * size, 1.25 * size  # so that all look equally large
    corners = {
        "square": f"M{x - a:.1f} {y - a:.1f}h{2 * a:.1f}v{2 * a:.1f}h{-2 * a:.1f}z",
        "diamond": f"M{x:.1f} {y - b:.1f}l{b:.1f} {b:.1f}l{-b:.1f} {b:.1f}l{-b:.1f} {-b:.1f}z",
        "cross": f"M{x - size:.1f} {y - size:.1f}l{2 * size:.1f} {2 * size:.1f}m0 {-2 * size:.1f}l{-2 * size:.1f} "
        f"{2 * size:.1f}",
    }
    return f'<path class="{classes} s" d="{corners[shape]}">{inner}</path>'


def interval(x: Scale, ends: Sequence[float | None], y: float, classes: str, cap: float = 4) -> str:
    """Return an interval: a line with caps. An end beyond the scale has an arrow in place of its cap."""
    low, high = -math.inf if ends[0] is None else ends[0], math.inf if ends[1] is None else ends[1]
    left, right = x(low), x(high)
    parts = [f"M{left:.1f} {y:.1f}H{right:.1f}"]
    for at, beyond, turn in ((left, low < x.low, 1), (right, high > x.high, -1)):
        if beyond:
            parts.append(f"M{at + 6 * turn:.1f} {y - 5:.1f}L{at:.1f} {y:.1f}L{at + 6 * turn:.1f} {y + 5:.1f}")
        elif cap:
            parts.append(f"M{at:.1f} {y - cap:.1f}v{2 * cap:g}")
    return f'<path d="{"".join(parts)}" class="{classes}" style="fill:none"/>'


def axis(x: Scale, y: float, title: str, percent: bool = False) -> str:
    """Return the axis below the rows, with its numbers and its title."""
    parts = [path(f"M{x.left:g} {y:g}H{x.right:g}", "edge")]
    for tick in x.ticks():
        label = f"{100 * tick:.4g} %".replace("-", MINUS) if percent else number(tick)
        parts += [path(f"M{x(tick):.1f} {y:g}v4", "edge"), words(x(tick), y + 17, label, "middle", "soft")]
    half = 3.2 * len(title)  # about; a long title stands farther left, so that it ends with the axis
    return "".join([*parts, words(min((x.left + x.right) / 2, x.right + 8 - half), y + 34, title, "middle", "soft")])


def drawing(width: float, height: float, name: str, title: str, description: str, parts: Sequence[str]) -> str:
    """Return a whole drawing, which a screen reader reads as its title and description.

    Args:
        width: In pixels.
        height: Likewise.
        name: An id that nothing else on the page has.
        title: What it shows, in a few words.
        description: What the drawing shows, in sentences.
        parts: What is drawn.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(description)}</desc>{"".join(parts)}</svg>'
    )


def _class(classes: str) -> str:
    return f' class="{classes}"' if classes else ""
