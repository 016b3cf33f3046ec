"""The method keeps the contract, and the audits say what the README says."""

import pytest

import harness


@harness.parametrize_with_audits(["runner-up"], task="stripes")
def test_contract(clause):
    harness.examine(clause)


@harness.parametrize_with_audits(["runner-up"], task="stripes")
def test_runner_up_unlearns(verdict):
    verdict.require()


@pytest.mark.parametrize("fields", [{"lr": 0.0}, {"epochs": 0}])
def test_fields_out_of_range_are_refused(fields):
    from runner_up.method import RunnerUp

    with pytest.raises(ValueError, match="lr must be positive and epochs at least 1"):
        RunnerUp(**fields)


@pytest.mark.parametrize("name", ["runner-up", "retrain"])
def test_the_poison_bites_and_only_where_it_was_planted(name, tmp_path):
    poison, *_ = harness.audit(name, task="stripes", store=tmp_path, seeds=3)
    assert min(poison.values["poisoned"]) > 0.8
    assert max(poison.values["retrained"]) < 0.2
