"""Claim: unlearning costs no accuracy."""

from __future__ import annotations

import pytest

from harness.judging.verdict import Verdict


@pytest.mark.audit("accuracy")
def test_accuracy_is_kept(verdict: Verdict) -> None:
    """Test accuracy is not worse than after retraining, by more than the task's margin."""
    verdict.require()
