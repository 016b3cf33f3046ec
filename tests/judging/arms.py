"""Evidence that is made up: arms of 16 seeds, and what a judgement says of them."""

import math

from harness.api import Measure, Outcome
from harness.judging.claims import Criterion
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
NAN, INF = math.nan, math.inf

LEFT = Measure("left", "what is left", worse="higher", test="retention")
RIGHT = Measure("right", "what is right", worse="lower", test="non-inferiority")
ERROR = Measure("error", "error", worse="higher", test="non-inferiority")
RETENTION = Criterion(LEFT, 0.2, 2)
ACCURACY = Criterion(RIGHT, 0.01, 2)
PLAN = Plan()


def cycle(values, n=16):
    return tuple(values[i % len(values)] for i in range(n))


SMALL = (0.0, 0.01, -0.01, 0.02, -0.02)
P = tuple(1 + x for x in cycle((0.01, -0.02, 0.0, 0.02, -0.01)))
R = cycle(SMALL)
GOOD = tuple(r + x for r, x in zip(R, cycle((0.01, 0.03, 0.02)), strict=True))  # 2 % is left
BAD = tuple(r + x for r, x in zip(R, cycle((0.9, 0.92, 0.88)), strict=True))
EDGE = tuple(r + x for r, x in zip(R, cycle((0.0, 0.4, 0.1, 0.3)), strict=True))  # on the margin
NEAR = tuple(r + x for r, x in zip(R, cycle((0.0, 0.3, 0.05, 0.25)), strict=True))  # a PASS seems near to the end


def made(p, r, u, oracle, resolution=0.0, wrecked=None, unusable=()):
    """Return evidence whose wreck is one: far below the retrained models."""
    wreck = tuple(x - 0.9 for x in r) if wrecked is None else wrecked
    return Evidence(p, r, u, oracle, wreck, unusable, resolution)


def evidence(u, p=P, r=R, oracle=GOOD, resolution=0.0):
    return made(p, r, u, oracle, resolution)


def spliced(first, *rest):
    """Return 16 numbers of which the parts begin at the given seeds: ``spliced(a, (5, b))``."""
    values = list(first)
    for start, other in rest:
        values[start:] = other[start:]
    return tuple(values)


def said(judgement):
    return judgement.outcome, judgement.reason, judgement.seeds


def spread(mean, t, n):
    """Return n differences with a given mean and t statistic."""
    shape = [x - (n - 1) / 2 for x in range(n)]
    sd = math.sqrt(sum(x * x for x in shape) / (n - 1))
    scale = abs(mean) * math.sqrt(n) / (t * sd)
    return [mean + scale * x for x in shape]
