"""Claim: the poison is forgotten."""

from __future__ import annotations

import pytest

from harness.judging.verdict import Verdict


@pytest.mark.audit("poison")
def test_poison_is_forgotten(verdict: Verdict) -> None:
    """At most the tolerated fraction of the poison's effect is left, compared with retraining."""
    verdict.require()
