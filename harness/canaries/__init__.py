"""Canaries: can one deployed model still tell what was in a source that was removed from it?

`plant` puts canaries, each in or out by a fair coin, into one source of a data set. `reached` and `CanaryCallback`
check that training sees them. After the removal, `candidates` writes all of them without their coins, and `judge` turns
the model's losses into a lower bound on epsilon. It can prove that something is left, never that nothing is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.canaries.candidates import candidates
from harness.canaries.judgement import Judgement, judge
from harness.canaries.planting import plant
from harness.canaries.reaching import reached
from harness.canaries.secret import Canary, Secret

if TYPE_CHECKING:
    from harness.canaries.huggingface import CanaryCallback

__all__ = ["Canary", "CanaryCallback", "Judgement", "Secret", "candidates", "judge", "plant", "reached"]


def __getattr__(name: str) -> Any:
    if name != "CanaryCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.canaries.huggingface import CanaryCallback

    return CanaryCallback
