"""Draw ``verdicts.svg``: made-up methods, judged by the seed plan. Needs the installed package and nothing else."""

from __future__ import annotations

from pathlib import Path

from harness.api import Measure
from harness.judging.claims import Criterion
from harness.judging.judge import judge
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence

#: Verdict of the plan, what the reader is to see, mean fraction left, standard deviation of it over seeds.
METHODS = (
    ("PASS", "within both limits", 0.08, 0.04),
    ("FAIL", "poison left", 0.6, 0.04),
    ("FAIL", "over-corrected", -0.55, 0.04),
    ("INCONCLUSIVE", "across a limit", 0.19, 0.1),
)
#: How seeds differ: made up as well, with mean 0 and standard deviation near 1, also among the last three and five.
SPREAD = (0.2, -0.7, 0.9, -0.1, 0.2, -1.5, 1.0, 0.1, -0.6, -0.9, 1.4, 0.3, -0.3, 0.7, -1.2, 0.5)
#: Colours that the colour-blind tell apart (after Okabe and Ito; darker, to be read as text), and a marker each.
STYLES = {"PASS": ("#0072B2", "circle"), "FAIL": ("#B34700", "square"), "INCONCLUSIVE": ("#4D4D4D", "diamond")}
TOLERANCE = 0.2
#: One of the two audits of a cell that are tested; the other one is accuracy.
CRITERION = Criterion(Measure("effect", "effect", worse="higher", test="retention"), TOLERANCE, judged=2)
WIDTH, HEIGHT, TOP, BOTTOM, ROW = 700, 352, 66, 290, 56
LEFT, RIGHT, LOW, HIGH = 196, 684, -1.0, 1.12

TITLE = "Verdicts of four made-up methods"
DESCRIPTION = (
    "Intervals of the fraction of the poison's effect that is left, where 0 is as if retrained, 1 is nothing "
    "unlearned, and from -0.2 to 0.2 is tolerated. "
)


def make_up(left: float, sd: float) -> Evidence:
    """Return the measure of 16 seeds' models: poison has the effect 1, of which unlearning leaves a part."""
    retrained = [0.02 * x for x in SPREAD]
    unlearned = [r + left + sd * x for r, x in zip(retrained, SPREAD[::-1], strict=True)]
    oracle = tuple(retrained[1:] + retrained[:1])
    return Evidence(tuple(r + 1 for r in retrained), tuple(retrained), tuple(unlearned), oracle, wrecked=oracle)


def x_of(fraction: float) -> float:
    """Return where a retained fraction lies, in pixels."""
    return LEFT + (fraction - LOW) / (HIGH - LOW) * (RIGHT - LEFT)


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> str:
    """Return an SVG text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{words}</text>'


def marker(shape: str, x: float, y: float) -> str:
    """Return the mark of an estimate."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y}" r="6.5"/>'
    turn = f' transform="rotate(45 {x:.1f} {y})"' if shape == "diamond" else ""
    return f'<rect x="{x - 6:.1f}" y="{y - 6}" width="12" height="12"{turn}/>'


def scale() -> list[str]:
    """Return what stands behind the intervals: the tolerated band, the two marks, the axis."""
    small = ' font-size="13" fill="#333"'
    parts = [
        f'<rect x="{x_of(-TOLERANCE):.1f}" y="{TOP - 20}" width="{x_of(TOLERANCE) - x_of(-TOLERANCE):.1f}" '
        f'height="{BOTTOM - TOP + 20}" fill="#DCEBF5"/>',
        text(x_of(0), TOP - 44, "as if retrained,", style=small),
        text(x_of(0), TOP - 28, "tolerated", style=small),
        text(x_of(-TOLERANCE) - 8, TOP - 6, "limit", "end", small),
        text(x_of(TOLERANCE) + 8, TOP - 6, "limit", "start", small),
        text(x_of(1) - 8, TOP - 6, "nothing unlearned", "end", small),
        f'<path d="M{LEFT} {BOTTOM}H{RIGHT}" stroke="#333"/>',
    ]
    dashed = ' stroke-dasharray="4 3"'
    for fraction, dash in ((-TOLERANCE, dashed), (0, ""), (TOLERANCE, dashed), (1, "")):
        parts.append(f'<path d="M{x_of(fraction):.1f} {TOP - 20}V{BOTTOM}" stroke="#333" stroke-width="1.5"{dash}/>')
    for fraction in (-0.8, -0.6, -0.4, -0.2, 0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(f'<path d="M{x_of(fraction):.1f} {BOTTOM}v5" stroke="#333"/>')
        parts.append(text(x_of(fraction), BOTTOM + 21, f"{fraction:g}".replace("-", "−"), style=small))
    parts.append(text((LEFT + RIGHT) / 2, BOTTOM + 46, "fraction of the poison's effect that is left", style=small))
    return parts


def main() -> None:
    """Write the picture beside this file."""
    parts, told = scale(), []
    for row, (expected, words, left, sd) in enumerate(METHODS):
        judgement = judge(CRITERION, make_up(left, sd), Plan())
        outcome, result = judgement.outcome, judgement.result
        assert outcome == expected, f"{words}: {outcome} ({judgement.reason})"
        colour, shape = STYLES[outcome]
        y, (low, high) = TOP + ROW * row + ROW // 2, result.interval
        # A number stands where it crosses no line.
        at, anchor = (x_of(max(high, TOLERANCE)) + 8, "start") if high > -TOLERANCE else (x_of(low) - 8, "end")
        parts += [
            text(16, y - 3, outcome, "start", f' font-weight="bold" fill="{colour}"'),
            text(16, y + 15, f"{words}, {result.n} seeds", "start", ' font-size="13" fill="#333"'),
            f'<g fill="{colour}"><path d="M{x_of(low):.1f} {y}H{x_of(high):.1f}M{x_of(low):.1f} {y - 7}v14'
            f'M{x_of(high):.1f} {y - 7}v14" stroke="{colour}" stroke-width="3"/>'
            f"{marker(shape, x_of(result.estimate), y)}</g>",
            text(at, y + 5, f"{result.estimate:.2f}".replace("-", "−"), anchor, ' font-size="13"'),
        ]
        told.append(f"{outcome} after {result.n} seeds, {words}: {result.estimate:.2f}, from {low:.2f} to {high:.2f}.")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" aria-labelledby="verdicts-title verdicts-desc" font-family="Helvetica, Arial, sans-serif" '
        'font-size="15">'
    )
    body = [
        head,
        f'<title id="verdicts-title">{TITLE}</title>',
        f'<desc id="verdicts-desc">{DESCRIPTION}{" ".join(told)}</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#FFF"/>',
        *parts,
        "</svg>",
    ]
    Path(__file__).with_name("verdicts.svg").write_text("\n".join(body) + "\n", encoding="utf-8")
    print("\n".join(told))


if __name__ == "__main__":
    main()
