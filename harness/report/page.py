"""The HTML report: one file, no network, no script. A pure function of the JSON result and of pictures.

`view` turns the result into what the template shows; the template escapes everything that it is handed, since names,
reasons and messages may come from anybody's plugin.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from harness.judging.plan import LOOKS, MIN_PASS
from harness.report import svg
from harness.report.contrast import DASH, RATE, draw_panel, footnote, panels
from harness.report.figures import path_figure, seeds_figure
from harness.report.svg import MINUS, number
from harness.report.tables import contract_lines, heuristic_rows, methods_that_pass, reference_lines
from harness.report.words import WORST, as_required, crashes_in_words, detail_texts, manner, percent, points

TEMPLATES = Path(__file__).with_name("templates")


#: What the audits of a cell are called where there is little room, in the order in which they are shown.
CLAIMS = {"poison": "poison left", "accuracy": "accuracy", "cost": "compute", "relearning": "left, relearned"}


YARDSTICKS = {"examples": "examples", "steps": "optimiser steps", "flops": "operations", "seconds": "seconds"}


@dataclass(frozen=True)
class Picture:
    """What a poison did, to look at.

    Attributes:
        png: A PNG file.
        seed: The draw of the poison that it shows.
    """

    png: bytes
    seed: int

    @property
    def uri(self) -> str:
        """The picture as an address that holds all of it."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


#: Pictures by task and poison.
Pictures = Mapping[tuple[str, str], Picture]


def render(document: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """Return the report of a result as HTML.

    Args:
        document: A JSON result (``--audit-json``), of any run: audits, heuristics, the contract, or none of them.
        pictures: What was planted; tasks and poisons that are not in the result are left out.
    """
    import jinja2  # here, because it takes a while and few runs write a report

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    safe = jinja2.filters.do_mark_safe
    environment.filters |= {"percent": lambda x: "–" if x is None else percent(x), "number": number}
    environment.globals |= {
        "icon": lambda verdict: safe(_icon(verdict)),
        "seeds_figure": lambda audit: safe(seeds_figure(audit, f"s{audit['anchor']}")),
        "path_figure": lambda audit: safe(path_figure(audit, f"p{audit['anchor']}")),
        "panel": lambda panel, i: safe(draw_panel(panel, f"panel-{i}")),
        "light": safe(svg.palette()),
        "dark": safe(svg.palette(dark=True)),
        "drawing_style": safe(svg.style() + DASH),
    }
    return environment.get_template("report.html").render(view(document, pictures or {}))


def view(document: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    """Return what the template shows."""
    audits = [_shown(i, audit) for i, audit in enumerate(document.get("audits", ()))]
    heuristics = [_shown(i + len(audits), each) for i, each in enumerate(document.get("heuristics", ()))]
    contract = list(document.get("contract", ()))
    found = panels(document)
    run: dict[str, Any] = {"argv": [], "versions": {}, "device": "", "started": "", "seconds": None, "settings": {}}
    run |= document.get("run", {})
    places = list(dict.fromkeys((a["task"], a["poison"]) for a in (*audits, *heuristics)))
    return {
        "title": _title(document),
        "headline": _headline(audits, contract, document),
        "lead": _lead(audits, document),
        "run": run,
        "command": run["settings"].get("command") or " ".join(run["argv"]),
        "started": str(run["started"]).replace("T", " ").replace("Z", " UTC"),
        "matrices": _matrices(audits),
        "conclusions": _conclusions(audits, document),
        "sure": _how_sure(audits, document),
        "contract": contract,
        "contract_lines": contract_lines(contract),
        "heuristic_tables": heuristic_rows(heuristics),
        "panels": found,
        "footnote": footnote(found, document) if found else "",
        "pictures": [(task, poison, pictures[task, poison]) for task, poison in places if (task, poison) in pictures],
        "methods": _methods(audits),
        "heuristics": heuristics,
        "costs": _costs(audits),
        "controls": _controls(audits),
        "trials": _trials(document.get("trials", ())),
        "unlearners": document.get("unlearners", ()),
        "settings": {k: v for k, v in run["settings"].items() if k != "command" and v is not None},
        "looks": LOOKS,
    }


def _title(document: Mapping[str, Any]) -> str:
    names = [each["name"] for each in document.get("unlearners", ())]
    tasks = document.get("run", {}).get("settings", {}).get("tasks", [])
    methods = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Unlearning audits: {methods or 'nothing'}" + (f" on {', '.join(tasks)}" if tasks else "")


def _headline(
    audits: Sequence[Mapping[str, Any]], contract: Sequence[Mapping[str, Any]], document: Mapping[str, Any]
) -> str:
    crashed = crashes_in_words(document)
    if not audits:
        examined = "The contract was examined." * bool(contract)
        return " ".join(filter(None, [crashed, "No audits were judged in this run.", examined]))
    counts = {outcome: sum(a["verdict"] == outcome for a in audits) for outcome in WORST}
    said = ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n)
    unlike = sum(not a["as_required"] for a in audits)
    if not unlike:
        every = "Every other audit" if crashed else "Every audit"
        return f"{crashed} {every} concludes what it must: {said}.".strip()
    do, they = ("does", "it") if unlike == 1 else ("do", "they")
    return f"{crashed} {unlike} of {len(audits)} audits {do} not conclude what {they} must: {said}.".strip()


def _lead(audits: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> list[str]:
    """Return what to conclude and how sure it is, as short as it can be said."""
    if not audits:
        return []
    settings = document.get("run", {}).get("settings", {})
    alpha = settings.get("alpha", 0.05)
    together = methods_that_pass(audits, alpha)
    own = [a for a in audits if (a["unlearner"], a["task"]) == (audits[0]["unlearner"], audits[0]["task"])]
    told = [f"{together}."] if together else [_told(own, settings.get("tolerance"))] if len(own) == len(audits) else []
    return [*told, f"Error rate {percent(alpha)} over all looks, n = {_counts(audits)} seeds."]


def _counts(audits: Sequence[Mapping[str, Any]]) -> str:
    """Return on how many seeds verdicts rest, e.g. ``"3 to 16"``."""
    seeds = sorted({len(a["seeds"]) for a in audits if a["seeds"]})
    return "no" if not seeds else f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def _shown(index: int, audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return an audit with what its section needs; one that ended in an error has no numbers."""
    blank: dict[str, Any] = dict.fromkeys(
        ("estimate", "margin", "level", "p_pass", "p_fail", "p_bite", "test", "worse")
    )
    blank |= {
        "interval": [None, None], "seeds": [], "values": {}, "details": {}, "by_seed": {}, "looks": [], "reason": "",
        "finding": "", "standing": "", "command": "", "load": "", "title": "", "unit": "", "seconds": 0.0,
    }  # fmt: skip
    shown = {**blank, **audit, "anchor": f"audit-{index}"}
    shown["as_required"], shown["manner"] = as_required(audit), manner(audit)
    shown["claim_title"] = CLAIMS.get(audit["claim"], audit["claim"])
    shown["brief"] = _brief(shown)
    shown["detail_texts"] = detail_texts({k: v for k, v in shown["details"].items() if v is not None})
    shown["rows"] = _seed_rows(shown)
    shown["look_rows"] = [_look_row(shown, look) for look in shown["looks"]]
    return shown


def _brief(audit: Mapping[str, Any]) -> str:
    """Return the number of an audit where there is little room."""
    x = audit["estimate"]
    if x is None:
        return ""
    if audit["test"] == "budget" or (audit["test"] is None and audit["claim"] == "cost"):
        return percent(x)
    if audit["claim"] == "accuracy" or audit["test"] == "non-inferiority":
        return points(x)
    return f"{x:.2f}".replace("-", MINUS)


def _seed_rows(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an audit seed by seed: names of columns, and a row per seed."""
    columns = {arm: values for arm, values in audit["values"].items() if values}
    for name, by_arm in audit["by_seed"].items():
        columns |= {f"{_worded(name)}, {arm}": values for arm, values in by_arm.items()}
    rows = [
        (seed, [number(values[i]) if i < len(values) else "–" for values in columns.values()])
        for i, seed in enumerate(audit["seeds"])
    ]
    return {"columns": list(columns), "rows": rows if columns else []}


def _worded(name: str) -> str:
    return {RATE: "TPR at 1 % FPR"}.get(name, name.replace("_", " "))


def _look_row(audit: Mapping[str, Any], look: Mapping[str, Any]) -> dict[str, Any]:
    show = (lambda x: "unbounded" if x is None else points(x)) if audit["test"] == "non-inferiority" else _plain_end
    return {
        "seeds": look["seeds"],
        "estimate": show(look["estimate"]) if look["estimate"] is not None else "–",
        **{key: " … ".join(map(show, look[key])) for key in ("pass_interval", "fail_interval")},
        "p_pass": number(look["p_pass"], 2),
        "p_fail": number(look["p_fail"], 2),
    }


def _plain_end(x: float | None) -> str:
    return "unbounded" if x is None else f"{x:.2f}".replace("-", MINUS)


def _matrices(audits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a matrix per task: methods, and poison by poison their audits, poisons with the worst verdicts first."""
    matrices = []
    for task in dict.fromkeys(a["task"] for a in audits):
        here = [a for a in audits if a["task"] == task]
        order = [*CLAIMS, *(a["claim"] for a in here)]
        groups = {
            poison: sorted({a["claim"] for a in here if a["poison"] == poison}, key=order.index)
            for poison in sorted(dict.fromkeys(a["poison"] for a in here), key=lambda p: _rank(here, p))
        }
        rows = []
        for method in dict.fromkeys(a["unlearner"] for a in here):
            by = {(a["poison"], a["claim"]): a for a in here if a["unlearner"] == method}
            outcomes = [a["verdict"] for a in by.values()]
            cells = [by.get((poison, claim)) for poison, claims in groups.items() for claim in claims]
            rows.append({"method": method, "worst": min(outcomes, key=WORST.index), "cells": cells})
        titles = [CLAIMS.get(claim, claim) for claims in groups.values() for claim in claims]
        matrices.append(
            {"task": task, "groups": {p: len(c) for p, c in groups.items()}, "claims": titles, "rows": rows}
        )
    return matrices


def _rank(audits: Sequence[Mapping[str, Any]], poison: str) -> int:
    """Return where a poison comes among others: those with the worst verdicts first."""
    return min(WORST.index(a["verdict"]) for a in audits if a["poison"] == poison)


def _conclusions(audits: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what to conclude of each method on each task, in sentences, the worst methods first."""
    tolerance = document.get("run", {}).get("settings", {}).get("tolerance")
    found = []
    for method, task in dict.fromkeys((a["unlearner"], a["task"]) for a in audits):
        own = [a for a in audits if (a["unlearner"], a["task"]) == (method, task)]
        worst = min((a["verdict"] for a in own), key=WORST.index)
        findings = [
            {**a, "said": a["finding"] or a["reason"] or "No reason was given."} for a in own if a["verdict"] != "PASS"
        ]
        told = _told(own, tolerance)
        found.append({"method": method, "task": task, "worst": worst, "told": told, "findings": findings})
    return sorted(found, key=lambda each: WORST.index(each["worst"]))


def _told(own: Sequence[Mapping[str, Any]], tolerance: float | None) -> str:
    """Return what a method's audits say together."""
    if all(a["verdict"] == "PASS" for a in own):
        left = percent(tolerance) if tolerance is not None else "the tolerated share"
        return (
            f"Passes all {len(own)} audits: at most {left} of each planted effect is left, on average over seeds and "
            "by these probes, at the accuracy and cost that were asked for. It does not show that nothing else is."
        )
    if all(a["manner"] != "as expected" and a["as_required"] for a in own):
        return "A control that must not pass, and does not: the audits can tell."
    phrases = {
        ("poison", "FAIL"): "leaves {} in the model", ("poison", "PASS"): "removes {}",
        ("relearning", "FAIL"): "only hides {}, which comes back", ("relearning", "PASS"): "keeps {} away",
        ("accuracy", "FAIL"): "costs more accuracy than is allowed ({})",
        ("cost", "FAIL"): "uses more compute than its budget ({})",
    }  # fmt: skip
    said = []
    for (claim, verdict), phrase in phrases.items():
        poisons = [a["poison"] for a in own if (a["claim"], a["verdict"]) == (claim, verdict)]
        if poisons:
            said.append(phrase.format(" and ".join(poisons)))
    for verdict, phrase in (("INCONCLUSIVE", "no verdict, which is no PASS, on"), ("ERROR", "an error in")):
        named = [f"{a['poison']} ({a['claim_title']})" for a in own if a["verdict"] == verdict]
        if named:
            said.append(f"{phrase} {', '.join(named)}")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def _how_sure(audits: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> list[str]:
    """Return what the verdicts can be wrong about, and how often."""
    if not audits:
        return []
    alpha = document.get("run", {}).get("settings", {}).get("alpha", 0.05)
    seeds = sorted({len(a["seeds"]) for a in audits if a["seeds"]})
    sentences = [
        f"A PASS is given wrongly with probability at most {percent(alpha)}, over all looks together, and so is a FAIL "
        f"of a method on one poison, where differences are roughly normal over seeds. INCONCLUSIVE is neither."
    ]
    if seeds:
        sentences.append(
            f"Verdicts rest on {_counts(audits)} seeds of a fixed list, with looks after {', '.join(map(str, LOOKS))}; "
            f"nothing passes before {MIN_PASS}. {seeds[0]} seeds that agree do not exclude that up to "
            f"{percent(1 - 0.05 ** (1 / seeds[0]))} of seeds are bad (at 95 %)."
        )
    together = methods_that_pass(audits, alpha)
    return [*sentences, f"{together}."] if together else sentences


def _methods(audits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    places = dict.fromkeys((a["unlearner"], a["task"]) for a in audits)
    few = sum(not a["as_required"] for a in audits) <= 6
    order = [*CLAIMS, *(a["claim"] for a in audits)]
    poisons = list(dict.fromkeys(a["poison"] for a in audits))
    audits = sorted(audits, key=lambda a: (poisons.index(a["poison"]), order.index(a["claim"])))
    return [
        {
            "name": f"{method} on {task}",
            "audits": [
                {**a, "open": few and not a["as_required"]}
                for a in audits
                if (a["unlearner"], a["task"]) == (method, task)
            ],
        }
        for method, task in places
    ]


def _costs(audits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each method's compute against retraining, by yardstick."""
    rows = []
    for a in audits:
        if a["claim"] != "cost" or a["estimate"] is None:
            continue
        details = a["details"]
        shares = [a["estimate"], *(details.get(f"{name}_of_retraining") for name in list(YARDSTICKS)[1:])]
        seconds = [details.get("seconds of unlearning"), details.get("seconds of retraining")]
        rows.append({**a, "shares": shares, "took": [number(x, 2) for x in seconds]})
    return rows


def _controls(audits: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return what the controls beside each method said."""
    places = dict.fromkeys((a["unlearner"], a["task"]) for a in audits)
    said = [
        (f"{m} on {t}", reference_lines([a for a in audits if (a["unlearner"], a["task"]) == (m, t)]))
        for m, t in places
    ]
    return [(name, [line.strip() for line in lines]) for name, lines in said if lines]


def _trials(trials: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per method, task and poison: what was trained for it here, and how long a model takes."""
    cells: dict[tuple[str, str, str, float], list[Mapping[str, Any]]] = {}
    for trial in trials:
        told = trial.get("discovery", 1.0)
        cells.setdefault((trial["unlearner"], trial["task"], trial["poison"], told), []).append(trial)
    rows = []
    for (method, task, poison, told), own in cells.items():
        costs = [trial["cost"] for trial in own if trial["cost"] is not None]
        built = [arm for cost in costs for arm in cost["built"]]
        times = {arm: [cost["seconds"][arm] for cost in costs if arm in cost["seconds"]] for arm in "PRU"}
        rows.append({
            "method": method, "task": task,
            "poison": poison if told == 1 else f"{poison}, {100 * told:.3g} % known",
            "seeds": _span(sorted(trial["seed"] for trial in own)),
            "built": ", ".join(f"{built.count(arm)} {arm}" for arm in "PRUD" if built.count(arm)) or "nothing",
            "seconds": [number(median(of), 2) if of else "–" for of in times.values()],
            "examples": number(fmean(c["unlearn_examples"] for c in costs), 4) if costs else "–",
        })  # fmt: skip
    return rows


def _span(seeds: Sequence[int]) -> str:
    """Return seeds as people write them, e.g. ``"0–7"``."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _icon(verdict: str) -> str:
    """Return the mark of an outcome, for the eye alone: its word always stands beside it."""
    shape = svg.mark(verdict if verdict in WORST else "INCONCLUSIVE", 7, 7, 5)
    return f'<svg class="icon" viewBox="0 0 14 14" aria-hidden="true" focusable="false">{shape}</svg>'


def write_report(document: Mapping[str, Any], target: Path, device: str = "auto") -> None:
    """Write the report of a result, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    from harness.report.document import write_text
    from harness.report.pictures import pictures_of

    write_text(target, render(document, pictures_of(document, device)))
