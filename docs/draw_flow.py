"""Draw ``flow.svg``: how an audit gets from data to a verdict. Needs nothing but Python."""

from __future__ import annotations

from pathlib import Path

WIDTH, HEIGHT = 480, 640
#: Colours that the colour-blind tell apart (after Okabe and Ito), dark enough for white text: poisoned, clean, neither.
POISONED, CLEAN, UNLEARNED, INK = "#B34700", "#0072B2", "#4D4D4D", "#1B1F24"

TITLE = "From data to a verdict"
DESCRIPTION = (
    "For each seed, P is trained on the training set with planted points, R on the same set without them, and R′ once "
    "more without them. The method makes U from P. One measure is read from each model. The fraction left is "
    "mean(U − R) / mean(P − R). After 3, 5, 8, 12 and 16 seeds the audit looks whether it is clear. If not, it takes "
    "more seeds. If so, or at the end: PASS, FAIL or INCONCLUSIVE."
)


def text(x: float, y: float, words: str, style: str = "") -> str:
    """Return a centred text; each line of it is a line."""
    return "".join(
        f'<text x="{x}" y="{y + 19 * i}" text-anchor="middle"{style}>{line}</text>'
        for i, line in enumerate(words.split("\n"))
    )


def box(x: float, y: float, width: float, height: float, words: str, stroke: str = INK) -> str:
    """Return a box with a text in its middle."""
    first = y + height / 2 + 5 - 9.5 * words.count("\n")
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="#FFF" stroke="{stroke}"/>'
    return frame + text(x + width / 2, first, words)


def model(x: float, y: float, name: str, fill: str) -> str:
    """Return a model: a disc with its letter."""
    return f'<circle cx="{x}" cy="{y}" r="21" fill="{fill}"/>' + text(
        x, y + 6, name, ' fill="#FFF" font-weight="bold" font-size="18"'
    )


def arrow(*points: tuple[float, float]) -> str:
    """Return an arrow along points."""
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="{INK}" stroke-width="1.5" marker-end="url(#tip)"/>'


def draw() -> str:
    """Return the drawing."""
    soft = ' fill="#4D4D4D" font-size="13"'
    parts = [
        box(14, 14, 212, 52, "training set\nwith planted points", POISONED),
        box(254, 14, 212, 52, "training set\nwithout them", CLEAN),
        arrow((80, 66), (80, 104)), arrow((310, 66), (310, 104)), arrow((400, 66), (400, 104)),
        text(128, 90, "train", soft), text(355, 90, "train", soft),
        model(80, 128, "P", POISONED), model(310, 128, "R", CLEAN), model(400, 128, "R′", CLEAN),
        arrow((80, 149), (80, 182)),
        box(34, 184, 92, 36, "method"), text(208, 200, "sees the points to keep\nand the points to forget", soft),
        arrow((80, 220), (80, 248)),
        model(80, 272, "U", UNLEARNED),
        arrow((59, 128), (22, 128), (22, 326)), arrow((80, 293), (80, 326)),
        arrow((310, 149), (310, 326)), arrow((400, 149), (400, 326)),
        box(14, 328, 412, 36, "read the same measure from each model"),
        arrow((220, 364), (220, 392)),
        box(14, 394, 412, 52, "fraction left =\nmean(U − R) / mean(P − R)"),
        arrow((220, 446), (220, 474)),
        box(14, 476, 412, 52, "look after 3, 5, 8, 12 and 16 seeds:\nis it clear?"),
        arrow((426, 502), (462, 502), (462, 100), (462, 68)),
        f'<g transform="translate(476 300) rotate(-90)">{text(0, 0, "not yet: more seeds", soft)}</g>',
        arrow((90, 528), (90, 566)), arrow((220, 528), (220, 566)), arrow((350, 528), (350, 566)),
        box(14, 568, 126, 58, "PASS\nwithin ±20 %", CLEAN),
        box(150, 568, 126, 58, "FAIL\nbeyond it", POISONED),
        box(286, 568, 140, 58, "INCONCLUSIVE\nnot shown", UNLEARNED),
    ]  # fmt: skip
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="flow-title flow-desc" font-family="Helvetica, Arial, sans-serif" font-size="15">',
        f'<title id="flow-title">{TITLE}</title>', f'<desc id="flow-desc">{DESCRIPTION}</desc>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 Z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#FFF"/>', *parts, "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    (Path(__file__).parent / "flow.svg").write_text(draw(), encoding="utf-8")
