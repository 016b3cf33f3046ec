"""The figure of canaries: all of them in the order of their scores, those that were in above those that were out."""

from __future__ import annotations

from harness.canaries import Judgement
from harness.canaries.judgement import DISCLAIMER
from harness.report.svg import Scale, drawing, palette, path, style, words

LEFT, RIGHT, TOP, TALL, GAP = 84, 676, 44, 34, 14
WIDTH = RIGHT + 12


def ranking_file(judgement: Judgement) -> str:
    """Return the figure as an SVG file of its own, on white."""
    x = Scale(0, judgement.canaries, LEFT, RIGHT)
    half = judgement.best.made // 2
    ends = ("guessed out", "guessed in") if judgement.best.reverse else ("guessed in", "guessed out")
    bottom = TOP + 2 * TALL + GAP
    parts = [f'<rect width="{WIDTH}" height="{bottom + 68}" fill="#fff"/>']
    for name, low, high in ((ends[0], 0, half), (ends[1], judgement.canaries - half, judgement.canaries)):
        left, right = x(low), x(high)
        parts.append(f'<rect class="band" x="{left:.1f}" y="{TOP - 6}" width="{right - left:.1f}" '
                     f'height="{bottom - TOP + 12}"/>')  # fmt: skip
        parts.append(words((left + right) / 2, TOP - 14, name, "middle", "soft"))
    for inside, top, name, colour in ((True, TOP, "were in", "fail"), (False, TOP + TALL + GAP, "were out", "pass")):
        parts.append(words(LEFT - 10, top + TALL / 2 + 4, name, "end"))
        marks = [f"M{x(rank + 0.5):.1f} {top}v{TALL}" for rank, was in enumerate(judgement.ranking) if was is inside]
        parts.append(path("".join(marks), f"c-{colour} thin"))
    parts.append(words(LEFT, bottom + 28, "← most like a member (lowest loss)", "start", "soft"))
    parts.append(words(RIGHT, bottom + 28, "least like a member (highest loss) →", "end", "soft"))
    parts.append(words(LEFT, bottom + 52, DISCLAIMER, classes="soft"))
    body = drawing(WIDTH, bottom + 68, "canaries", f"{judgement.canaries} canaries in the order of their scores",
                   " ".join(judgement.sentences()), parts)  # fmt: skip
    return body.replace("<title ", f"<style>svg{{{palette()}}}{style()}</style><title ", 1) + "\n"
