"""The seed plan: when evidence is looked at, and at what level.

The plan is sequential. At each look a fixed-n test is made at a share of the error rate; the shares of all looks add up
to it (Bonferroni), so looking early costs no validity. FAIL may be said from the first look, PASS from five seeds, and
from five seeds on an audit that has no hope of either is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from _pytest_unlearning import LOOKS as LOOKS  # the option of the command line names them

#: Fewest seeds of a PASS: a method that fails on one seed in five shows itself too rarely among fewer.
MIN_PASS = 5
#: The plans: one for a method's author, and the one that a gate merges by.
KINDS = ("quick", "reliable")
#: Largest share of bad seeds that a PASS of the reliable plan may leave open, at 95 %.
MOST_BAD = 0.2
#: Error rate over all looks for seeds of any law, in units of alpha, where the reliable plan asks for such evidence.
ANY_LAW = 1.5


@dataclass(frozen=True)
class Plan:
    """When evidence is looked at, and at what level.

    Attributes:
        seeds: Stop after so many seeds, one of `LOOKS`. The levels do not change: a plan cut short is only more
            cautious.
        alpha: Error rate of a PASS over the whole plan, and of a FAIL over the whole plan and cell, in (0, .5).
        futility: An audit is given up, from `MIN_PASS` seeds on, where the last look would decide it with less
            probability than this; 0 gives none up, and costs seeds on the margin.
        kind: ``"quick"``: t tests of the mean alone; or ``"reliable"``, which asks for more (`judging.reliable`).
        first: The first seed of a fixed list. Audits begin at 0 and never reach 100; what tunes or calibrates begins
            above.
        drawn: Seeds in place of that list, `LOOKS[-1]` of them, none twice; as `harness.judging.drawing` draws them.

    Raises:
        ValueError: A field is out of range, or a seed was drawn twice.
    """

    seeds: int = LOOKS[-1]
    alpha: float = 0.05
    futility: float = 0.1
    first: int = 0
    kind: str = "quick"
    drawn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds not in LOOKS:
            raise ValueError(f"the plan takes {', '.join(map(str, LOOKS))} seeds, not {self.seeds}")
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha must lie in (0, .5), not {self.alpha}")
        if not 0 <= self.futility < 1:
            raise ValueError(f"futility must lie in [0, 1), not {self.futility}")
        if self.kind not in KINDS:
            raise ValueError(f"the plan is {' or '.join(KINDS)}, not {self.kind!r}")
        if self.drawn and (len(self.drawn) != LOOKS[-1] or len(set(self.drawn)) < len(self.drawn)):
            raise ValueError(f"a plan takes {LOOKS[-1]} different drawn seeds, not {self.drawn}")

    @property
    def looks(self) -> tuple[int, ...]:
        """The looks that are reached, in seeds."""
        return tuple(n for n in LOOKS if n <= self.seeds)

    @property
    def to_the_end(self) -> Plan:
        """The same plan, where nothing is given up."""
        return replace(self, futility=0.0)

    @property
    def informing(self) -> Plan:
        """The plan of what informs and does not gate: the quick one, to the end of the seeds that others need."""
        return replace(self, futility=0.0, kind="quick")

    def numbers(self, n: int) -> Sequence[int]:
        """Return the first ``n`` seeds, in the order in which they are used.

        Raises:
            ValueError: There are fewer drawn seeds.
        """
        if not self.drawn:
            return range(self.first, self.first + n)
        if n > len(self.drawn):
            raise ValueError(f"{len(self.drawn)} seeds were drawn, not {n}")
        return self.drawn[:n]

    @property
    def reliable(self) -> bool:
        """Whether it is the reliable plan."""
        return self.kind == "reliable"

    @property
    def min_pass(self) -> int:
        """Fewest seeds of a PASS: for the reliable plan so many that, all good, they exclude `MOST_BAD` bad ones."""
        return LOOKS[-1] if self.reliable else MIN_PASS

    @property
    def pass_looks(self) -> int:
        """Number of looks at which a PASS can be said."""
        return sum(n >= self.min_pass for n in LOOKS)

    @property
    def pass_level(self) -> float:
        """Level of a PASS at one look."""
        return self.alpha / self.pass_looks

    @property
    def evidence_level(self) -> float:
        """Level of an e-value, over all looks together."""
        return ANY_LAW * self.alpha

    @property
    def null_level(self) -> float:
        """Level at which an exact null must not be rejected, for a PASS: the larger, the stricter.

        So a smaller error rate does not make it smaller. It is not divided by the looks: what is rejected by chance is
        asked again at the next one. Where there is no next one, retraining must not be turned away by chance.
        """
        from harness.statistics.exact import PLAIN  # here: a listing does without scipy

        level = max(self.alpha, PLAIN)
        return level if self.pass_looks > 1 else level / len(LOOKS)

    @property
    def bite_level(self) -> float:
        """Level at which the poison's effect must be shown at one look."""
        return self.alpha / len(LOOKS)

    def fail_level(self, judged: int) -> float:
        """Level of a FAIL at one look, in a cell with so many judged audits."""
        return self.alpha / (len(LOOKS) * judged)
