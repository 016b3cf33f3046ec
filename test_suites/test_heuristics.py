"""Claims that the usual metrics make. None of them looks for the poison; they inform, and fail no run.

Selected by ``-m heuristic``, or by naming this file: they are no part of what a method must pass.
"""

from __future__ import annotations

import pytest

from harness.judging.verdict import Verdict

pytestmark = pytest.mark.heuristic


@pytest.mark.audit("membership")
def test_membership_inference_says_unlearned(verdict: Verdict) -> None:
    """By their losses the poisoned points are no easier to tell from test points than after retraining."""
    verdict.require()


@pytest.mark.audit("likelihood")
def test_likelihood_ratio_says_unlearned(verdict: Verdict) -> None:
    """Nor by how likely their losses are beside those in retrained models."""
    verdict.require()


@pytest.mark.audit("forget-accuracy")
def test_forget_accuracy_says_unlearned(verdict: Verdict) -> None:
    """The poisoned points are put in the class they were planted with as seldom as after retraining."""
    verdict.require()


@pytest.mark.audit("agreement")
def test_agreement_says_unlearned(verdict: Verdict) -> None:
    """Test points are classified as by a retrained model, as often as another retrained model does."""
    verdict.require()


@pytest.mark.audit("retain-accuracy")
def test_retain_accuracy_says_unlearned(verdict: Verdict) -> None:
    """Kept training points are classified as rightly as after retraining."""
    verdict.require()


@pytest.mark.audit("memorisation")
def test_memorisation_says_unlearned(verdict: Verdict) -> None:
    """A causal language model predicts the tokens of the poisoned texts as seldom as after retraining."""
    verdict.require()


@pytest.mark.audit("extraction")
def test_extraction_says_unlearned(verdict: Verdict) -> None:
    """Shown the beginnings of the poisoned texts, it goes on as seldom as they do as after retraining."""
    verdict.require()
