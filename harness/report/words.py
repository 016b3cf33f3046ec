"""The sentences and numbers that people read. Works on plain values; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.api import Measure, Outcome
from harness.judging.reasons import Reason, advice_on, sentence_of
from harness.judging.verdict import Trace, Verdict
from harness.judging.yardsticks import YARDSTICKS, beyond, counted_in
from harness.report.svg import MINUS

WORST = ("ERROR", "FAIL", "INCONCLUSIVE", "PASS")  # the worst first

#: What a verdict means on a score whose law is known for every model that never saw what was planted.
KNOWS = {
    "FAIL": "The model still knows what was planted",
    "PASS": "Nothing shows that the model still knows what was planted",
    "INCONCLUSIVE": "It is undecided whether the model still knows what was planted",
}

#: The rate of true positives that attacks are compared by.
RATE = "tpr_at_1_percent_fpr"


def as_required(audit: Mapping[str, Any]) -> bool:
    """Return whether an audit reached the verdict that it must reach."""
    return bool(audit.get("as_required", audit["verdict"] == "PASS"))


def manner(audit: Mapping[str, Any]) -> str:
    """Return why a verdict other than PASS is right: a known failure, or a control that must not pass."""
    if audit["verdict"] == "PASS" or not as_required(audit):
        return ""
    return "as expected" if audit.get("expected") else "as required"


def crashes_in_words(document: Mapping[str, Any]) -> str:
    """Return the sentence about workers that crashed; ``""`` if none did."""
    n = len(document.get("crashes", ()))
    if not n:
        return ""
    return f"{n} worker{'s' * (n > 1)} crashed; what {'they were' if n > 1 else 'it was'} running was not judged."


def explain(verdict: Verdict, command: str, expected: Outcome = Outcome.PASS, load: str = "") -> str:
    """Return the few lines that are printed for an audit that did not reach the verdict it must reach."""
    lines = [f"{finding(verdict)} {advice_on(verdict.reason)}".strip()]
    if standing := standing_of(verdict):
        lines.append(standing)
    if expected is Outcome.FAIL and verdict.outcome is Outcome.PASS:
        lines.insert(
            0, "This control must FAIL, but it passed: the audit cannot distinguish a bad method from a good one."
        )
    lines.append("  " + "   ".join(_numbers(verdict)))
    if verdict.traces:
        lines.append("  traces: " + " · ".join(map(trace_text, verdict.traces.values())))
    if details := detail_texts(verdict.details):
        lines.append("  " + "   ".join(details))
    lines.append(f"  reproduce: {command}")
    if load:
        lines.append(f"  load P, R and U of seed {worst_seed(verdict)} in Python: {load}")
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
    """Return the numbers of a `plain` verdict as properties of its test, for JUnit; a None is left out."""
    low, high = audit["interval"]
    named = {name: audit[name] for name in ("verdict", "reason", "estimate", "margin", "p_pass", "p_fail", "p_bite")}
    named |= {"interval_low": low, "interval_high": high, "level": audit["level"], "n_seeds": len(audit["seeds"])}
    if traces := audit.get("traces"):
        named["trace"] = audit["trace"]
    for name, trace in (traces or {}).items():
        named |= {f"{name}_{key}": trace[key] for key in ("verdict", "reason", "estimate", "p_pass", "p_fail")}
    return [(name, value) for name, value in named.items() if value is not None]


def finding(verdict: Verdict) -> str:
    """Return the sentence that states what was found."""
    measure, n = verdict.measure, len(verdict.seeds)
    measured = percent(verdict.details.get("retraining_measured", math.nan))
    title = measure.title[0].upper() + measure.title[1:]
    if sentence := sentence_of(verdict.reason, n, _diverged(verdict), measured):
        return f"{title}. {sentence}" if verdict.traces else sentence
    if measure.test == "exact-null":
        return _known(verdict)
    if measure.test == "budget":
        return _spent(verdict)
    if verdict.reason == Reason.OVER_CORRECTED:
        found = (
            f"{title}: the method removes more than the {measure.cause}. It moved the model beyond retraining by "
            f"{percent(-verdict.estimate)} of the {measure.cause}'s effect, in the opposite direction "
            f"({_interval(verdict, mirrored=True)}, tolerance {percent(verdict.margin)})."
        )
    elif measure.test == "retention":
        found = (
            f"{title}: {percent(verdict.estimate)} of the {measure.cause}'s effect is left "
            f"({_interval(verdict)}, tolerance {percent(verdict.margin)})."
        )
    else:
        show = shown_by(_of(measure))
        allowed = f"allowed {'rise' if measure.worse == 'higher' else 'loss'} {show(verdict.margin).lstrip('+')}"
        found = f"{title} differs from retraining by {show(verdict.estimate)} ({_interval(verdict)}, {allowed})."
    return found + _undecided(verdict)


def _known(verdict: Verdict) -> str:
    """Return the sentence on a score whose law is known for every model that never saw what was planted."""
    said, title, p = KNOWS[verdict.outcome.value], verdict.measure.title, verdict.p_fail or 0.0
    return f"{said}: a retrained model has a {title} this far off with probability {_p(p)} (n = {len(verdict.seeds)})."


def trace_text(trace: Trace) -> str:
    """Return what one of several traces comes to, e.g. ``"second moment FAIL −1.6 sd (null-rejected, n = 8)"``."""
    show = shown_by(_of(trace.measure))
    left = f" {show(trace.estimate)}" if math.isfinite(trace.estimate) else ""
    return f"{trace.measure.label} {trace.outcome.value}{left} ({trace.reason}, n = {len(trace.seeds)})"


def verdict_text(audit: Mapping[str, Any]) -> str:
    """Return the verdict of an audit; where one of several traces decides against a PASS, with its name."""
    verdict, trace = str(audit["verdict"]), audit.get("trace")
    return f"{verdict} ({trace})" if trace and verdict != "PASS" else verdict


def _spent(verdict: Verdict) -> str:
    """Return the sentence on a method's compute, by the yardstick that decided."""
    budget = f"The budget is {percent(verdict.margin)}"
    found = dict(_shares(verdict.details))
    name = next(iter(beyond(found, verdict.margin)), None)
    if name is None:
        return f"Unlearning used {percent(verdict.estimate)} of the compute of retraining. {budget}."
    yardstick = YARDSTICKS[name]
    used = f"Unlearning used {percent(found[name])} of the {yardstick.title} of retraining."
    if name == "examples" or yardstick.allows is None or counted_in(found) == (name,):
        return f"{used} {budget}."
    return f"{used} {budget}; by {yardstick.title}, {percent(yardstick.allows * verdict.margin)} are allowed."


def _undecided(verdict: Verdict) -> str:
    """Return how many seeds would decide what these seeds do not decide; ``""`` for a verdict that is decided."""
    needed = verdict.details.get("seeds_to_decide")
    if needed is None:
        return ""
    how_many = f"about {needed:.0f}" if math.isfinite(needed) else "more than 1000"
    early = "The audit stopped early: " if verdict.reason == Reason.FUTILE else ""
    low, high = verdict.interval
    wide = high - low > 2 * verdict.margin  # wider than all that would pass, around its middle
    effect = f"The {verdict.measure.cause}'s effect is too weak, or varies"
    weak = effect if verdict.measure.test == "retention" else "The difference varies"
    return (
        f" {early}{len(verdict.seeds)} seeds do not decide it; {how_many} would, if the estimate is right (power 0.8)."
        + (f" {weak} too much from seed to seed." if wide else "")
    )


def standing_of(verdict: Verdict) -> str:
    """Return which retraining the method reaches, if only some of the poisoned points were handed over."""
    of = verdict.details
    if "remaining_keeps" not in of:
        return ""
    low, high = (percent(of[f"remaining_keeps_{end}"]) for end in ("low", "high"))
    return (
        f"Only {100 * verdict.discovery:.3g} % of the poisoned points were handed over. Retraining on the remaining "
        f"data keeps {percent(of['remaining_keeps'])} of the effect ({100 - 200 * of['remaining_level']:.3g} % "
        f"interval {low} to {high}, n = {of['remaining_seeds']:.0f}). This method leaves "
        f"{percent(of['remaining_leaves'])}: {reached(verdict.outcome.value, of)}."
    )


def reached(outcome: str, of: Mapping[str, Any]) -> str:
    """Return which retraining a method reaches: on clean data, or on the remaining data.

    Args:
        outcome: Its verdict against retraining on clean data.
        of: The details of that verdict, with ``reaches_remaining`` and ``identity_reaches_remaining``.
    """
    remains = of["reaches_remaining"]
    if outcome == "PASS":
        return "it reaches retraining on clean data"
    if remains == 0:
        return "it reaches retraining neither on the remaining data nor on clean data"
    clean = "not on clean data" if outcome == "FAIL" else "undecided on clean data"
    if remains != 1:
        return f"it is undecided whether it reaches retraining on the remaining data; {clean}"
    so = "; doing nothing reaches the same" if of["identity_reaches_remaining"] == 1 else ""
    return f"it reaches retraining on the remaining data, {clean}{so}"


def _numbers(verdict: Verdict) -> list[str]:
    """Return the p-values of a verdict, each with what it would be evidence against, and its seeds."""
    worst = verdict.details.get("worst_seed")
    seeds = f"n = {len(verdict.seeds)} seeds" + (f", worst seed {worst:.0f}" if worst is not None else "")
    test, margin = verdict.measure.test, verdict.margin
    if test == "budget" or verdict.p_fail is None:
        return [seeds]
    if test == "exact-null":
        needs = {Outcome.FAIL: "FAIL needs p ≤", Outcome.PASS: "PASS needs p >"}.get(verdict.outcome, "")
        return [f"p = {_p(verdict.p_fail)} if the model were retrained{_needs(needs, verdict)}", seeds]
    if test == "retention":
        within, beyond_it = f"at most {percent(margin)} were left or reversed", f"more than {percent(margin)} were"
    else:
        allowed = shown_by(_of(verdict.measure))(margin).lstrip("+")
        within, beyond_it = f"at most {allowed} were lost", f"more than {allowed} were"
        if verdict.measure.worse == "higher":
            within, beyond_it = f"it rose by at most {allowed}", f"it rose by more than {allowed}"
    failed = verdict.outcome is Outcome.FAIL
    passing = "" if verdict.p_pass is None else f"p = {_p(verdict.p_pass)} if {beyond_it}"
    return [
        f"p = {_p(verdict.p_fail)} if {within}" + (_needs("FAIL needs p ≤", verdict) if failed else ""),
        *([passing + ("" if failed else _needs("PASS needs p ≤", verdict))] if passing else []),
        seeds,
    ]


def _needs(what: str, verdict: Verdict) -> str:
    return f" ({what} {verdict.level:.3g} at this look)" if what and verdict.level is not None else ""


def detail_texts(details: Mapping[str, float]) -> list[str]:
    """Return the further numbers as people read them, each beside that of retraining if there is one."""
    texts = []
    if "mu_lower" in details:
        texts.append(
            f"proven residue: mu ≥ {details['mu_lower']:.2g}, epsilon ≥ {_proven(details):.2g} at "
            f"{percent(details['residue_confidence'])} (proves failure, never deletion)"
        )
    if certificate := certificate_text(details):
        texts.append(f"the method certifies {certificate}")
    for name, value in details.items():
        if name != "T" and f"{name}_retrained" in details and value + details[f"{name}_retrained"] > 0:
            texts.append(f"{worded(name)}: {value:.3g} (retrained {details[f'{name}_retrained']:.3g})")
    if "bad_seeds" in details:
        texts.append(f"bad seeds: {details['bad_seeds']:.0f}")
    if "e_pass" in details:
        texts.append(f"e-values, without normality: {details['e_pass']:.3g} for PASS, {details['e_fail']:.3g} for FAIL")
    if "seconds of unlearning" in details:
        texts.append(
            f"unlearning took {details['seconds of unlearning']:.2g} s, "
            f"retraining {details['seconds of retraining']:.2g} s per seed"
        )
        if shares := _shares(details):
            texts.append(
                "of retraining: " + ", ".join(f"{percent(x)} of its {YARDSTICKS[name].title}" for name, x in shares)
            )
    if details.get("history_bytes"):
        texts.append(f"its checkpoints take {details['history_bytes'] / 1e6:.2g} MB per seed")
    return texts


def certificate_text(details: Mapping[str, Any]) -> str:
    """Return the epsilon that a method certifies, and whether what is proven contradicts it; ``""`` for others."""
    if "certified_epsilon" not in details:
        return ""
    certified, proven = details["certified_epsilon"], _proven(details)
    so = f"contradicted, because epsilon ≥ {proven:.2g}" if proven > certified else "not contradicted"
    return f"epsilon ≤ {certified:.3g} at delta = {details['certified_delta']:g}: {so}"


def _proven(details: Mapping[str, Any]) -> float:
    """Return the epsilon that is proven to be left; where it is infinite, a document has no number."""
    found = details.get("eps_lower")
    return math.inf if found is None else float(found)


def worded(name: str) -> str:
    """Return the name of a detail as people read it."""
    return "TPR at 1 % FPR" if name == RATE else name.replace("_", " ")


def _shares(details: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the compute of an unlearner as fractions of retraining, by yardstick."""
    named = ((name, details.get(f"{name}_of_retraining")) for name in YARDSTICKS)
    return [(name, share) for name, share in named if share is not None]


def flags(details: Mapping[str, float], budget: float) -> list[str]:
    """Return what the share of a method's compute hides, which is of examples or operations: too much CPU time."""
    every = dict(_shares(details))
    hidden = [name for name in beyond(every, budget) if name not in counted_in(every)]
    return [f"{percent(every[name])} of the {YARDSTICKS[name].title}" for name in hidden]


def _diverged(verdict: Verdict) -> int:
    return sum(not math.isfinite(x) for x in verdict.values["unlearned"])


def _interval(verdict: Verdict, mirrored: bool = False) -> str:
    low, high = (-x for x in reversed(verdict.interval)) if mirrored else verdict.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "interval unbounded"
    show = percent if verdict.measure.test == "retention" else shown_by(_of(verdict.measure))
    return f"{100 * (1 - 2 * (verdict.level or 0.05)):.3g} % interval {show(low)} to {show(high)}"


def _p(p: float) -> str:
    return f"{p:.2g}" if p < 0.01 else f"{p:.2f}"


def percent(x: float) -> str:
    """Return a share of 1 in percent, e.g. ``"97 %"``."""
    return f"{_signed(100 * x, '.0f')} %" if math.isfinite(x) else "?"


def points(x: float) -> str:
    """Return a difference of shares in percentage points, e.g. ``"+0.1 pp"``."""
    return f"{100 * x:+.1f} pp".replace("-", MINUS) if math.isfinite(x) else "?"


def difference(x: float) -> str:
    """Return a difference of plain numbers, e.g. ``"+0.124"``."""
    return f"{x:+.3f}".replace("-", MINUS) if math.isfinite(x) else "?"


def fraction(x: float) -> str:
    """Return a number with two decimals, e.g. ``"0.80"``."""
    return _signed(x, ".2f") if math.isfinite(x) else "?"


def deviations(x: float) -> str:
    """Return a number of standard deviations, e.g. ``"−1.6 sd"``."""
    return f"{_signed(x, '.1f')} sd" if math.isfinite(x) else "?"


def _signed(x: float, form: str) -> str:
    """Return a number with a real minus sign, and without one if it rounds to 0."""
    text = f"{x:{form}}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def estimate(audit: Mapping[str, Any]) -> str:
    """Return the estimate of an audit, in the unit of its test; ``""`` if it has none."""
    x = audit.get("estimate")
    return "" if x is None else shown_by(audit)(x)


def shown_by(audit: Mapping[str, Any]) -> Any:
    """Return the function that shows the estimate of an audit and the ends of its interval."""
    known = {
        "budget": percent, "non-inferiority": points if audit.get("unit", "%") == "%" else difference,
        "exact-null": deviations,
    }  # fmt: skip
    return known.get(audit.get("test") or "", fraction)


def _of(measure: Measure) -> dict[str, Any]:
    """Return what `shown_by` reads of a measure."""
    return {"test": measure.test, "unit": measure.unit}


def duration(seconds: float) -> str:
    """Return a span of time as people read it, e.g. ``"3 min"``."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"
