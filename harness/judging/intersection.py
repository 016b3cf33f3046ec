"""From the judgements of a claim's traces to one: all must pass (intersection-union; Berger 1982).

A PASS needs no correction, since each trace alone keeps its error rate. A FAIL of any trace is a FAIL of the claim; its
error rate is split over the traces of the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.api import Outcome
from harness.judging.claims import Criterion
from harness.judging.judge import Judgement, gated
from harness.judging.plan import Plan
from harness.judging.reasons import forbids
from harness.judging.verdict import Evidence


@dataclass(frozen=True)
class Intersection:
    """The state of a claim after the looks that the evidence allows.

    Attributes:
        criteria: What was tested, the main trace first.
        judgements: What each comes to, at the look where the claim as a whole stopped.
        decides: Position of the trace that decides: the one that failed, that forbids a judgement, or that is not
            decided; the main one if all pass.
    """

    criteria: tuple[Criterion, ...]
    judgements: tuple[Judgement, ...]
    decides: int

    @property
    def deciding(self) -> Judgement:
        """The judgement of the trace that decides."""
        return self.judgements[self.decides]

    @property
    def outcome(self) -> Outcome:
        """What is concluded of the claim."""
        return self.deciding.outcome

    @property
    def seeds(self) -> int:
        """Seeds that it rests on: a PASS rests on the trace that took most of them."""
        passed = self.outcome is Outcome.PASS
        return max(each.seeds for each in self.judgements) if passed else self.deciding.seeds

    @property
    def looked(self) -> int:
        """Seeds that were looked at, the oracle's included."""
        return max(each.looked for each in self.judgements)

    @property
    def final(self) -> bool:
        """Whether more seeds of the plan cannot change it."""
        return _stops(self.deciding) or all(each.final for each in self.judgements)


def judge_all(criteria: Sequence[Criterion], evidence: Sequence[Evidence], plan: Plan) -> Intersection:
    """Judge every trace of a claim, and stop at the first look at which one fails or cannot be judged.

    The claim passes at the look where the last trace passes; a trace that has passed is not tested again. An exact null
    is the exception: it has more power with every seed, so it must not be rejected at the look where the others have
    passed. What forbids a judgement, a control that misbehaves say, goes before a FAIL of the same look.

    Args:
        criteria: What is tested, the main trace first.
        evidence: Of each trace, on the same seeds.
        plan: When it is looked at.
    """
    tests = [gated(criterion, of, plan) for criterion, of in zip(criteria, evidence, strict=True)]
    latched = [test for test in tests if not test.criterion.exact]
    exact = [test for test in tests if test.criterion.exact]
    for n in tests[0].looks:
        for test in latched:
            test.look(n)
        settled = all(test.final for test in latched)
        for test in exact:
            test.look(n, may_pass=settled)
        if any(_stops(test.now) for test in tests):  # nothing beyond it may have a say
            break
    judgements = tuple(test.now for test in tests)
    order = [each for each in judgements if forbids(each.reason)]
    order += [each for each in judgements if each.outcome is Outcome.FAIL]
    order += [each for each in judgements if each.outcome is Outcome.INCONCLUSIVE]
    decides = next((i for i, each in enumerate(judgements) if order and each is order[0]), 0)
    return Intersection(tuple(criteria), judgements, decides)


def _stops(judgement: Judgement) -> bool:
    return judgement.outcome is Outcome.FAIL or forbids(judgement.reason)
