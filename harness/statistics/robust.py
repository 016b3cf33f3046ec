"""Evidence that needs no normality: e-values for means of bounded numbers, and seeds that stand out.

A t test of few numbers takes a small spread for proof. Where a method does nothing on one seed in five, most sets of
five seeds hold no such seed, and look steady. What is here asks for no law of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from harness.statistics.levels import DUST

#: A seed stands out if it is further beyond the margin than so many standard deviations of a reference.
SPREADS = 2.0


def e_value(x: Sequence[float], most: float) -> float:
    """Return the evidence that the mean of `x` lies below 0, for numbers of any law that are at most `most`.

    A gambler stakes on every number in turn, all that the bound allows: the stake is multiplied by 1 - x / `most`. If
    the mean is 0 or more, no game of this kind wins on average, and the stake ever reaches 1 / a with probability at
    most a (Ville 1939; Waudby-Smith & Ramdas 2024). Returned is the largest stake up to the last number, at least 1,
    the stake before the first. It may be asked for after any number, as often as one likes, without a correction.

    Deviation: a number above `most` ends the game, as one of `most` does. So what is bounded is strictly the mean of
    the numbers cut off at `most`.

    Args:
        x: numbers, in the order in which they came.
        most: the largest that they can be, positive.

    Raises:
        ValueError: if `most` is not positive.
    """
    if not 0 < most < math.inf:
        raise ValueError(f"the largest number must be positive and finite, not {most}.")
    stake = largest = 1.0
    for value in x:
        stake *= max(0.0, 1 - float(value) / most)
        largest = max(largest, stake)
    return largest


def standing_out(x: Sequence[float], reference: Sequence[float], sd_floor: float = 0.0) -> list[int]:
    """Return the indices of numbers further above 0 than the scatter of a reference explains.

    That is more than `SPREADS` sample standard deviations of the reference: its mean does not matter. Rounding error
    is no distance.

    Args:
        x: numbers, 0 on the margin and positive beyond it.
        reference: what a perfect method has in the place of `x`, at least two numbers.
        sd_floor: least standard deviation that is believed, in the unit of `x`.

    Raises:
        ValueError: if the reference has fewer than two numbers, or `sd_floor` is negative.
    """
    if len(reference) < 2 or not sd_floor >= 0:
        raise ValueError(f"a scatter takes at least 2 numbers and a floor from 0 on, not {len(reference)}, {sd_floor}.")
    dust = DUST * max([1.0, *map(abs, x), *map(abs, reference)])
    limit = SPREADS * max(stdev(reference), sd_floor) + dust
    return [i for i, value in enumerate(x) if value > limit]
