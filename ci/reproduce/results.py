"""From runs to tables, JSON and a plot, with the paper's numbers beside ours."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import gaussian
import paper
from runs import Run
from summaries import accuracy, at_the_end, best_rate, grouped, percent, rank, scaled, summary

from harness.report.document import finite_tree
from harness.trials.lab import TrialResult

#: Accuracy that a setting of Figure 2a may cost, in shares of 1.
AFFORDABLE = 0.1


def table1(done: Mapping[Run, TrialResult]) -> list[dict[str, Any]]:
    """Return a row per poison, method and epochs, at the learning rate that `best_rate` chooses."""
    rows = []
    for (poison, name, epochs), by_rate in grouped(done):
        best, means = best_rate(done, by_rate)
        runs = by_rate[best]
        cell = runs[0].trial.cell
        fraction = cell.poison.fields.get("fraction")
        rows.append(
            {
                "poison": poison.id, "method": name, "epochs": epochs, "lr": best, "accuracy": means[best],
                "at_the_end_of_the_search": at_the_end(best, means),
                "paper": paper.reported(cell.task.id, cell.poison.name, fraction, runs[0].method.name, epochs),
                "cost": fmean(done[run].cost["unlearn_fraction"] for run in runs),
                "by_lr": {f"{rate:g}": each for rate, each in means.items() if rate is not None},
                "unlearner": cell.unlearner.id,
            }
        )  # fmt: skip
    return rows


def figure2(done: Mapping[Run, TrialResult]) -> list[dict[str, Any]]:
    """Return a row per poison, method, epochs and learning rate: success of the attack, and accuracy.

    ``chosen`` is, of each method, the one with the fewest diverged runs, and of these the one with the least success,
    among those that cost at most `AFFORDABLE` of the poisoned model's accuracy; where there is none, the one that
    `rank` puts first.
    """
    rows = []
    floors = {each["poison"]: each["poisoned"]["accuracy"]["mean"] - AFFORDABLE for each in references(done)}
    for (poison, name, epochs), by_rate in grouped(done):
        found = []
        for rate, runs in by_rate.items():
            results = [done[run] for run in runs]
            row = {"poison": poison.id, "method": name, "epochs": epochs, "lr": rate}
            row |= {"success": summary([_success(each) for each in results])}
            row |= {"accuracy": summary([accuracy(each) for each in results])}
            row |= {"cost": fmean(each.cost["unlearn_fraction"] for each in results)}
            found.append(row | {"unlearner": runs[0].trial.cell.unlearner.id})
        kept = [row for row in found if row["accuracy"]["mean"] >= floors[poison.id]]
        best = min(kept, key=_by_success) if kept else max(found, key=lambda row: rank(row["accuracy"]))
        rows += [row | {"chosen": row is best} for row in found]
    return rows


def _by_success(row: Mapping[str, Any]) -> tuple[int, float]:
    return row["accuracy"]["diverged"], row["success"]["mean"]


def _success(result: TrialResult, arm: str = "U") -> float:
    """Return the share of targets that are hit; what the poison itself is judged by where it has no targets."""
    reading = result.readings["poison"][arm]
    return reading.details.get("fraction_hit", reading.value)


def references(done: Mapping[Run, TrialResult]) -> list[dict[str, Any]]:
    """Return accuracy and success of the poisoned and of the fully retrained models, per poison."""
    rows = []
    for poison in dict.fromkeys(run.trial.cell.poison for run in done):
        of_seed = {run.trial.seed: result for run, result in done.items() if run.trial.cell.poison == poison}
        row: dict[str, Any] = {"poison": poison.id, "fraction": poison.fields.get("fraction")}
        for name, arm in (("poisoned", "P"), ("retrained", "R")):
            row[name] = {
                "accuracy": summary([accuracy(each, arm) for each in of_seed.values()]),
                "success": summary([_success(each, arm) for each in of_seed.values()]),
            }
        rows.append(row)
    return rows


def document(
    what: str, about: dict[str, Any], done: Mapping[Run, TrialResult], attacks: gaussian.Attacks | None = None
) -> dict[str, Any]:
    """Return the JSON result.

    Args:
        what: One of `paper.TITLES`.
        about: What the result was made of and on, as plain values.
        done: What was done.
        attacks: What membership inference reads, for ``gaussian``.
    """
    if what == "gaussian":
        found = {"references": gaussian.references(done, attacks or {}), "rows": gaussian.rows(done, attacks or {})}
    else:
        found = {"references": references(done), "rows": (table1 if what == "table1" else figure2)(done)}
    return finite_tree({"schema": 1, "what": what, **about, **found})


def markdown(result: Mapping[str, Any]) -> str:
    """Return the tables for people, one per poison."""
    about = result["settings"]
    machine = f"{result['device']['name']} ({result['device']['kind']})"
    lines = [
        f"# {paper.TITLES[result['what']]} of arXiv 2406.17216, run again",
        "",
        f"Task `{about['task']}`, {about['finished_seeds']} of {about['seeds']} runs, scale {about['scale']}, on "
        f"{machine}, torch {result['versions']['torch']}, Python {result['versions']['python']}.",
    ]
    if about["scale"] != "full" or about["task"] not in paper.FULL:
        lines += ["", "This is not the paper's scale: orders may be compared with the paper's, numbers may not."]
    for reference in result["references"]:
        rows = [row for row in result["rows"] if row["poison"] == reference["poison"]]
        lines += ["", f"## {reference['poison']}", ""]
        lines += TABLES[result["what"]](rows, reference)
    lines += ["", paper.SAID[result["what"]]] if result["what"] in paper.SAID else []
    lines += ["", *(f"* failed: {run}: {error}" for run, error in result["errors"].items())]
    return "\n".join(lines).rstrip() + "\n"


def _accuracies(rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> list[str]:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["epochs"], row["method"]): row for row in rows}
    lines = [
        "Test accuracy in %, mean ± sd over runs, at the best learning rate (in parentheses); the paper's in brackets.",
        "Retrain: from scratch, for as many epochs as unlearning took.",
        "",
        f"| epochs | {' | '.join(methods)} |",
        "|---" * (1 + len(methods)) + "|",
    ]
    for epochs in sorted({row["epochs"] for row in rows}):
        lines.append(f"| {epochs} | {' | '.join(_cell(cells.get((epochs, method))) for method in methods)} |")
    known = paper.POISONED.get(reference["fraction"]) if any(row["paper"] is not None for row in rows) else None
    beside = f" [{known:.2f}]" if known else ""
    lines += ["", f"Poisoned: {percent(reference['poisoned']['accuracy'])}{beside}. "
              f"Fully retrained: {percent(reference['retrained']['accuracy'])}."]  # fmt: skip
    if any(row["at_the_end_of_the_search"] for row in rows):
        lines += ["", "*: the best rate is at an end of the range that was searched; a better one may lie beyond."]
    return lines


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "failed"
    rate = "" if row["lr"] is None else f" ({row['lr']:.2g}{'*' if row['at_the_end_of_the_search'] else ''})"
    return percent(row["accuracy"]) + rate + (f" [{row['paper']:.2f}]" if row["paper"] is not None else "")


def _successes(rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Success of the attack and test accuracy in %, mean ± sd over runs. Of each method the learning rate with the "
        f"least success that costs at most {100 * AFFORDABLE:.0f} points of the poisoned model's accuracy, or the most "
        "accurate one.",
        "",
        "| method | epochs | lr | success | accuracy | compute, % of retraining | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("poisoned", "retrained"):
        of = reference[name]
        lines.append(f"| {name} | | | {percent(of['success'])} | {percent(of['accuracy'])} | | {of['accuracy']['n']} |")
    for row in rows:
        if row["chosen"]:
            rate = "" if row["lr"] is None else f"{row['lr']:.2g}"
            lines.append(
                f"| {row['method']} | {row['epochs']} | {rate} | {percent(row['success'])} "
                f"| {percent(row['accuracy'])} | {100 * row['cost']:.0f} | {row['accuracy']['n']} |"
            )
    return lines


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write JSON, Markdown and, where altair is installed, the plot; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / result["what"]
    files = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    files[0].write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(markdown(result), encoding="utf-8")
    try:
        import altair
    except ImportError:
        return files
    files.append(stem.with_suffix(".html"))
    chart = PLOTS[result["what"]](altair, result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of altair's own parts; nothing about the plot
        chart.save(str(files[-1]))
    return files


def _lines(altair: Any, result: Mapping[str, Any]) -> Any:
    """Return accuracy by epochs: ours drawn through, the paper's dashed."""
    points = [
        {"epochs": row["epochs"], "accuracy": value, "method": row["method"], "poison": row["poison"], "from": source}
        for row in result["rows"]
        for source, value in (("ours", scaled(row["accuracy"]["mean"])), ("paper", row["paper"]))
        if value is not None
    ]
    return (
        altair.Chart(altair.Data(values=points))
        .mark_line(point=True)
        .encode(
            x=altair.X("epochs:O", title="epochs of unlearning"),
            y=altair.Y("accuracy:Q", title="test accuracy, %", scale=altair.Scale(zero=False)),
            color=altair.Color("method:N", sort=None),
            strokeDash=altair.StrokeDash("from:N", title=None, sort=None),
            tooltip=["method:N", "epochs:O", "accuracy:Q", "from:N"],
        )
        .properties(width=360, height=300)
        .facet("poison:N")
    )


def _points(altair: Any, result: Mapping[str, Any]) -> Any:
    """Return success against accuracy: every setting, the chosen ones large, the references too."""
    points = [
        {
            "accuracy": scaled(of["accuracy"]["mean"]), "success": scaled(of["success"]["mean"]), "method": name,
            "poison": of["poison"], "lr": of.get("lr"), "chosen": of.get("chosen", True),
        }
        for reference in result["references"]
        for name, of in (
            *((arm, {**reference[arm], "poison": reference["poison"]}) for arm in ("poisoned", "retrained")),
            *((row["method"], row) for row in result["rows"] if row["poison"] == reference["poison"]),
        )
    ]  # fmt: skip
    return (
        altair.Chart(altair.Data(values=points))
        .mark_point(filled=True)
        .encode(
            x=altair.X("accuracy:Q", title="test accuracy, %", scale=altair.Scale(zero=False)),
            y=altair.Y("success:Q", title="success of the attack, %"),
            color=altair.Color("method:N", sort=None),
            size=altair.Size("chosen:N", legend=None, scale=altair.Scale(domain=[False, True], range=[30, 160])),
            tooltip=["method:N", "lr:Q", "accuracy:Q", "success:Q"],
        )
        .properties(width=420, height=320)
        .facet("poison:N")
    )


#: By what was run, what makes its table for one poison, and its plot.
TABLES = {"table1": _accuracies, "figure2a": _successes, "figure2b": _successes, "gaussian": gaussian.table}
PLOTS = {"table1": _lines, "figure2a": _points, "figure2b": _points, "gaussian": gaussian.plot}
