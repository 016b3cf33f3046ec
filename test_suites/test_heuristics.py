"""What the usual metrics claim. None of them looks for the poison; they inform, and fail no run.

Selected by ``-m heuristic``, or by naming this file: they are not part of what a method must pass. A metric that does
not apply to a task, as memorisation does not to images, is left out there.
"""

from __future__ import annotations

import pytest

from harness import Verdict
from harness.judging.claims import INFORMING


@pytest.mark.heuristic
@pytest.mark.audit(*INFORMING)
def test_metric_says_unlearned(verdict: Verdict) -> None:
    """The metric reads the unlearned model as it reads a retrained one: `harness.trials.metrics` defines each."""
    verdict.require()
