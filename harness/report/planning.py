"""What a dry run and a pilot print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from harness.report.words import duration, fraction, percent, points
from harness.studies.dials import DIALS

if TYPE_CHECKING:
    from harness.studies.pilot import Forecast


def forecast_lines(costs: Sequence[Mapping[str, Any]], processes: int) -> list[str]:
    """Return what a study would still cost, in a line for the shortest and for the longest plan, and how that is known.

    Args:
        costs: What `harness.studies.forecast.remaining_cost` returned.
        processes: How many work side by side.
    """
    lines = []
    on = f"{processes} process{'es' if processes > 1 else ''}"
    for cost, label in zip(costs, ("if every verdict is clear", "if the whole plan is needed"), strict=False):
        crafting = f"; crafting {', '.join(cost['crafted'])} comes on top" if cost["crafted"] else ""
        memory = f", {gigabytes(processes * cost['memory'])} of memory" if cost["memory"] else ""
        gpu = f" ({cost['seconds'] / 3600:.2g} GPU hours)" if cost["gpu"][1] else ""
        each = f" ({gigabytes(cost['memory'])} each)" if memory and processes > 1 else ""
        lines.append(
            f"{label} ({cost['seeds']} seeds): {cost['trainings']} trainings and {cost['unlearnings']} unlearnings, "
            f"about {duration(cost['seconds'] / processes)} on {on}{gpu}{memory}{each}, {cost['bytes'] / 1e6:.1f} MB "
            f"of disk{crafting}"
        )
    if costs and costs[0]["gpu"][1]:
        filled, whole = costs[0]["gpu"]
        lines.append(_fits(filled, whole, processes))
    if any(cost["tenth"] for cost in costs):
        lines.append(
            "Time and memory were measured by a training on a tenth of the rows. A removal is counted as one training. "
            "Memory may grow with the rows; that of processes which your code starts is not counted."
        )
    return lines


def _fits(filled: int, whole: int, processes: int) -> str:
    """Return whether the models that are trained side by side fit on a GPU, in a sentence."""
    ends = "it does not fit" if filled > whole else "it fits"
    if filled <= whole < processes * filled:
        ends += f", but {processes} processes would not fit on one GPU"
    return f"What one process trains side by side fills {gigabytes(filled)} of the GPU's {gigabytes(whole)}: {ends}."


def gigabytes(size: float) -> str:
    """Return a number of bytes as people read it, e.g. ``"0.4 GB"``."""
    return f"{size / 1e9:.1f} GB"


#: Planned power that makes an audit worth its time.
ENOUGH = 0.9


def pilot_lines(task: str, forecasts: Sequence[Forecast]) -> list[str]:
    """Return what a pilot says of each claim: its numbers, then in a sentence whether audits can judge it."""
    lines = []
    for poison, of in groupby(forecasts, key=lambda f: f.poison):
        lines.append(f"{poison} on {task}")
        for f in of:
            lines += [f"  {f.title}: {_measured(f)}", f"    {_planned(f)}", f"    {_judgement(f)}"]
    return lines


def _measured(f: Forecast) -> str:
    if f.test == "non-inferiority":
        apart = f"two retrained models differ by {_pp(f.noise)} (standard deviation)"
        step = f"; one test example counts {_pp(2 * f.resolution)}" if f.resolution else ""
        return f"{percent(f.retrained)} after retraining; {apart}{step}"
    sds = f"{f.effect_sds:.1f}" if math.isfinite(f.effect_sds) else "infinitely many"
    return (
        f"{fraction(f.poisoned)} in the poisoned model, {fraction(f.retrained)} after retraining, {sds} standard "
        "deviations apart"
    )


def _planned(f: Forecast) -> str:
    first, last = min(f.passes), max(f.passes)
    early = f", {_chance(f.passes[first])} by {first} seeds" if f.passes[first] > 0 else ""
    return (
        f"a perfectly unlearned model PASSes with probability {_chance(f.power)} by {last} seeds{early}; "
        f"its verdict takes {f.mean_seeds:.1f} seeds on average"
    )


def _judgement(f: Forecast) -> str:
    if f.test == "non-inferiority":
        return _judgement_of_accuracy(f)
    if f.power >= ENOUGH:
        return "Audits can judge it."
    needed = f" With a single look, {f.seeds_90} seeds would reach {ENOUGH}." if f.seeds_90 else ""
    weak = f"Too weak to audit: even retraining PASSes with a probability below {ENOUGH}.{needed}"
    if not f.dials:
        return (
            f"{weak} None of its fields can be doubled. Train a model that varies less over seeds, or judge "
            "by another poison."
        )
    more = "Plant more points (fraction); that raises the effect more than stronger noise or a larger trigger. " * (
        "fraction" in f.dials
    )
    return (
        f"{weak} {more}To measure what raises it, add --dials: {' and '.join(f.dials)} {_is(f.dials)} doubled. Or "
        "train a model that varies less over seeds."
    )


def _is(several: Sequence[str]) -> str:
    return "is" if len(several) == 1 else "are each"


def dial_lines(before: float, found: Mapping[str, float | str]) -> list[str]:
    """Return what a pilot found of the fields by which a poison may grow.

    Args:
        before: The planned power of the poison as it was.
        found: For each field with its doubled value, such as ``"fraction=0.2"``, the planned power; or in a sentence
            why it cannot be planted.
    """
    lines = []
    for dial, power in found.items():
        name = f"{dial} ({DIALS[dial.partition('=')[0]]})"
        ends = f"power {_chance(before)} → {_chance(power)}" if isinstance(power, float) else f"not planted: {power}"
        lines.append(f"  {name}: {ends}")
    powers = {dial: power for dial, power in found.items() if isinstance(power, float)}
    best = max(powers, key=lambda dial: powers[dial], default="")
    if not found:
        return ["  None of its fields can be doubled."]
    if not best or powers[best] <= before:
        return [*lines, "  None of them raises the power."]
    rest = "" if powers[best] >= ENOUGH else f" Raise it further: a power of {ENOUGH} is enough."
    return [*lines, f"  The power grows most by {best}.{rest}"]


def _judgement_of_accuracy(f: Forecast) -> str:
    assert f.least_margin is not None
    least = f"the smallest margin at which a PASS can be expected is {_pp(f.least_margin)}"
    if f.power >= ENOUGH:
        return f"The margin of {_pp(f.margin)} can be judged; {least}."
    step = 2 * f.resolution
    coarse = f" One test example counts {_pp(step)}, which is more than the margin." if step > f.margin else ""
    return (
        f"The margin of {_pp(f.margin)} is too small here: {least}.{coarse} Allow that much (margin = "
        f"{math.ceil(1000 * f.least_margin) / 1000:g} in a pipeline), or use more test examples."
    )


def _pp(x: float) -> str:
    return points(x).lstrip("+")


def _chance(p: float) -> str:
    return f"{p:.2f}"
