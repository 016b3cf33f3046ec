"""Claim: unlearning is cheaper than retraining."""

from __future__ import annotations

import pytest

from harness.judging.verdict import Verdict


@pytest.mark.audit("cost")
def test_budget_is_kept(verdict: Verdict) -> None:
    """The compute that was used, measured, stays within the stated fraction of retraining on every seed."""
    verdict.require()
