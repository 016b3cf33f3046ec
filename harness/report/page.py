"""The HTML report: one file, no network, no script. A pure function of the JSON result and of pictures.

`view` turns the result into what the template shows. The template escapes everything that it is handed, since names,
reasons and messages may come from anybody's plugin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness.judging.plan import LOOKS
from harness.judging.yardsticks import YARDSTICKS
from harness.report import rendering
from harness.report.collected import BLANK
from harness.report.conclusions import conclusion, headline, how_sure, lead
from harness.report.contrast import draw_panel, footnote, panels
from harness.report.document import Entry, MethodResult, grouped, methods, places, title_of, worst_of, write_text
from harness.report.figures import figures
from harness.report.glossary import ON_THE_PAGE, meanings
from harness.report.pictures import Picture, pictures_of
from harness.report.svg import number
from harness.report.tables import contract_lines, heuristic_rows, reference_lines
from harness.report.words import (
    WORST,
    as_required,
    detail_texts,
    estimate,
    manner,
    percent,
    shown_by,
    worded,
)
from harness.specs import called, split

if TYPE_CHECKING:
    from markupsafe import Markup

#: Pictures by task and poison.
Pictures = Mapping[tuple[str, str], Picture]


def write_report(document: Mapping[str, Any], target: Path, device: str = "auto") -> None:
    """Write the report of a result, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(target, render(document, pictures_of(document, device)))


def render(document: Mapping[str, Any], pictures: Pictures | None = None) -> str:
    """Return the report of a result as HTML.

    Args:
        document: A JSON result (``--audit-json``) of any run. Audits, heuristics and the contract may be missing.
        pictures: What was planted; tasks and poisons that are not in the result are left out.
    """
    environment = rendering.environment()
    environment.filters |= {"percent": lambda x: "–" if x is None else percent(x), "number": number}
    safe = rendering.safe
    environment.globals |= {
        "figures": lambda audit: [(caption, safe(drawn)) for caption, drawn in figures(audit, audit["anchor"])],
        "panel": lambda panel, i: safe(draw_panel(panel, f"panel-{i}")),
        "term": _term,
    }
    environment.filters["anchor"] = _anchor
    return environment.get_template("report.html").render(view(document, pictures or {}))


def _anchor(word: str) -> str:
    """Return the id of a word's meaning on the page."""
    return "word-" + re.sub(r"\W+", "-", word)


def _term(word: str, text: str = "") -> Markup:
    """Return a link to the meaning of a word, one of `ON_THE_PAGE`."""
    return rendering.safe(f'<a href="#{_anchor(word)}">{text or word}</a>')


def view(document: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    """Return what the template shows."""
    audits = [_shown(i, audit) for i, audit in enumerate(document.get("audits", ()))]
    metrics = [_shown(i + len(audits), each) for i, each in enumerate(document.get("heuristics", ()))]
    judged = methods({"audits": audits, "heuristics": metrics})
    audited = [method for method in judged if method.audits]
    found = panels(document)
    run: dict[str, Any] = {"argv": [], "versions": {}, "device": "", "started": "", "seconds": None, "settings": {}}
    run |= document.get("run", {})
    return {
        "title": _title(document),
        "headline": headline(document),
        "lead": lead(audited, document),
        "run": run,
        "command": run["settings"].get("command") or " ".join(run["argv"]),
        "started": str(run["started"]).replace("T", " ").replace("Z", " UTC"),
        "matrices": [_matrix(own) for own in _by_task(audited).values()],
        "conclusions": _conclusions(audited, run["settings"].get("tolerance")),
        "sure": how_sure(audited, document),
        "contract": document.get("contract", ()),
        "contract_lines": contract_lines(document.get("contract", ())),
        "heuristic_tables": heuristic_rows(judged),
        "panels": found,
        "footnote": footnote(found) if found else "",
        "pictures": [(*place, pictures[place]) for place in places(judged) if place in pictures],
        "methods": audited,
        "unfold": sum(not a["as_required"] for a in audits) <= 6,
        "heuristics": metrics,
        "costs": _costs(audited),
        "yardsticks": [each.title for each in YARDSTICKS.values()],
        "controls": [(m.name, [line.strip() for line in reference_lines(m)]) for m in audited if m.references],
        "trials": _trials(document.get("trials", ())),
        "unlearners": document.get("unlearners", ()),
        "settings": {k: v for k, v in run["settings"].items() if k != "command" and v is not None},
        "looks": LOOKS,
        "words": {word: meanings()[word] for word in ON_THE_PAGE},
    }


def _title(document: Mapping[str, Any]) -> str:
    names = [called(each["name"]) for each in document.get("unlearners", ())]
    tasks = document.get("run", {}).get("settings", {}).get("tasks", [])
    named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Unlearning audits{': ' * bool(named)}{named}" + (f" on {', '.join(tasks)}" if tasks else "")


def _shown(index: int, audit: Entry) -> dict[str, Any]:
    """Return an audit with what its section needs; one that ended in an error has no numbers."""
    blank = {
        **BLANK, **dict.fromkeys(("level", "test", "worse")), "details": {}, "by_seed": {}, "looks": [], "reason": "",
        "finding": "", "advice": "", "standing": "", "command": "", "load": "", "title": "", "unit": "",
        "trace": "", "traces": {},
    }  # fmt: skip
    shown = {**blank, **audit, "anchor": f"audit-{index}"}
    shown["as_required"], shown["manner"] = as_required(audit), manner(audit)
    shown["claim_title"] = title_of(audit["claim"])
    shown["estimate_text"] = estimate(shown)
    shown["sentence"] = shown["finding"] or shown["reason"] or "The audit raised an error and has no numbers."
    shown["detail_texts"] = detail_texts({k: v for k, v in shown["details"].items() if v is not None})
    shown["rows"] = _seed_rows(shown)
    shown["look_rows"] = [_look_row(shown, look) for look in shown["looks"]]
    return shown


def _seed_rows(audit: Entry) -> dict[str, Any]:
    """Return the numbers of an audit seed by seed: names of columns, and a row per seed."""
    columns = {arm: values for arm, values in audit["values"].items() if values}
    for name, by_arm in audit["by_seed"].items():
        columns |= {f"{worded(name)}, {arm}": values for arm, values in by_arm.items()}
    rows = [
        (seed, [number(values[i]) if i < len(values) else "–" for values in columns.values()])
        for i, seed in enumerate(audit["seeds"])
    ]
    return {"columns": list(columns), "rows": rows if columns else []}


def _look_row(audit: Entry, look: Mapping[str, Any]) -> dict[str, Any]:
    show = shown_by(audit)

    def ends(key: str) -> str:
        return " to ".join("unbounded" if x is None else show(x) for x in look[key])

    return {
        "seeds": look["seeds"],
        "estimate": "–" if look["estimate"] is None else show(look["estimate"]),
        "pass_interval": ends("pass_interval"),
        "fail_interval": ends("fail_interval"),
        "p_pass": number(look["p_pass"], 2),
        "p_fail": number(look["p_fail"], 2),
    }


def _by_task(found: Iterable[MethodResult]) -> dict[str, list[MethodResult]]:
    by_task: dict[str, list[MethodResult]] = {}
    for method in found:
        by_task.setdefault(method.task, []).append(method)
    return by_task


def _matrix(found: Sequence[MethodResult]) -> dict[str, Any]:
    """Return the matrix of a task: a row per method, and poison by poison its audits, the worst poison first.

    The strengths of one poison stand together.
    """
    by_poison = grouped([audit for method in found for audit in method.audits], "poison")
    at_any_strength: dict[str, list[Entry]] = {}
    for (poison,), own in by_poison.items():
        at_any_strength.setdefault(split(poison)[0], []).extend(own)
    worst_first = sorted(at_any_strength, key=lambda name: WORST.index(worst_of(at_any_strength[name])))
    ordered = sorted(by_poison.items(), key=lambda group: worst_first.index(split(group[0][0])[0]))
    groups = {poison: list({audit["claim"]: None for audit in own}) for (poison,), own in ordered}
    rows = []
    for method in found:
        by = {cell.poison: cell.by_claim for cell in method.cells}
        cells = [by.get(poison, {}).get(claim) for poison, claims in groups.items() for claim in claims]
        rows.append({"method": method.called, "cells": cells})
    titles = [title_of(claim) for claims in groups.values() for claim in claims]
    spans = {poison: len(claims) for poison, claims in groups.items()}
    return {"task": found[0].task, "groups": spans, "claims": titles, "rows": rows}


def _conclusions(found: Iterable[MethodResult], tolerance: float | None) -> list[dict[str, Any]]:
    """Return what to conclude about each method, and its audits that did not pass, the worst method first."""
    return [
        {
            "method": method,
            "text": conclusion(method, tolerance),
            "findings": [a for a in method.audits if a["verdict"] != "PASS"],
        }
        for method in sorted(found, key=lambda method: WORST.index(method.worst))
    ]


def _costs(found: Iterable[MethodResult]) -> list[dict[str, Any]]:
    """Return each method's compute against retraining, by yardstick."""
    rows = []
    for audit in (audit for method in found for audit in method.audits):
        if audit["test"] == "budget" and audit["estimate"] is not None:
            details = audit["details"]
            shares = [details.get(f"{name}_of_retraining") for name in YARDSTICKS]
            seconds = [number(details.get(f"seconds of {what}"), 2) for what in ("unlearning", "retraining")]
            rows.append({**audit, "shares": shares, "took": seconds})
    return rows


def _trials(trials: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return a row per method, task and poison: what was trained for it here, and how long a model takes."""
    rows = []
    with_discovery = [{"discovery": 1.0, **trial} for trial in trials]
    for key, own in grouped(with_discovery, "unlearner", "task", "poison", "discovery").items():
        method, task, poison, discovery = key
        costs = [trial["cost"] for trial in own if trial["cost"] is not None]
        built = [arm for cost in costs for arm in cost["built"]]
        times = {arm: [cost["seconds"][arm] for cost in costs if arm in cost["seconds"]] for arm in "PRU"}
        rows.append({
            "method": called(method), "task": task,
            "poison": poison if discovery == 1 else f"{poison}, {100 * discovery:.3g} % handed over",
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
