"""Claim: the audits can tell. They run where no unlearner is asked for."""

from __future__ import annotations

import pytest

from harness.api import Outcome
from harness.judging.verdict import Verdict


@pytest.mark.audit("poison", control="retrain")
def test_retraining_forgets(verdict: Verdict) -> None:
    """Retraining afresh without the poisoned points passes."""
    verdict.require()


@pytest.mark.audit("accuracy", control="retrain")
def test_retraining_keeps_accuracy(verdict: Verdict) -> None:
    """Retraining afresh is as accurate as retraining."""
    verdict.require()


@pytest.mark.audit("poison", control="identity")
def test_doing_nothing_is_caught(verdict: Verdict) -> None:
    """The poisoned model, handed back, fails."""
    verdict.require(Outcome.FAIL)


@pytest.mark.audit("accuracy", control="wrecked")
def test_a_wreck_is_caught(verdict: Verdict) -> None:
    """A model that has forgotten everything fails by accuracy."""
    verdict.require(Outcome.FAIL)
