"""The sentences that people read. Works on plain values; imports no torch."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from harness.api import Outcome
from harness.judging.plan import LOOKS
from harness.judging.verdict import Verdict
from harness.report.svg import MINUS

if TYPE_CHECKING:
    from harness.studies.tuning import Score, Tuned


WORST = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")  # the worst first


def as_required(audit: Mapping[str, Any]) -> bool:
    """Say whether an audit of a result concluded what it had to."""
    return bool(audit.get("as_required", audit["verdict"] == "PASS"))


def manner(audit: Mapping[str, Any]) -> str:
    """Say in what manner an audit that is no PASS is as required: a known failure, or a control that must not pass."""
    if audit["verdict"] == "PASS" or not as_required(audit):
        return ""
    return "as expected" if audit.get("expected") else "as it must"


def crashes_in_words(document: Mapping[str, Any]) -> str:
    """Return what a result says of workers that crashed, or ``""``."""
    n = len(document.get("crashes", ()))
    who, they_were = ("worker", "it was") if n == 1 else ("workers", "they were")
    return f"{n} {who} crashed, and what {they_were} at was not judged." if n else ""


def explain(verdict: Verdict, command: str, expected: Outcome = Outcome.PASS, load: str = "") -> str:
    """Return the few lines that stand under an audit that did not conclude what it must."""
    lines = [finding(verdict)]
    if standing := standing_of(verdict):
        lines.append(standing)
    if expected is Outcome.FAIL and verdict.outcome is Outcome.PASS:
        lines.insert(0, "This control must FAIL and passed: the audit cannot tell a bad method from a good one.")
    numbers = _numbers(verdict)
    if numbers:
        lines.append("  " + "   ".join(numbers))
    if details := detail_texts(verdict.details):
        lines.append("  " + "   ".join(details))
    lines.append(f"  reproduce: {command}")
    if load:
        lines.append(f"  P, R and U of seed {worst_seed(verdict)} in Python: {load}")
    return "\n".join(lines)


def worst_seed(verdict: Verdict) -> int:
    """Return the seed that is farthest beyond the margin, or nearest to it: the one to look at."""
    worst = verdict.details.get("worst_seed")
    if worst is not None:
        return int(worst)
    values = verdict.values["unlearned"]
    dearest = max(range(len(values)), key=lambda i: values[i], default=0)
    return verdict.seeds[dearest] if verdict.seeds else 0


def properties(audit: Mapping[str, Any]) -> list[tuple[str, str | float]]:
    """Return the numbers of a `plain` verdict as properties of its test, for JUnit and its like; none that is null."""
    low, high = audit["interval"]
    named = {name: audit[name] for name in ("verdict", "reason", "estimate", "margin", "p_pass", "p_fail", "p_bite")}
    named |= {"interval_low": low, "interval_high": high, "level": audit["level"], "n_seeds": len(audit["seeds"])}
    return [(name, value) for name, value in named.items() if value is not None]


def finding(verdict: Verdict) -> str:
    """Return the one sentence that says what was found."""
    measure, n = verdict.measure, len(verdict.seeds)
    title = measure.title[0].upper() + measure.title[1:]
    sentences = {
        "diverged": f"The unlearned model diverged: weights are not finite for {_diverged(verdict)} of {n} seeds.",
        "nonfinite-reference": "Nothing can be judged: a poisoned or retrained model diverged. Mend the task's recipe.",
        "oracle-fails": "Nothing can be judged: retraining itself fails this audit. Mend the task or the poison.",
        "oracle-not-pass": "The method passes, but retraining has not passed this audit on the seeds there were. Let "
        "the plan run to its end, or take a stronger poison or, for accuracy, a steadier task.",
        "identity-passes": "Nothing can be judged: the poisoned model itself passes. Mend the poison's measure.",
        "wrecked-passes": "Nothing can be judged: a model that was never trained passes. Mend the task.",
        "dose-not-monotone": "Nothing can be judged: mixtures of poisoned and retrained models are not judged in the "
        "order of their poison. Mend the poison's measure.",
        "null-not-exact": "Nothing can be judged: scores of retrained models, which cannot know what was planted, are "
        "far from N(0, 1). Mend the poison's probe.",
        "masked-gradients": "Nothing can be judged: over 1 % of a model's input gradients are exactly zero, so it "
        "hides from this probe.",
        "no-bite": f"Nothing can be judged: the poison shows no effect in {n} seeds. Give it more strength.",
        "too-few-seeds": f"{n} seeds are too few to judge.",
    }
    if verdict.reason in sentences:
        return sentences[verdict.reason]
    if measure.test == "budget":
        return (
            f"Unlearning used {percent(verdict.estimate)} of the compute of retraining; "
            f"the budget is {percent(verdict.margin)}."
        )
    if measure.test == "retention":
        found = (
            f"{title}: {percent(verdict.estimate)} of the poison's effect is left "
            f"({_interval(verdict)}, tolerance {percent(verdict.margin)})."
        )
    else:
        found = (
            f"{title} differs from retraining by {points(verdict.estimate)} "
            f"({_interval(verdict)}; at most {points(verdict.margin).lstrip('+')} may be lost)."
        )
    if (needed := verdict.details.get("seeds_to_decide")) is not None:
        how_many = f"about {needed:.0f} seeds" if math.isfinite(needed) else "more than 1000 seeds"
        found += f" {n} seeds do not decide it. If the truth is what was seen, {how_many} would (power .8)"
        if verdict.reason == "futile":
            below = f"{verdict.details['futility']:g}"
            found += (
                f", the plan's {LOOKS[-1]} with a probability below {below}, so it was given up: it is near the "
                "tolerance (--audit-futility=0 goes on)."
            )
        elif needed <= LOOKS[-1]:
            found += "; see --audit-seeds."
        else:
            found += ", more than the plan has: it is near the tolerance."
    return found


def standing_of(verdict: Verdict) -> str:
    """Return, where not all poisoned points were handed over, which retraining the method reaches."""
    of = verdict.details
    if "remaining_keeps" not in of:
        return ""
    low, high = (percent(of[f"remaining_keeps_{end}"]) for end in ("low", "high"))
    return (
        f"Of the poisoned points {100 * verdict.discovery:.3g} % were handed over. Retraining on what then remains "
        f"keeps {percent(of['remaining_keeps'])} of the effect ({100 - 200 * of['remaining_level']:.3g} % interval "
        f"{low} … {high}, n = {of['remaining_seeds']:.0f}); this method leaves {percent(of['remaining_leaves'])}: "
        f"{reached(verdict.outcome.value, of)}."
    )


def reached(outcome: str, of: Mapping[str, Any]) -> str:
    """Say which retraining a method reaches, from its verdict against the one on clean data and what stands beside."""
    remains = of["reaches_remaining"]
    if outcome == "PASS":
        return "it reaches retraining on clean data"
    clean = "not on clean data" if outcome == "FAIL" else "and whether on clean data is not decided"
    if remains == 1:
        so = "; doing nothing does, too" if of["identity_reaches_remaining"] == 1 else ""
        return f"it reaches retraining on what remains, {clean}{so}"
    if remains == 0:
        return "it reaches neither retraining on what remains nor on clean data"
    return f"whether it reaches retraining on what remains is not decided, {clean}"


def _numbers(verdict: Verdict) -> list[str]:
    if verdict.p_pass is None or verdict.p_fail is None:
        return [f"n = {len(verdict.seeds)} seeds"]
    names = {"retention": "retained fraction against retraining", "non-inferiority": "difference from retraining"}
    level = f" (level {verdict.level:.3g} at this look)" if verdict.level is not None else ""
    worst = verdict.details.get("worst_seed")
    at = {"PASS": "pass", "FAIL": "fail"}.get(verdict.outcome.value, "pass")
    return [
        names[verdict.measure.test],
        f"p(→ PASS) = {_p(verdict.p_pass)}" + (level if at == "pass" else ""),
        f"p(→ FAIL) = {_p(verdict.p_fail)}" + (level if at == "fail" else ""),
        f"n = {len(verdict.seeds)} seeds" + (f", worst {worst:.0f}" if worst is not None else ""),
    ]


def detail_texts(details: Mapping[str, float]) -> list[str]:
    """Return the further numbers as people read them; what stands beside retraining, beside retraining."""
    texts = []
    if "mu_lower" in details:
        texts.append(
            f"proven residue: mu ≥ {details['mu_lower']:.2g}, epsilon ≥ {details['eps_lower']:.2g} at "
            f"{percent(details['residue_confidence'])} (proves failure, never deletion)"
        )
    names = {"tpr_at_1_percent_fpr": "TPR at 1 % FPR"}
    for name, value in details.items():
        if name != "T" and f"{name}_retrained" in details and value + details[f"{name}_retrained"] > 0:
            shown = [value, details[f"{name}_retrained"]]
            texts.append("{}: {:.3g} (retrained {:.3g})".format(names.get(name, name.replace("_", " ")), *shown))
    if "seconds of unlearning" in details:
        texts.append(
            f"unlearning took {details['seconds of unlearning']:.2g} s, "
            f"retraining {details['seconds of retraining']:.2g} s per seed"
        )
        texts.append("of retraining: " + ", ".join(f"{percent(x)} of its {name}" for name, x in _yardsticks(details)))
    if details.get("history_bytes"):
        texts.append(f"its checkpoints take {details['history_bytes'] / 1e6:.2g} MB per seed")
    return texts


def _yardsticks(details: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the compute of an unlearner as fractions of retraining, by other yardsticks than examples."""
    names = {"steps": "optimiser steps", "flops": "operations", "seconds": "seconds"}
    return [
        (title, details[f"{name}_of_retraining"])
        for name, title in names.items()
        if details.get(f"{name}_of_retraining") is not None
    ]


def flags(details: Mapping[str, float], budget: float) -> list[str]:
    """Return what a count of examples does not show: operations or seconds beyond twice the budget."""
    return [
        f"{percent(x)} of the {title}"
        for title, x in _yardsticks(details)
        if title != "optimiser steps" and x > 2 * budget
    ]


def _diverged(verdict: Verdict) -> int:
    return sum(not math.isfinite(x) for x in verdict.values["unlearned"])


def _interval(verdict: Verdict) -> str:
    low, high = verdict.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "interval unbounded"
    show = percent if verdict.measure.test == "retention" else points
    level = f"{100 * (1 - 2 * (verdict.level or 0.05)):.3g} % interval "
    return f"{level}{show(low)} … {show(high)}"


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.2g}" if p < 0.01 else f"{p:.2f}"


def percent(x: float) -> str:
    """Return a share of 1 in percent, e.g. ``"97 %"``."""
    return f"{100 * x:.0f} %".replace("-", MINUS) if math.isfinite(x) else "?"


def points(x: float) -> str:
    """Return a difference of shares in percentage points, e.g. ``"+0.1 pp"``."""
    return f"{100 * x:+.1f} pp".replace("-", MINUS) if math.isfinite(x) else "?"


def tuning_head(task: str, poisons: Sequence[str], settings: int, seeds: range, final: range, budget: float) -> str:
    """Return the head of the file that a search writes: what was searched, by what, when."""
    return (
        f"# Chosen on {task} against {', '.join(poisons)} from {settings} settings of each method, seeds {seeds[0]} to "
        f"{seeds[-1]}, the best of them on {final[0]} to {final[-1]}; budget {percent(budget)} of retraining.\n"
        f"# {', '.join(f'{name} {version}' for name, version in versions().items())}; {time.strftime('%Y-%m-%d')}\n"
    )


def tuned_lines(tuned: Tuned) -> str:
    """Return what the file says of one method: what it does, what it took to find, and its spec."""
    allowed = "" if tuned.score.allowed else "; beyond the margin of accuracy or the budget"
    return (
        f"# {score_line(tuned.score)}; {tuned.unlearnings} unlearnings, {tuned.trainings} trainings, "
        f"{duration(tuned.seconds)}{allowed}\n{tuned.unlearner.id}\n"
    )


def score_line(score: Score) -> str:
    """Return what a setting does on the tuning seeds."""
    return f"poison left {score.left:.2f}, accuracy {points(score.accuracy)}, cost {percent(score.cost)}"


def forecast_lines(costs: Sequence[Mapping[str, Any]], processes: int) -> list[str]:
    """Say what a study would still cost, in a line per number of seeds."""
    lines = []
    for cost, label in zip(costs, ("if every verdict is clear", "if the whole plan is needed"), strict=False):
        on = f"{processes} process{'es' if processes > 1 else ''}"
        crafting = f"; crafting {', '.join(cost['crafted'])}, with surrogates, comes on top" if cost["crafted"] else ""
        lines.append(
            f"{label} ({cost['seeds']} seeds): {cost['trainings']} trainings and {cost['unlearnings']} unlearnings, "
            f"about {duration(cost['seconds'] / processes)} on {on}, {cost['bytes'] / 1e6:.1f} MB of disk{crafting}"
        )
    return lines


def duration(seconds: float) -> str:
    """Return a span of time as people say it, e.g. ``"3 min"``."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the distributions that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("pytest-unlearning", "pytest", "pytest-xdist", "torch", "numpy", "scipy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
