"""Why a verdict is what it is: every reason with its sentence and its advice."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why an audit reached its outcome.

    The value is the word in results and in expectations. A poison may give a reason of its own in
    `harness.Reading.unusable`; `sentence_of` and `advice_on` show such a reason as it came.

    Attributes:
        sentence: What happened, for people. ``""`` for a reason that the numbers of the verdict state themselves.
            ``{n}`` stands for the number of seeds, ``{diverged}`` for the number of unlearned models that diverged,
            ``{measured}`` for the share of its compute that retraining was measured at.
        advice: What to do about it; ``""`` if there is nothing to do.
    """

    sentence: str
    advice: str

    def __new__(cls, value: str, sentence: str = "", advice: str = "") -> Reason:
        """Return the member: the word, with its texts as attributes."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        member.advice = advice
        return member

    # The evidence decided.
    EQUIVALENT = "equivalent"
    OUTSIDE_MARGIN = "outside-margin"
    POISON_LEFT = "poison-left"
    OVER_CORRECTED = (
        "over-corrected",
        "",
        "Weaken the method: fewer steps, a smaller learning rate, or less weight on the points to forget.",
    )
    NOTHING_FOUND = "nothing-found"
    NULL_REJECTED = "null-rejected"
    WITHIN_BUDGET = "within-budget"
    OVER_BUDGET = "over-budget"
    DIVERGED = (
        "diverged",
        "The unlearned model diverged: its weights, or what the probe reads of it, are not finite for {diverged} of "
        "{n} seeds.",
        "Take smaller steps: a smaller learning rate, or less weight on the points to forget.",
    )
    # The evidence does not decide yet, or will not.
    NEED_MORE_SEEDS = (
        "need-more-seeds",
        "",
        "The interval straddles the limit and the plan was cut short. Raise --audit-seeds.",
    )
    FUTILE = (
        "futile",
        "",
        "Even all 16 seeds would hardly decide this. Make the method clearly better or the poison stronger, or run "
        "every seed with --audit-futility=0.",
    )
    UNDERPOWERED = (
        "underpowered",
        "",
        "The interval still straddles the limit after all 16 seeds. Make the method clearly better or the poison "
        "stronger.",
    )
    WAITS_FOR_SEEDS = (
        "waits-for-seeds",
        "{n} seeds look good, but the reliable plan passes nothing before 16: fewer say too little about bad seeds.",
        "Raise --audit-seeds to 16, or judge the average alone with --audit-plan=quick.",
    )
    BAD_SEEDS = (
        "bad-seeds",
        "The average over {n} seeds is within the limit, but at least one seed is beyond it by more than retraining "
        "varies. So the method may fail on over 20 % of seeds.",
        "Make the method work on every seed. --audit-plan=quick judges the average alone.",
    )
    NEEDS_NORMALITY = (
        "needs-normality",
        "{n} seeds decide this only if they are normally distributed. Without that assumption, the evidence is too "
        "weak.",
        "Make the method clearly better or the poison stronger. --audit-plan=quick makes the assumption.",
    )
    TOO_FEW_SEEDS = (
        "too-few-seeds",
        "{n} seeds are too few to judge.",
        "Use at least three seeds.",
    )
    # Nothing can be judged.
    NO_BITE = (
        "no-bite",
        "Nothing can be judged: the poison shows no effect in {n} seeds.",
        "Make the poison stronger; pytest-unlearning plan says when it is strong enough. The run shows nothing about "
        "the method.",
    )
    ORACLE_NOT_PASS = (
        "oracle-not-pass",
        "The method passes, but retraining has not passed this audit on the seeds so far.",
        "Run the whole plan, or use a stronger poison; for accuracy, a larger test set. pytest-unlearning plan says "
        "what can be judged.",
    )
    ORACLE_FAILS = (
        "oracle-fails",
        "Nothing can be judged: retraining itself fails this audit.",
        "Fix the task or the poison's measure. The method is not at fault.",
    )
    WRECKED_PASSES = (
        "wrecked-passes",
        "Nothing can be judged: a model that was never trained passes.",
        "Fix the task.",
    )
    NONFINITE_REFERENCE = (
        "nonfinite-reference",
        "Nothing can be judged: a poisoned or retrained model diverged, or what the probe read of it is not finite.",
        "Fix the task's recipe, for example its learning rate, or the poison's probe.",
    )
    NULL_NOT_EXACT = (
        "null-not-exact",
        "Nothing can be judged: scores of retrained models, which cannot know what was planted, are far from N(0, 1).",
        "Fix the poison's probe.",
    )
    UNMETERED = (
        "unmetered",
        "Nothing can be judged: the meter finds {measured} of retraining's own compute, so the inputs or outputs of "
        "the task's model hide compute from it.",
        "Have the task's model take and return tensors whose first dimension is the batch. The method is not at fault.",
    )
    TOO_QUICK = (
        "too-quick",
        "Nothing can be judged: the task trains by a loop of its own, so compute is measured in CPU time, and "
        "retraining takes too little of it.",
        "Audit the cost on more data or a larger model.",
    )
    MASKED_GRADIENTS = (
        "masked-gradients",
        "Nothing can be judged: over 1 % of a model's input gradients are exactly zero, so this probe cannot see into "
        "it.",
        "Use another poison.",
    )


#: Reasons for which no method can be judged, however many seeds there are.
_FORBIDDING = (
    Reason.ORACLE_FAILS, Reason.WRECKED_PASSES, Reason.NONFINITE_REFERENCE, Reason.NULL_NOT_EXACT, Reason.UNMETERED,
    Reason.TOO_QUICK, Reason.MASKED_GRADIENTS,
)  # fmt: skip


def forbids(reason: str) -> bool:
    """Return whether nothing can be judged, however many seeds there are; a poison's own reason always says so."""
    return reason not in list(Reason) or Reason(reason) in _FORBIDDING


def sentence_of(reason: str, n: int, diverged: int = 0, measured: str = "") -> str:
    """Return what happened, in a sentence; ``""`` if the numbers of the verdict state it.

    Args:
        reason: The word of a `Reason`, or a poison's own text.
        n: Number of seeds.
        diverged: Number of unlearned models that diverged.
        measured: Share of its compute that retraining was measured at, in words.
    """
    if reason not in list(Reason):
        return f"Nothing can be judged: {reason.rstrip('.')}."
    return Reason(reason).sentence.format(n=n, diverged=diverged, measured=measured)


def advice_on(reason: str) -> str:
    """Return what to do about a reason; ``""`` if there is nothing to do, or if it is a poison's own."""
    return Reason(reason).advice if reason in list(Reason) else ""
