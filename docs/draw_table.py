"""Draw ``table.svg``: the closing table of the tutorial, with numbers at its parts. Needs nothing but Python."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
#: Parts of the table, in the order of their numbers: the line they stand in, and their text there.
PARTS = (
    (0, "mine:forget on digits-cnn"), (1, "backdoor"), (1, "PASS"), (1, "n=12"), (1, "0.11"), (1, "[0.03, 0.19]"),
    (2, "−2.7 sd FAIL (second moment)"), (2, "−0.6 pp"), (2, "10 %"), (3, "short"), (5, "retrain PASS"),
    (6, "0, 10, 20, 50, 100 % of the poison"), (9, "8 good seeds"),
)  # fmt: skip
#: Where the picture breaks a line that the terminal has in one.
BREAKS = ((";", "this method's"), ("·", "0, 10"), ("·", "cost:"), ("bad", "(--audit"))
CHARACTER, LINE, MARKED, MARGIN, SIZE = 7.8, 21, 42, 16, 13  # pixels: a character, a line, one with marks, the font
INK, PAPER, MARK, SOFT = "#1B1F24", "#FFF", "#005F96", "#4F5761"

TITLE = "The closing table, with numbers at its parts"
DESCRIPTION = "The parts are explained in the text, by these numbers: "


def lines() -> list[str]:
    """Return the table as the tutorial has it, long lines broken."""
    found = re.search(r"^mine:forget on digits-cnn .*?for 16\)$", (HERE / "tutorial.md").read_text("utf-8").partition(
        "## 7.")[2], re.MULTILINE | re.DOTALL)  # fmt: skip
    assert found
    text = found[0]
    for mark, following in BREAKS:
        text = text.replace(f"{mark} {following}", f"{mark}\n    {following}")
    return text.splitlines()


def draw() -> str:
    """Return the drawing."""
    shown = lines()
    width = 2 * MARGIN + CHARACTER * max(map(len, shown))
    marked = {row for row, _ in PARTS}
    texts, marks, named, baselines = [], [], [], []
    y = MARGIN - 12
    for row, line in enumerate(shown):
        y += MARKED if row in marked else LINE
        baselines.append(y)
        start = len(line) - len(line.lstrip())
        texts.append(
            f'<text x="{MARGIN + CHARACTER * start:.1f}" y="{y}" textLength="{CHARACTER * (len(line) - start):.1f}" '
            f'xml:space="preserve">{escape(line.lstrip())}</text>'
        )
    height = y + MARGIN
    for number, (row, part) in enumerate(PARTS, 1):
        place = shown[row].index(part)
        x, y = MARGIN + CHARACTER * place, baselines[row]
        marks.append(
            f'<path d="M{x:.1f} {y + 5}h{CHARACTER * len(part):.1f}" stroke="{MARK}" stroke-width="2"/>'
            f'<circle cx="{x + 9:.1f}" cy="{y - 22}" r="9" fill="{MARK}"/>'
            f'<text x="{x + 9:.1f}" y="{y - 18}" text-anchor="middle" fill="{PAPER}" font-size="11" font-weight="bold" '
            f'font-family="Helvetica, Arial, sans-serif">{number}</text>'
        )
        named.append(f"{number} at {part}")
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-labelledby="table-title table-desc" font-size="{SIZE}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" fill="{INK}">',
        f'<title id="table-title">{TITLE}</title>',
        f'<desc id="table-desc">{escape(DESCRIPTION + "; ".join(named))}.</desc>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="{PAPER}"/>', *texts, *marks, "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    (HERE / "table.svg").write_text(draw(), encoding="utf-8")
