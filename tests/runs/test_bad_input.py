"""Bad tasks, data and poisons of a user, in a run: one sentence, and no word of the method."""

import pytest

TASK = """
from dataclasses import dataclass
from tiny import Tiny

@dataclass(frozen=True)
class Junk(Tiny):
    def files(self, folder):
        return None

    def load(self, folder):
        return None
"""

JUNK = "the task 'junk:Junk' loaded None; load() must return a harness.Split"
FIELD = "backdoor: target=12, but the task has no training points of that class; its classes are 0 to 2"


@pytest.mark.parametrize("more", [(), ("--audit-dry-run",)], ids=["run", "dry run"])
def test_data_that_cannot_be_used_end_a_run_before_it_begins(folder, more):
    folder.write("junk.py", TASK)
    run = folder.pytest("--unlearner=gd", "--task=junk:Junk", "--poison=backdoor:size=1", "--audit-seeds=3", *more)
    assert run.code == 4, run.text
    assert run.text.count(JUNK) == 1
    assert "Traceback" not in run.text
    assert "INTERNALERROR" not in run.text


def test_data_that_workers_cannot_use_are_errors_of_their_audits(folder):
    folder.write("junk.py", TASK)
    run = folder.pytest(
        "--unlearner=gd", "--task=junk:Junk", "--poison=backdoor:size=1", "--audit-seeds=3", "-n", "2", "--tb=short"
    )
    assert run.code == 1, run.text
    assert JUNK in run.text
    assert "Traceback" not in run.text
    assert {audit["verdict"] for audit in run.json["audits"]} == {"ERROR"}


def test_a_poisons_field_for_another_task_is_an_error_in_a_sentence(folder):
    run = folder.pytest("--unlearner=gd", "--task=tiny:Tiny", "--poison=backdoor:target=12", "--audit-seeds=3")
    assert run.code == 1, run.text
    assert FIELD in run.text
    assert "Traceback" not in run.text
    assert len(run.text.splitlines()) < 60, run.text


def test_a_poisons_field_for_another_task_ends_a_dry_run(folder):
    run = folder.pytest("--unlearner=gd", "--task=tiny:Tiny", "--poison=backdoor:target=12", "--audit-dry-run")
    assert run.code == 4, run.text
    assert FIELD in run.text
    assert "INTERNALERROR" not in run.text
