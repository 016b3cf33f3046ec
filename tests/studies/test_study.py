"""A study over an executor that draws its numbers: which trials are needed, what they conclude, in whatever order."""

import random
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.api import Measure, Outcome, Reading
from harness.cells import Trial
from harness.judging import claims
from harness.judging.claims import CLAIMS, GATING, INFORMING, Claim, Source, Walk
from harness.judging.plan import LOOKS, Plan
from harness.store.artefacts import Busy
from harness.studies.study import Status, Study
from harness.trials.lab import TrialResult

CLEAN, HALF, NOTHING = 0.0, 0.2, 1.0
OWN = "triggered_accuracy"  # the further trace of a backdoor


class Drawn:
    """Runs trials by drawing their numbers from the trial's own seed; every third request finds it busy.

    Args:
        left: What the audited method leaves of the poison.
        raises: By name of a method the seed at which it raises.
    """

    budget = 0.1
    made_on = "cpu"

    def __init__(self, left=CLEAN, raises=()):
        self.left = left
        self.raises = dict(raises)
        self.ran = []
        self.requests = 0

    def will_need(self, cells, soon):
        pass

    def _busy(self, trial):
        self.requests += 1
        if self.requests % 3 == 0:
            raise Busy(trial.id)

    def _left(self, trial):
        return {"retrain": CLEAN, "short": CLEAN, "wrecked": CLEAN, "identity": NOTHING}.get(
            trial.cell.unlearner.name, self.left
        )

    def _by_arm(self, trial, salt, p, r, u, spread=0.02):
        arms = {}
        for arm, mean in (("P", p), ("R", r), ("U", u)):
            who = trial.cell.unlearner.name if arm == "U" else ""
            value = random.Random(f"{salt}{trial.seed}{arm}{who}").gauss(mean, spread)
            traces = {OWN: Reading(1 - value)} if salt in "pr" else {}
            arms[arm] = Reading(value, traces=traces)
        return arms

    def run(self, trial):
        self._busy(trial)
        assert trial not in self.ran
        self.ran.append(trial)
        if self.raises.get(trial.cell.unlearner.name) == trial.seed:
            raise ValueError(f"{trial.cell.unlearner.name} at seed {trial.seed}")
        accuracy = 0.1 if trial.cell.unlearner.name == "wrecked" else 0.9
        readings = {
            "poison": self._by_arm(trial, "p", 1.0, 0.0, self._left(trial)),
            "accuracy": self._by_arm(trial, "a", 0.9, 0.9, accuracy, 0.001),
            "loss": self._by_arm(trial, "l", 0.0, 0.0, 5 * (0.9 - accuracy), 0.001),
        }
        cost = {
            "unlearn_fraction": 0.05,
            "fractions": {"examples": 1.0 if trial.cell.unlearner.name == "retrain" else 0.05},
            "first_call": False,
            "seconds": {"U": 1.0, "R": 2.0, "P": 2.0},
            "cpu_seconds": {"U": 1.0, "R": 2.0, "P": 2.0},
            "history_bytes": 0,
        }
        return TrialResult(readings, cost, True, {arm: {"weights": 1.0, "logits": 1.0} for arm in "UP"})

    def relearned(self, trial):
        self._busy(trial)
        return self._by_arm(trial, "r", 1.0, 0.5, 0.5 + self._left(trial) / 2)

    def heuristics(self, trials):
        self._busy(trials[0])
        return [{name: self._by_arm(trial, name, 1.0, 0.0, 0.0) for name in INFORMING} for trial in trials]


def study(lab, seeds=16, task="tiny:Tiny", methods=("gd",)):
    cells = registry.cells(
        [registry.resolve("unlearner", method) for method in methods], [registry.resolve("task", task)], ["backdoor"]
    )
    return Study(cells, lab, Plan(seeds=seeds), 0.2)


def numbers(verdict):
    return verdict.outcome, verdict.reason, verdict.estimate, verdict.interval, verdict.seeds, verdict.looks


def test_to_ask_what_a_trial_is_changes_nothing():
    """Neither the state of any cell nor what is run."""
    found = study(Drawn())
    for trial in found.trials[:9]:
        found.work(trial)
    before, ran = deepcopy(found._progress), list(found.lab.ran)
    first = [found.status(trial) for trial in found.trials]
    assert [found.status(trial) for trial in reversed(found.trials)] == first[::-1]
    assert (found._progress, found.lab.ran) == (before, ran)
    assert {Status.DONE, Status.NEEDED} <= set(first)


@given(st.randoms(use_true_random=False), st.sampled_from([CLEAN, HALF, NOTHING]))
@settings(max_examples=settings().max_examples // 5)
def test_the_order_of_trials_changes_no_verdict(order, left):
    """Cells are up to date after each trial, whoever asks for it, and the same trials are needed in the end."""
    straight, shuffled = study(Drawn(left)), study(Drawn(left))
    (cell,) = straight.cells
    expected = [numbers(straight.verdict(cell, name)) for name in CLAIMS if CLAIMS[name].applies(cell)]
    trials = list(shuffled.trials)
    order.shuffle(trials)
    for trial in trials:
        shuffled.work(trial)
    assert [numbers(shuffled.verdict(cell, name)) for name in CLAIMS if CLAIMS[name].applies(cell)] == expected
    assert shuffled.references(cell) == straight.references(cell)


def test_no_trial_is_needed_beyond_the_look_that_decides():
    found = study(Drawn())
    (cell,) = found.cells
    assert found.status(Trial(cell, 0)) is Status.NEEDED
    assert found.status(Trial(cell, LOOKS[0])) is Status.AHEAD
    assert found.verdict(cell, "poison").outcome is Outcome.PASS
    assert {found.status(Trial(cell, seed)) for seed in range(5, 16)} == {Status.NOT_NEEDED}
    assert max(trial.seed for trial in found.lab.ran) == 4


def test_what_a_method_raises_closes_its_cell_alone():
    """Every claim on it raises the same; trials of other cells go on."""
    found = study(Drawn(raises={"gd": 1}), methods=("gd", "ga"))
    gd, ga = found.cells
    for claim in ("poison", "cost", "relearning"):
        with pytest.raises(ValueError, match="gd at seed 1"):
            found.verdict(gd, claim)
    assert isinstance(found.error(Trial(gd, 1)), ValueError)
    assert found.status(Trial(gd, 2)) is Status.NOT_NEEDED or found.result(Trial(gd, 2)) is not None
    assert found.verdict(ga, "poison").outcome is Outcome.PASS


def test_a_claim_of_its_own_is_a_record_and_a_reading(monkeypatch):
    """Nothing in between names it: a record makes the study judge it, and split the error rate of FAIL by it."""
    loss = Measure("loss", "loss", worse="higher", test="non-inferiority")
    claim = Claim("loss", "loss", lambda cell: {"": loss}, lambda cell, limits: 0.1, Source.TRIAL, Walk.CELL)
    monkeypatch.setitem(claims.CLAIMS, "loss", claim)
    found = study(Drawn())
    (cell,) = found.cells
    assert found.verdict(cell, "loss").outcome is Outcome.PASS
    assert [each.judged for each in claims.POISON.criteria(cell, found.limits)] == [4, 4]
    assert found.references(cell)["retrain"]["loss"] == "PASS"
    assert found.evidence(cell, 3).keys() == {"poison", "accuracy", "loss"}


def test_every_claim_has_one_way_to_be_judged():
    found = study(Drawn(NOTHING))
    (cell,) = found.cells
    said = {name: found.verdict(cell, name).outcome for name in GATING}
    assert said == {"poison": Outcome.FAIL, "accuracy": Outcome.PASS, "cost": Outcome.PASS, "relearning": Outcome.FAIL}


def test_a_trigger_that_is_only_moved_to_another_class_is_no_removal(monkeypatch):
    """The attack never succeeds any more, but images with the trigger are not put in their own class either."""
    drawn = Drawn._by_arm

    def moved(self, trial, salt, *means):
        arms = drawn(self, trial, salt, *means)
        if salt == "p" and trial.cell.unlearner.name == "gd":
            arms["U"] = replace(arms["U"], traces={OWN: arms["P"].traces[OWN]})
        return arms

    monkeypatch.setattr(Drawn, "_by_arm", moved)
    found = study(Drawn())
    (cell,) = found.cells
    verdict = found.verdict(cell, "poison")
    assert (verdict.outcome, verdict.measure.short) == (Outcome.FAIL, "own class")
    assert {name: trace.outcome for name, trace in verdict.traces.items()} == {
        "attack_success": Outcome.INCONCLUSIVE, OWN: Outcome.FAIL,
    }  # fmt: skip
    assert verdict.seeds == (0, 1, 2)
    assert found.verdict(cell, "relearning").outcome is Outcome.PASS
    assert list(found.verdict(cell, "relearning").traces) == ["attack_success_relearned", f"{OWN}_relearned"]
    assert found.verdict(cell, "accuracy").traces == {}
