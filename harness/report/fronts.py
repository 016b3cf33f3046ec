"""What a search for settings found: a document of plain values, and the text that is made of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from harness.report.document import versions
from harness.report.words import deviations, duration, fraction, percent, points
from harness.studies.fronts import MEAN

if TYPE_CHECKING:
    from harness.studies.fronts import Score, Tried
    from harness.studies.tuning import Tuned


def head_of(
    task: str, poisons: Sequence[str], settings: int, seeds: Sequence[range], budget: float, margin: float
) -> dict[str, Any]:
    """Return what a document says before the methods: what was searched, with what, and when."""
    return {
        "task": task,
        "poisons": list(poisons),
        "settings": settings,
        "seeds": {name: list(each) for name, each in zip(("search", "final"), seeds, strict=True)},
        "budget": budget,
        "margin": margin,
        "versions": versions() | {"optuna": metadata.version("optuna")},
        "date": time.strftime("%Y-%m-%d"),
    }


def found_of(tuned: Tuned) -> dict[str, Any]:
    """Return what a document says of one method: every setting, the fronts, and the choice."""
    from harness.studies.fronts import FLOORS, read, together

    complete = [each for each in tuned.tried if not each.given_up]
    again = {each.number: each for each in tuned.finals if not each.given_up}
    fronts: dict[str, list[dict[str, Any]]] = {}
    for name in (MEAN, *(poison.id for poison in tuned.poisons)):
        scores = [together(each.scores) if name == MEAN else each.scores[name] for each in complete]
        fronts[name] = []
        for floor in FLOORS:
            at = read(scores, floor, tuned.budget)
            point: dict[str, Any] = {"floor": -floor}
            if at is not None:
                point |= {"number": complete[at].number, **_score(scores[at])}
                if final := again.get(complete[at].number):
                    point["again"] = _score(together(final.scores) if name == MEAN else final.scores[name])
            fronts[name].append(point)
    return {
        "unlearner": tuned.method.id,
        "chosen": tuned.chosen.setting.id,
        "rule": tuned.rule,
        "edges": dict(tuned.edges),
        "on_final_seeds": plain_of(tuned.chosen),
        "fronts": fronts,
        "tried": [plain_of(each) for each in tuned.tried],
        "finals": [plain_of(each) for each in tuned.finals],
    }


def plain_of(tried: Tried) -> dict[str, Any]:
    """Return what a document says of one setting."""
    scores = {
        poison: _score(score)
        | {"traces": {name: _finite(share) for name, share in score.traces.items()}}
        | {"exact": {name: _finite(mean) for name, mean in score.exact.items()}}
        for poison, score in tried.scores.items()
    }
    return {
        "number": tried.number,
        "unlearner": tried.setting.id,
        "seeds": tried.seeds,
        "given_up": tried.given_up,
        "seconds": tried.seconds,
        "built": dict(tried.built),
        **(_score(tried.score) if scores else {}),
        "poisons": scores,
    }


def _score(score: Score) -> dict[str, Any]:
    of = {"left": score.left, "accuracy": score.accuracy, "error": score.error, "cost": score.cost}
    return {name: _finite(number) for name, number in of.items()} | {"shares": dict(score.shares)}


def _finite(x: float) -> float | None:
    return round(x, 6) if math.isfinite(x) else None


# ---- text


def spec_lines(document: Mapping[str, Any]) -> str:
    """Return the file of the chosen settings, for ``--unlearner=@FILE``: a comment and a spec for each method."""
    seeds = document["seeds"]
    text = (
        f"# Chosen on {document['task']} against {', '.join(document['poisons'])} from {document['settings']} settings "
        f"of each method on seeds {_range(seeds['search'])}, the finalists on {_range(seeds['final'])}; budget "
        f"{percent(document['budget'])} of retraining.\n"
        f"# {', '.join(f'{name} {version}' for name, version in document['versions'].items())}; {document['date']}\n"
    )
    for found in document["methods"]:
        text += f"# {_reached(found['on_final_seeds'])}, {_beware(found)}\n"
        text += f"# {_took(found)}\n# {found['rule']}\n{found['chosen']}\n"
    return text


def setting_line(setting: Mapping[str, Any]) -> str:
    """Return what one setting does, in a line."""
    said = f"given up: {setting['given_up']}" if setting["given_up"] else ""
    reached = _reached(setting) if setting["poisons"] else ""
    return f"{'; '.join(filter(None, (reached, said))):<60}  {setting['unlearner']}"


def front_lines(found: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Return the fronts of a method as a table, the choice, and what to beware of."""
    seeds, fronts = document["seeds"], found["fronts"]
    search, final = _range(seeds["search"]), _range(seeds["final"])
    joint = fronts[MEAN]
    rows = [["least poison left if accuracy is at least", *(points(point["floor"]) for point in joint)]]
    rows.append([f"  {MEAN}, seeds {search}", *(_number(point, "left", fraction) for point in joint)])
    again = [point.get("again", {}) for point in joint]
    rows.append([f"    the same settings, seeds {final}", *(_number(each, "left", fraction) for each in again)])
    rows.append(["    their accuracy there", *(_number(each, "accuracy", points) for each in again)])
    if len(fronts) > 2:
        for name in document["poisons"]:
            rows.append([f"  {name}, seeds {search}", *(_number(p, "left", fraction) for p in fronts[name])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    best = f"each is the least of up to {document['settings']} settings on {len(seeds['search'])} seeds"
    return [
        *aligned,
        f"Numbers on seeds {search} are too good: {best}. On seeds {final} no setting was chosen before.",
        f"chosen: {found['chosen']}, {found['rule']} (margin {points(document['margin']).lstrip('+')})",
        f"  on seeds {final}: {_reached(found['on_final_seeds'])}, {_beware(found)}",
        *(f"    {name}: {_traces(score)}" for name, score in found["on_final_seeds"]["poisons"].items()),
        *(f"  warning: {text}" for text in _unknown(found)),
        *(f"  warning: {_edge(name, end)}" for name, end in found["edges"].items()),
        f"  {_took(found)}",
    ]


def _beware(found: Mapping[str, Any]) -> str:
    """Return how what is reported of the chosen setting is biased, though its seeds are fresh."""
    count = sum(not each["given_up"] for each in found["finals"])
    return f"the best of {count} finalists on these seeds, so a little too good; audit it" if count > 1 else "audit it"


def _unknown(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{poison} does not stand out in the poisoned models, so what is left of it is unknown and does not count; "
        "make it stronger"
        for poison, score in found["on_final_seeds"]["poisons"].items()
        if not score["traces"]
    ]


def _edge(name: str, end: str) -> str:
    return (
        f"{name} lies at the {end} end of its range, and a better value may lie beyond: widen the range, search again"
    )


def _traces(score: Mapping[str, Any]) -> str:
    texts = []
    for name, share in score["traces"].items():
        text = f"{name} {fraction(_or_nan(share))}"
        if name in score["exact"]:
            text = f"{name} at least {fraction(_or_nan(share))} (score {deviations(_or_nan(score['exact'][name]))})"
        texts.append(text)
    return f"{', '.join(texts) or 'unknown'}; accuracy {points(_or_nan(score['accuracy']))}"


def _reached(score: Mapping[str, Any]) -> str:
    left, accuracy, cost = (_or_nan(score[name]) for name in ("left", "accuracy", "cost"))
    return f"poison left {fraction(left)}, accuracy {points(accuracy)}, cost {percent(cost)}"


def _took(found: Mapping[str, Any]) -> str:
    """Return what a search took, in all of its processes and runs."""
    tried = [*found["tried"], *found["finals"]]
    built: dict[str, int] = {}
    for each in tried:
        for arm, n in each["built"].items():
            built[arm] = built.get(arm, 0) + n
    given_up = [each["seeds"] for each in found["tried"] if each["given_up"]]
    trials = f"{sum(given_up)} seed{'s' * (sum(given_up) != 1)}"
    early = f"{len(given_up)} of them given up ({trials} in all)" if given_up else "none given up"
    unlearned = built.pop("U", 0)
    return (
        f"{len(found['tried'])} settings, {early}; {unlearned} unlearnings and "
        f"{sum(built.values())} trainings, {duration(sum(each['seconds'] for each in tried))} of all processes together"
    )


def _range(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


def _number(of: Mapping[str, Any], name: str, text: Any) -> str:
    return str(text(_or_nan(of[name]))) if name in of else "–"


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
