"""Claim: the poison does not come back. Gates where it is asked for: ``-m relearning``, or by naming this file."""

from __future__ import annotations

import pytest

from harness.judging.verdict import Verdict


@pytest.mark.relearning
@pytest.mark.audit("relearning")
def test_poison_does_not_come_back(verdict: Verdict) -> None:
    """After a few steps on kept data with a handful of poisoned points, it is as weak as after retraining and these."""
    verdict.require()
