"""What a run says first if nothing can be judged by a poison."""

from __future__ import annotations

import pytest

from harness.report.document import methods
from harness.report.tables import too_weak


def audit(poison: str, reason: str, claim: str = "poison") -> dict[str, str]:
    return {
        "unlearner": "gd", "task": "mine:Task", "poison": poison, "claim": claim, "verdict": "INCONCLUSIVE",
        "reason": reason,
    }  # fmt: skip


@pytest.mark.parametrize("reason", ["no-bite", "oracle-not-pass", "oracle-fails"])
def test_a_poison_that_retraining_does_not_pass_is_named_with_the_command_that_helps(reason):
    found = methods({"audits": [audit("source:column=a,value=b c", reason), audit("backdoor", "futile")]})

    assert too_weak(found) == [
        f"source:column=a,value=b c on mine:Task: nothing can be judged ({reason}); see pytest-unlearning plan "
        "--task=mine:Task '--poison=source:column=a,value=b c'"
    ]


def test_accuracy_that_cannot_be_judged_says_nothing_of_the_poison():
    assert too_weak(methods({"audits": [audit("backdoor", "oracle-not-pass", "accuracy")]})) == []
