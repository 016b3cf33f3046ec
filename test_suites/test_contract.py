"""Claim: the method keeps the contract that every audit relies on. Takes seconds and trains nothing that is kept."""

from __future__ import annotations

import pytest

from harness import Clause, examine


@pytest.mark.contract
def test_contract(clause: Clause) -> None:
    """On small generated requests the method does what `harness.contract.lines.LINES` says."""
    examine(clause)
