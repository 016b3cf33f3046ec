"""What an audit concludes: the evidence, the looks at it, the verdict, and the failure of a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harness.api import Measure, Outcome
from harness.cells import cell_id


@dataclass(frozen=True)
class Evidence:
    """The per-seed numbers of an audit, first seed first. Non-finite numbers are evidence too.

    Attributes:
        poisoned, retrained, unlearned: The measure of P, R and U.
        oracle: The measure of R', retrained once more with fresh initialisation and order.
        wrecked: The measure of a model that was never trained.
        unusable: Per seed why its numbers must not be judged, or ``""``; empty where every seed is usable.
        resolution: Smallest standard deviation over seeds that is believed.
        remaining: The measure of D, retrained on all but the points that were handed over; empty where these are all.
    """

    poisoned: tuple[float, ...]
    retrained: tuple[float, ...]
    unlearned: tuple[float, ...]
    oracle: tuple[float, ...]
    wrecked: tuple[float, ...]
    unusable: tuple[str, ...] = ()
    resolution: float = 0.0
    remaining: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.unlearned)

    def first(self, n: int) -> Evidence:
        """Return the evidence of the first ``n`` seeds."""
        return Evidence(
            self.poisoned[:n], self.retrained[:n], self.unlearned[:n], self.oracle[:n], self.wrecked[:n],
            self.unusable[:n], self.resolution, self.remaining[:n],
        )  # fmt: skip

    def of(self, unlearned: tuple[float, ...]) -> Evidence:
        """Return the evidence with a control, say, in the place of the unlearned models."""
        return replace(self, unlearned=unlearned, unusable=())


@dataclass(frozen=True)
class Look:
    """What the seed plan saw at one look.

    Attributes:
        seeds: How many seeds there were.
        estimate: As in `Verdict`.
        pass_interval: Interval of the estimate that a PASS is read from: it lies within the margin, or has 0 inside if
            the measure is an exact null.
        fail_interval: The wider one that a FAIL is read from: it lies outside of the margin, or has 0 outside.
        p_pass, p_fail: Raw p-values.
    """

    seeds: int
    estimate: float
    pass_interval: tuple[float, float]
    fail_interval: tuple[float, float]
    p_pass: float
    p_fail: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Trace:
    """What one trace of a poison comes to.

    Attributes:
        measure: What was judged.
        outcome: PASS, FAIL or INCONCLUSIVE.
        reason: One word or two, from a fixed list (``"equivalent"``, ``"poison-left"``, ``"no-bite"``, ...).
        estimate: Retention: the fraction of the poison's effect that is left (0 as if retrained, 1 nothing
            unlearned). Exact null: mean of the scores, in standard deviations. Non-inferiority: mean difference U - R.
            Budget: the largest fraction of retraining used.
        interval: Confidence interval of the estimate at ``1 - 2 * level``; of an exact null at ``1 - level``.
        margin: The tolerance that the estimate was held against, in the estimate's unit; not-a-number for an exact
            null, which has none.
        p_pass, p_fail, p_bite: Raw p-values; None where the measure has no such test.
        level: What the deciding p-value was held against.
        seeds: The seeds that were used, in order.
    """

    measure: Measure
    outcome: Outcome
    reason: str
    estimate: float
    interval: tuple[float, float]
    margin: float
    p_pass: float | None
    p_fail: float | None
    p_bite: float | None
    level: float | None
    seeds: tuple[int, ...]

    def __repr__(self) -> str:
        low, high = self.interval
        numbers = f"{self.estimate:.3g} [{low:.3g}, {high:.3g}], n = {len(self.seeds)}"
        return f"<{type(self).__name__} {self.outcome.value} ({self.reason}): {self.measure.name} {numbers}>"


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict(Trace):
    """The record of one judgement: of several traces the one that decides (the main one if all pass), and its context.

    Attributes:
        unlearner, task, poison: Ids of the cell's parts.
        values: Per-seed numbers under ``"poisoned"``, ``"retrained"``, ``"unlearned"``; with partial discovery also
            under ``"remaining"``, of retraining on all but the points that were handed over.
        details: Further numbers to print, by name: as a rule means over seeds.
        by_seed: Per-seed numbers of such details, by name and then as in ``values``.
        looks: The path of the seed plan to the verdict, first look first; empty where nothing was tested.
        discovery: Share of the poisoned points that the unlearner was given as its forget set.
        traces: All traces by the name of their measure, the main one first, if there are several; else empty. If all
            pass, ``seeds`` are those of the trace that took most of them.
    """

    unlearner: str
    task: str
    poison: str
    values: Mapping[str, tuple[float, ...]]
    details: Mapping[str, float] = field(default_factory=dict)
    by_seed: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    discovery: float = 1.0
    traces: Mapping[str, Trace] = field(default_factory=dict)

    @property
    def cell(self) -> str:
        """Id of the cell."""
        return cell_id(self.unlearner, self.task, self.poison, self.discovery)

    def __repr__(self) -> str:
        return f"{super().__repr__().removesuffix('>')}; {self.cell}>"

    def require(self, outcome: Outcome = Outcome.PASS) -> None:
        """Assert what the audit concludes; an audit's test function is a call of this.

        Raises:
            InconclusiveAudit: It concludes nothing, which is never as good as a FAIL that was expected.
            AuditFailure: It concludes the opposite.
        """
        __tracebackhide__ = True  # the claim is the caller's: nobody has to read, and pytest not to parse, this file
        if self.outcome is Outcome.INCONCLUSIVE:
            raise InconclusiveAudit(self, outcome)
        if self.outcome is not outcome:
            raise AuditFailure(self, outcome)


class AuditFailure(AssertionError):  # noqa: N818 - pytest prints the name; it is a failed test, not an error
    """An audit did not conclude what it must."""

    def __init__(self, verdict: Verdict, expected: Outcome) -> None:
        super().__init__(f"{verdict.cell}: {verdict.measure.name} {verdict.outcome.value} ({verdict.reason})")
        self.verdict = verdict
        self.expected = expected


class InconclusiveAudit(AuditFailure):
    """The evidence does not allow a verdict."""
