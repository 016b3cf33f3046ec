"""The Gaussian poison: its score beside membership inference, after unlearning for so many epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from runs import Run
from summaries import accuracy, at_the_end, best_rate, grouped, percent, scaled, summary

from harness.api import Reading
from harness.report.words import fraction
from harness.trials.lab import TrialResult

#: By run, what each attack on membership reads, by arm.
Attacks = Mapping[Run, Mapping[str, Mapping[str, Reading]]]
#: The attacks on membership, by the names that the JSON and `harness.judging.claims` have for them.
ATTACKS = {"membership": "loss", "likelihood": "likelihood ratio"}
#: The rate of true positives at 1 % of false ones: 0.01 for a model that never saw the noise.
RATE = "tpr_at_1_percent_fpr"


def attacked(done: Mapping[Run, TrialResult]) -> list[list[Run]]:
    """Return the runs whose membership is to be inferred, those of one setting together: at the best rate of each."""
    groups = grouped(done)
    return [by_rate[best_rate(done, by_rate)[0]] for _, by_rate in groups]


def rows(done: Mapping[Run, TrialResult], attacks: Attacks) -> list[dict[str, Any]]:
    """Return a row per poison, method and epochs, at the learning rate that `best_rate` chooses.

    The rate is chosen on the test data, as for Table 1. ``attacks`` need three seeds; without them their numbers are
    None.
    """
    found = []
    for (poison, name, epochs), by_rate in grouped(done):
        best, means = best_rate(done, by_rate)
        runs = by_rate[best]
        row = {"poison": poison.id, "method": name, "epochs": epochs, "lr": best}
        row |= {"at_the_end_of_the_search": at_the_end(best, means), **_numbers(runs, done, attacks, "U")}
        cost = fmean(done[run].cost["unlearn_fraction"] for run in runs)
        found.append(row | {"cost": cost, "unlearner": runs[0].trial.cell.unlearner.id})
    return found


def references(done: Mapping[Run, TrialResult], attacks: Attacks) -> list[dict[str, Any]]:
    """Return the same numbers of the poisoned and of the fully retrained models, per poison."""
    found = []
    for poison in dict.fromkeys(run.trial.cell.poison for run in done):
        first = next(by_rate for (of, *_), by_rate in grouped(done) if of == poison)
        runs = first[best_rate(done, first)[0]]
        row: dict[str, Any] = {"poison": poison.id, "fraction": poison.fields.get("fraction")}
        arms = {"poisoned": "P", "retrained": "R"}
        found.append(row | {name: _numbers(runs, done, attacks, arm) for name, arm in arms.items()})
    return found


def _numbers(runs: Sequence[Run], done: Mapping[Run, TrialResult], attacks: Attacks, arm: str) -> dict[str, Any]:
    """Return accuracy, the Gaussian score's moments and rate, and each attack's rate and area under its curve."""

    def over(read: Callable[[Reading], float]) -> dict[str, Any]:
        return summary([read(done[run].readings["poison"][arm]) for run in runs])

    known = [run for run in runs if run in attacks]
    return {
        "accuracy": summary([accuracy(done[run], arm) for run in runs]),
        "score": {"mean": over(lambda of: of.value), "mean_square": over(_mean_square), "tpr": over(_rate)},
        "attacks": {
            name: {
                "tpr": summary([_rate(attacks[run][name][arm]) for run in known]),
                "auc": summary([attacks[run][name][arm].value for run in known]),
            }
            for name in (ATTACKS if known else ())
        },
    }


def _rate(reading: Reading) -> float:
    return reading.details.get(RATE, float("nan"))


def _mean_square(reading: Reading) -> float:
    """Return the mean squared score, which the second moment is tested by: 1 if the model never saw the noise."""
    (second,) = reading.traces.values() or [Reading(float("nan"))]
    return second.details.get("mean_squared_score", float("nan"))


def table(rows: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> list[str]:
    """Return the table of one poison, as lines of Markdown."""
    lines = [
        "Rates of true positives at 1 % of false ones and test accuracy in %, mean ± sd over runs, at the learning "
        "rate with the best accuracy. A model that never saw the noise has a rate of 1 %, a mean score of 0 and a mean "
        "squared score of 1 by the Gaussian score. Membership is inferred by two attacks, from three runs on. Noisy "
        "images are unlike test images, so their rates for such a model are those of `retrained`, not 1 %. Retrain: "
        "from scratch, for as many epochs as unlearning took.",
        "",
        f"| method | epochs | lr | rate: Gaussian score | {' | '.join(f'rate: {each}' for each in ATTACKS.values())} "
        "| mean score | mean squared score | accuracy | compute, % of retraining | n |",
        "|---" * (9 + len(ATTACKS)) + "|",
    ]
    for name in ("poisoned", "retrained"):
        lines.append(f"| {name} | | | {_cells(reference[name])} | | {reference[name]['accuracy']['n']} |")
    for row in rows:
        end = "*" if row["at_the_end_of_the_search"] else ""
        rate = "" if row["lr"] is None else f"{row['lr']:.2g}{end}"
        lines.append(
            f"| {row['method']} | {row['epochs']} | {rate} | {_cells(row)} | {100 * row['cost']:.0f} "
            f"| {row['accuracy']['n']} |"
        )
    if any(row["at_the_end_of_the_search"] for row in rows):
        lines += ["", "*: the best rate is at an end of the range that was searched; a better one may lie beyond."]
    return lines


def _cells(of: Mapping[str, Any]) -> str:
    score, attacks = of["score"], of["attacks"]
    rates = [score["tpr"], *(attacks.get(name, {}).get("tpr") for name in ATTACKS)]
    shown = ["–" if rate is None else percent(rate) for rate in rates]
    return " | ".join([*shown, _number(score["mean"]), _number(score["mean_square"]), percent(of["accuracy"])])


def _number(of: Mapping[str, Any]) -> str:
    if of["mean"] is None:
        return "diverged"
    return fraction(of["mean"]) + ("" if of["sd"] is None else f" ± {of['sd']:.2f}")


def plot(altair: Any, result: Mapping[str, Any]) -> Any:
    """Return the rates by epochs of unlearning: the Gaussian score's drawn through, the attacks' dashed."""
    points = [
        {
            "epochs": row["epochs"],
            "rate": scaled(of["mean"]),
            "method": row["method"],
            "poison": row["poison"],
            "by": by,
        }
        for row in result["rows"]
        for by, of in (
            ("Gaussian score", row["score"]["tpr"]),
            *((ATTACKS[name], attack["tpr"]) for name, attack in row["attacks"].items()),
        )
        if of["mean"] is not None
    ]
    return (
        altair.Chart(altair.Data(values=points))
        .mark_line(point=True)
        .encode(
            x=altair.X("epochs:O", title="epochs of unlearning"),
            y=altair.Y("rate:Q", title="true positives at 1 % of false ones, %"),
            color=altair.Color("method:N", sort=None),
            strokeDash=altair.StrokeDash("by:N", title=None, sort=None),
            tooltip=["method:N", "epochs:O", "rate:Q", "by:N"],
        )
        .properties(width=360, height=300)
        .facet("poison:N")
    )
