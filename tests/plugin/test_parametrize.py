"""Audits in anybody's own test file."""

import re

import pytest

import harness
from conftest import WITHOUT
from harness.api import UnlearningError

AUDITS = """
import harness


class Forget:
    \"\"\"Descends on what is kept; a method with a field, handed over as an object.\"\"\"

    reads_forget = False

    def __init__(self, lr=0.01):
        self.lr = lr

    def __call__(self, model, request):
        optimizer = request.optimizer(model, lr=self.lr)
        for batch in request.batches("retain"):
            optimizer.zero_grad()
            request.loss(model, batch).backward()
            optimizer.step()
        return model


@harness.parametrize_with_audits([Forget(), "retrain"], task="tiny:Tiny", poison="backdoor:size=1",
                                 claims=["poison", "cost"])
def test_unlearning(verdict):
    verdict.require()


@harness.parametrize_with_audits([Forget()], task="tiny:Tiny")
def test_contract(clause):
    harness.examine(clause)


def test_something_else():
    pass
"""
METHOD = "test_mine:Forget:lr=0.01"


def cases(run):
    return {each["id"].partition("::")[2]: each["verdict"] for each in run.json["audits"]}


def test_a_test_file_audits_with_one_case_per_claim(folder):
    folder.write("test_mine.py", AUDITS)
    folder.write(
        "expected.toml",
        f'[[expected]]\nunlearner = "{METHOD}"\ntask = "tiny:Tiny"\npoison = "backdoor:size=1"\nverdict = "FAIL"\n'
        'reason = "It is known."\n',
    )
    args = ("--audit-budget=1.5", "--audit-expect=expected.toml", "-n2")
    run = folder.pytest(*args, suites="test_mine.py", contract=True)
    cell = f"{METHOD}-tiny:Tiny-backdoor:size=1"
    assert cases(run) == {
        f"test_unlearning[{cell}-poison]": "FAIL",
        f"test_unlearning[{cell}-cost]": "PASS",
        "test_unlearning[retrain-tiny:Tiny-backdoor:size=1-poison]": "PASS",
        "test_unlearning[retrain-tiny:Tiny-backdoor:size=1-cost]": "PASS",
    }
    assert run.code == 0, run.text
    assert run.counts()["expected"] == 1
    assert run.counts()["passed"] == 3 + len(run.json["contract"]) + 1
    assert run.counts()["trained"] > 0, "trials are items of their own"
    assert {each["kept"] for each in run.json["contract"]} == {True}
    assert "controls: retrain PASS" in run.text
    # In one process everything is found again: the object is known for the same. The options of the run hold.
    options = ("-k", "unlearning and poison", "--audit-tolerance=0.3", "--audit-budget=1.5")
    again = folder.pytest(*options, suites="test_mine.py", contract=True)
    assert again.built == []
    assert set(cases(again)) == {case for case in cases(run) if case.endswith("-poison]")}
    assert all(audit["margin"] == 0.3 for audit in again.json["audits"])
    assert not list(folder.store.glob("progress/*")), "notes of workers are cleared away"


ONE = """
import harness


@harness.parametrize_with_audits(["identity"], task="tiny:Tiny", poison="backdoor:size=1", claims=["cost"])
def test_unlearning(verdict):
    verdict.require()
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_an_audit_needs_no_option_and_no_name_of_ours(folder, workers):
    folder.write("test_mine.py", ONE)
    command = ["pytest", "-p", "no:cacheprovider", *WITHOUT, "test_mine.py", workers]
    environment = {**folder.environment(), "XDG_CACHE_HOME": str(folder.path / "cache")}
    code, text = folder.forks.run(command, folder.path, environment, timeout=900)
    assert code == 0, text
    assert "= unlearning audits =" in text
    assert re.search(r"1 passed, \d+ trained", text)
    assert not list(folder.path.glob("cache/*/progress/*")), "notes of workers are cleared away"


BAD = """
import harness

@harness.parametrize_with_audits([{}], task="{}")
def test_unlearning(verdict):
    verdict.require()
"""


@pytest.mark.parametrize(
    ("unlearner", "task", "said"),
    [
        ("'srub'", "tiny:Tiny", "unknown unlearner 'srub'; did you mean scrub"),
        ("'gd'", "tiny:Tin", "the task 'tiny:Tin': tiny has no attribute 'Tin'; did you mean Tiny?"),
        ("(lambda thing: lambda *_: thing)(object())", "tiny:Tiny", "made with objects that are not plain"),
    ],
    ids=["unlearner", "task", "object"],
)  # fmt: skip
def test_what_cannot_be_used_is_an_error_of_the_collection_in_a_sentence(folder, unlearner, task, said):
    folder.write("test_mine.py", BAD.format(unlearner, task))
    run = folder.pytest("--co", suites="test_mine.py", contract=True)
    assert run.code == 2
    assert said in run.text
    assert "registry.py" not in run.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unlearners": "scrub"}, "unlearners must be a non-empty list, not 'scrub'"),
        ({"unlearners": []}, "unlearners must be a non-empty list"),
        ({"unlearners": ["gd"], "claims": ["privacy"]}, "claims are poison, accuracy, cost, relearning; not 'privacy'"),
        ({"unlearners": ["gd"], "claims": "cost"}, "claims must be a non-empty list, not 'cost'"),
    ],
)
def test_bad_arguments_are_refused_where_they_are_written(given, said):
    with pytest.raises(UnlearningError, match=said):
        harness.parametrize_with_audits(**given)
