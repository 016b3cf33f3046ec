"""What to conclude from a result, in sentences: for the page and for GitHub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.judging.claims import CLAIMS
from harness.judging.plan import LOOKS, Plan
from harness.judging.reasons import Reason
from harness.report.document import Entry, MethodResult, title_of
from harness.report.tables import methods_that_pass
from harness.report.words import WORST, as_required, crashes_in_words, percent

#: The plan of a result that names none.
QUICK = "quick"


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
    together = methods_that_pass(methods, alpha, settings.get("plan", QUICK))
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
            beyond = [a["poison"] for a in of if a["reason"] == Reason.OVER_CORRECTED]
            short = [a["poison"] for a in of if a["reason"] != Reason.OVER_CORRECTED]
            for poisons, text in ((short, phrase), (beyond, "moves the model beyond retraining on {}")):
                if poisons and text:
                    phrases.append(text.format(" and ".join(poisons)))
    for verdict, phrase in (
        ("INCONCLUSIVE", "is undecided, which is not a PASS: {}"),
        ("ERROR", "raised an error: {}"),
    ):
        if named := [f"{a['poison']} ({title_of(a['claim'])})" for a in audits if a["verdict"] == verdict]:
            phrases.append(phrase.format(", ".join(named)))
    text = "; ".join(phrases)
    return f"{text[:1].upper()}{text[1:]}."


def how_sure(methods: Sequence[MethodResult], document: Mapping[str, Any]) -> list[str]:
    """Return how often the verdicts are wrong, and what they rest on."""
    audits = [audit for method in methods for audit in method.audits]
    if not audits:
        return []
    from harness.statistics import bad_seed_bound  # here, because a run without audits needs no scipy

    settings = document.get("run", {}).get("settings", {})
    alpha, plan = settings.get("alpha", 0.05), Plan(kind=settings.get("plan", QUICK))
    sentences = [
        f"The probability of a wrong PASS is at most {percent(alpha)} over all looks together, and so is that of a "
        "wrong FAIL of a method on one poison, if differences are roughly normal over seeds. INCONCLUSIVE is neither."
    ]
    if seeds := [len(a["seeds"]) for a in audits if a["seeds"]]:
        sentences.append(
            f"Verdicts rest on {seed_counts(audits)} seeds of a fixed list, with looks after "
            f"{', '.join(map(str, LOOKS))}; by the {plan.kind} plan no audit passes before {plan.min_pass}. If "
            f"{min(seeds)} seeds agree, up to "
            f"{percent(bad_seed_bound(min(seeds)))} of all seeds may still disagree (at 95 %)."
        )
    together = methods_that_pass(methods, alpha, plan.kind)
    return [*sentences, f"{together}."] if together else sentences
