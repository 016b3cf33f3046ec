"""Claim: the audits can tell. They run where no unlearner is asked for."""

from __future__ import annotations

import pytest

from harness.api import Outcome, Verdict
from harness.judging import require


@pytest.mark.audit("poison", control="retrain")
def test_retraining_forgets(verdict: Verdict) -> None:
    """Retraining afresh without the poisoned points passes."""
    require(verdict)


@pytest.mark.audit("accuracy", control="retrain")
def test_retraining_keeps_accuracy(verdict: Verdict) -> None:
    """Retraining afresh is as accurate as retraining."""
    require(verdict)


@pytest.mark.audit("poison", control="identity")
def test_doing_nothing_is_caught(verdict: Verdict) -> None:
    """The poisoned model, handed back, fails."""
    require(verdict, Outcome.FAIL)


@pytest.mark.audit("accuracy", control="wrecked")
def test_a_wreck_is_caught(verdict: Verdict) -> None:
    """A model that has forgotten everything fails by accuracy."""
    require(verdict, Outcome.FAIL)
