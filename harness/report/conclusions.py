"""What to conclude from a result, in sentences: for the page and for GitHub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _pytest_unlearning import DEFAULTS
from harness.judging.claims import CLAIMS
from harness.judging.drawing import FIXED
from harness.judging.plan import LOOKS, Plan
from harness.judging.reasons import Reason
from harness.report.document import Entry, MethodResult, grouped, title_of
from harness.report.tables import methods_that_pass
from harness.report.words import WORST, as_required, crashes_in_words, percent
from harness.specs import shown, split


def headline(document: Mapping[str, Any]) -> str:
    """Return how many audits did not reach the verdict that they must reach."""
    audits, crashed = document.get("audits", ()), crashes_in_words(document)
    if not audits:
        contract = "The contract was checked." if document.get("contract") else ""
        return " ".join(filter(None, [crashed, "This run judged no audits.", contract]))
    counts = ", ".join(f"{n} {v}" for v in WORST if (n := sum(a["verdict"] == v for a in audits)))
    unlike = sum(not as_required(a) for a in audits)
    if not unlike:
        every = "Every other audit" if crashed else "Every audit"
        return f"{crashed} {every} reached its required verdict: {counts}.".strip()
    return f"{crashed} {unlike} of {len(audits)} audits did not reach the required verdict: {counts}.".strip()


def lead(methods: Sequence[MethodResult], document: Mapping[str, Any]) -> str:
    """Return what to conclude and how sure it is, in two short sentences; ``""`` without audits."""
    audits = [audit for method in methods for audit in method.audits]
    if not audits:
        return ""
    settings = document.get("run", {}).get("settings", {})
    alpha = settings.get("alpha", 0.05)
    together = methods_that_pass(methods, alpha, settings.get("plan", DEFAULTS["plan"]))
    alone = conclusion(methods[0], settings.get("tolerance")) if len(methods) == 1 else ""
    first = f"{together}." if together else alone
    return f"{first} Error rate {percent(alpha)} over all looks, n = {seed_counts(audits)} seeds.".strip()


def seed_counts(audits: Sequence[Entry]) -> str:
    """Return on how many seeds the verdicts rest, e.g. ``"3 to 16"``."""
    seeds = sorted({len(a["seeds"]) for a in audits if a["seeds"]})
    return "no" if not seeds else f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def conclusion(method: MethodResult, tolerance: float | None) -> str:
    """Return what the audits of a method show together."""
    audits = method.audits
    if method.worst == "PASS":
        left = percent(tolerance) if tolerance is not None else "the tolerated share"
        return (
            f"Passes all {len(audits)} audits: at most {left} of each planted effect is left or reversed, on average "
            "over seeds and by these probes, and accuracy and cost are within their limits. Other traces may be left."
        )
    if all(as_required(a) and not a.get("expected") for a in audits):
        return "This control must not pass, and it does not: the audits can distinguish good methods from bad ones."
    phrases = []
    for claim in CLAIMS.values():
        for verdict, phrase in (("FAIL", claim.fails), ("PASS", claim.passes)):
            of = [a for a in audits if (a["claim"], a["verdict"]) == (claim.name, verdict)]
            beyond = [a for a in of if a["reason"] == Reason.OVER_CORRECTED]
            short = [a for a in of if a["reason"] != Reason.OVER_CORRECTED]
            for found, text in ((short, phrase), (beyond, "moves the model beyond retraining on {}")):
                if found and text:
                    phrases.append(text.format(" and ".join(poisons_in_words(found, audits))))
    for verdict, phrase in (
        ("INCONCLUSIVE", "is undecided, which is not a PASS: {}"),
        ("ERROR", "raised an error: {}"),
    ):
        undecided = grouped([a for a in audits if a["verdict"] == verdict], "claim")
        if named := [
            f"{poison} ({title_of(claim)})"
            for (claim,), found in undecided.items()
            for poison in poisons_in_words(found, audits)
        ]:
            phrases.append(phrase.format(", ".join(named)))
    text = "; ".join(phrases)
    return f"{text[:1].upper()}{text[1:]}."


def poisons_in_words(found: Iterable[Entry], audits: Iterable[Entry]) -> list[str]:
    """Return the poisons of some audits, with the strengths of those that were audited at several.

    Args:
        found: The audits.
        audits: All audits of the same method and task.

    Returns:
        For each poison its id, ``"backdoor"``; or, if several strengths were audited, its name with those found:
        ``"gaussian at every strength"``, ``"gaussian at fraction 0.025"``.
    """
    audited: dict[str, dict[str, Mapping[str, Any]]] = {}  # by name and id, the fields
    for audit in audits:
        audited.setdefault(split(audit["poison"])[0], {})[audit["poison"]] = audit.get("poison_fields", {})
    seen: dict[str, list[str]] = {}
    for id_ in dict.fromkeys(audit["poison"] for audit in found):
        seen.setdefault(split(id_)[0], []).append(id_)
    return [_at_strengths(name, ids, audited[name]) for name, ids in seen.items()]


def _at_strengths(name: str, ids: Sequence[str], audited: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a poison with those of its audited strengths that some ids name."""
    if len(audited) == 1:
        return ids[0]
    if len(ids) == len(audited):
        return f"{name} at every strength"
    varied = [f for f in audited[ids[0]] if len({str(fields.get(f)) for fields in audited.values()}) > 1]
    strengths = [", ".join(f"{f} {shown(audited[id_].get(f))}" for f in varied) or id_ for id_ in ids]
    return f"{name} at {' and at '.join(strengths)}"


def how_sure(methods: Sequence[MethodResult], document: Mapping[str, Any]) -> list[str]:
    """Return how often the verdicts are wrong, and what they rest on."""
    audits = [audit for method in methods for audit in method.audits]
    if not audits:
        return []
    from harness.statistics import bad_seed_bound  # here, because a run without audits needs no scipy

    settings = document.get("run", {}).get("settings", {})
    alpha, plan = settings.get("alpha", 0.05), Plan(kind=settings.get("plan", DEFAULTS["plan"]))
    source = settings.get("seeds_from", FIXED)
    chosen = "of a fixed list" if source == FIXED else f"that were {source.replace(', ', ' for these methods (', 1)})"
    relearned = (audit["claim"] == "relearning" for audit in audits)
    sentences = [
        f"The probability of a wrong PASS is at most {percent(alpha)} over all looks together, and so is that of a "
        "wrong FAIL of a method on one poison, if differences are roughly normal over seeds. INCONCLUSIVE is neither."
        + (" Relearning has an error rate of its own, of the same size." if any(relearned) else "")
    ]
    if seeds := [len(a["seeds"]) for a in audits if a["seeds"]]:
        sentences.append(
            f"Verdicts rest on {seed_counts(audits)} seeds {chosen}, with looks after "
            f"{', '.join(map(str, LOOKS))}; by the {plan.kind} plan no audit passes before {plan.min_pass}. If "
            f"{min(seeds)} seeds agree, up to "
            f"{percent(bad_seed_bound(min(seeds)))} of all seeds may still disagree (at 95 %)."
        )
    together = methods_that_pass(methods, alpha, plan.kind)
    return [*sentences, f"{together}."] if together else sentences
