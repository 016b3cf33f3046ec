"""Models that are trained side by side: which ones, once each, and none the other way for it."""

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from labs import BACKDOOR, GAUSSIAN, GD, IDENTITY, RETRAIN, REWIND, TINY, lab_in, method, trial

from harness.cells import Cell
from harness.judging.plan import Plan
from harness.store.artefacts import Lock, patiently
from harness.studies.study import Study
from harness.training.data import Data
from harness.trials import models, pace, unlearning
from harness.trials.pace import pace_of

HERE = Path(__file__).parent
CELLS = [Cell(GD, TINY, poison) for poison in (BACKDOOR, GAUSSIAN)]
TRIALS = [trial(GD, poison, seed) for seed in range(3) for poison in (BACKDOOR, GAUSSIAN)]


def blobs(lab):
    """Return the weights of P and R by trial."""
    return {(of.id, arm): lab.models(of)[arm].blob for of in TRIALS for arm in "PR"}


@pytest.fixture
def groups(monkeypatch):
    """Collect what is trained at a time."""
    seen = []
    fit = models.Models._fit

    def watched(self, group, *args, **kwargs):
        seen.append([(of.id, arm) for of, arm in group])
        return fit(self, group, *args, **kwargs)

    monkeypatch.setattr(models.Models, "_fit", watched)
    return seen


@pytest.mark.parametrize("size", [2, 5, 40])
def test_weights_do_not_depend_on_the_group(size, tmp_path, groups):
    alone = lab_in(tmp_path / "alone")
    alone.will_need(CELLS, lambda: TRIALS)
    wanted = blobs(alone)
    assert {len(group) for group in groups} == {1}
    groups.clear()
    together = lab_in(tmp_path / "together", group=size)
    together.will_need(CELLS, lambda: TRIALS)
    assert blobs(together) == wanted
    trained = Counter(each for group in groups for each in group)
    assert set(trained.values()) == {1}
    assert len(trained) == len(set(wanted.values())) == 9  # the poisons of a seed share R
    assert max(map(len, groups)) == min(size, 9)


def test_retrained_models_too(tmp_path, monkeypatch):
    """The oracle's second retraining is one training, and is grouped; it is the one that it is alone."""
    trials = [trial(RETRAIN, poison, seed) for seed in range(3) for poison in (BACKDOOR, GAUSSIAN)]
    made = []
    make_all = unlearning.Unlearning.make_all
    monkeypatch.setattr(unlearning.Unlearning, "make_all", lambda self, of: made.append(len(of)) or make_all(self, of))
    found = []
    for size in (1, 2):
        lab = lab_in(tmp_path / str(size), group=size)
        lab.will_need([each.cell for each in trials[:2]], lambda: trials)
        found.append([lab.models(each)["U"] for each in trials])
    assert made == [2, 1]  # the poisons of a seed share it
    assert [each.blob for each in found[0]] == [each.blob for each in found[1]]
    for one, several in zip(*found, strict=True):
        assert one.info["examples"] == pytest.approx(several.info["examples"])
        assert one.info["steps"] == several.info["steps"]
    assert lab.run(trials[0]).cost["unlearn_fraction"] == pytest.approx(1)


def test_a_study_says_what_comes_next(tmp_path, groups):
    """Only what the next look certainly needs: an audit may be decided before the seeds after that."""
    lab = lab_in(tmp_path, group=40)
    study = Study([Cell(IDENTITY, TINY, BACKDOOR)], lab, Plan(8), 0.2)
    study.verdict(study.cells[0], "poison")
    assert len(groups[0]) == 6
    assert {of.rpartition("-")[2] for of, _ in groups[0]} <= {of.id.rpartition("-")[2] for of in study.trials}


def test_costs_are_those_of_one(tmp_path):
    alone, together = lab_in(tmp_path / "alone"), lab_in(tmp_path / "together", group=4)
    for lab in (alone, together):
        lab.will_need(CELLS, lambda: TRIALS)
    for of in TRIALS[:2]:
        one, several = alone.models(of), together.models(of)
        for arm in "PR":
            assert {name: several[arm].info[name] for name in ("examples", "steps")} == {
                name: one[arm].info[name] for name in ("examples", "steps")
            }
            assert 0.2 < several[arm].info["cpu_seconds"] / one[arm].info["cpu_seconds"] < 5


def test_what_somebody_else_makes_is_left_out(tmp_path, groups):
    lab = lab_in(tmp_path, group=40)
    lab.will_need(CELLS, lambda: TRIALS)
    with lab.store.lock(lab._models.key(TRIALS[2], "P")) as lock:
        assert lock.take()
        lab.models(TRIALS[0])
    assert (TRIALS[2].id, "P") not in groups[0]
    assert len(groups[0]) == 8
    lab.models(TRIALS[2])
    assert groups[1] == [(TRIALS[2].id, "P")]


def test_a_poison_that_raises_for_another_seed_stops_nobody(tmp_path, groups, monkeypatch):
    lab = lab_in(tmp_path, group=40)
    lab.will_need(CELLS, lambda: TRIALS)
    plant = type(BACKDOOR.value).plant

    def fragile(self, task, split, seed, surrogate=None):
        if fragile.planted:
            raise RuntimeError("not this seed")
        fragile.planted += 1
        return plant(self, task, split, seed, surrogate)

    fragile.planted = 0
    monkeypatch.setattr(type(BACKDOOR.value), "plant", fragile)
    lab.models(TRIALS[0])
    assert groups[0][0] == (TRIALS[0].id, "P")
    assert not any("backdoor" in of for of, _ in groups[0][2:])
    with pytest.raises(RuntimeError, match="not this seed"):
        lab.models(TRIALS[2])


def test_checkpoints_are_kept_of_every_member(tmp_path, groups):
    lab = lab_in(tmp_path, group=40)
    wants = [trial(REWIND, BACKDOOR, seed) for seed in range(3)]
    lab.will_need([wants[0].cell], lambda: wants)
    for each in wants:
        lab.models(each)
    assert len(groups) == 1  # none was trained again to have them


def test_a_method_that_raises_loses_no_trained_model(tmp_path, groups):
    def fails(model, request):
        raise RuntimeError("no")

    failing = [trial(method(fails), BACKDOOR, seed) for seed in range(3)]
    lab = lab_in(tmp_path, group=40)
    lab.will_need([failing[0].cell], lambda: failing)
    with pytest.raises(RuntimeError, match="no"):
        lab.models(failing[0])
    assert len(groups) == 1
    assert {arm for each in failing for arm in lab.stored(each)[1]} == {"P", "R"}
    assert all(len(lab.stored(each)[1]) == 2 for each in failing)


PROCESS = """
import sys
from pathlib import Path
from test_groups import train
train(Path(sys.argv[1]), slow=sys.argv[2] == "slow")
"""


def start(forks, folder, how):
    with open(folder / f"{how}.printed", "wb") as output:
        words = ["-c", PROCESS, str(folder), how]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        return forks.start(words, HERE, environment, output.fileno())


def train(folder, slow=False):
    fit = models.Models._fit

    def noted(self, group, *args, **kwargs):
        with (folder / f"{os.getpid()}.trained").open("a") as file:
            file.writelines(f"{of.cell.poison.id if arm == 'P' else ''} {of.seed} {arm}\n" for of, arm in group)
        return fit(self, group, *args, **kwargs)

    models.Models._fit = noted
    lab = lab_in(folder, run=f"run-{os.getpid()}", group=4)
    if slow:

        def show(of, what, done, epochs):
            time.sleep(0.2)

        lab.bench.show = show
    lab.will_need(CELLS, lambda: TRIALS)
    for of in TRIALS:
        patiently(lambda of=of: lab.models(of))


def test_a_kill_loses_the_group_in_hand_and_no_other(tmp_path, groups, forks):
    process = start(forks, tmp_path, "slow")
    lab = lab_in(tmp_path, group=4)
    while not lab.stored(TRIALS[1])[1]:  # the first group is stored
        assert process.poll() is None, (tmp_path / "slow.printed").read_text()
        time.sleep(0.05)
    process.kill()
    process.wait()
    kept = {(of.id, arm) for of in TRIALS for arm in lab.stored(of)[1]}
    assert kept
    lab.will_need(CELLS, lambda: TRIALS)
    blobs(lab)
    trained = {each for group in groups for each in group}
    assert trained
    assert not trained & kept


def test_two_runs_at_once_make_each_model_once(tmp_path, forks):
    processes = [start(forks, tmp_path, how) for how in ("one", "other")]
    for process, how in zip(processes, ("one", "other"), strict=True):
        assert process.wait(120) == 0, (tmp_path / f"{how}.printed").read_text()
    trained = [line for file in tmp_path.glob("*.trained") for line in file.read_text().splitlines()]
    assert len(trained) == len(set(trained)) == 9


def test_pace_on_a_cpu_trains_one_at_a_time(tmp_path):
    split = TINY.value.load(None)
    found = pace_of(TINY.value, split.train)
    assert found.group == 1
    assert 0 < found.unrecorded == found.alone == found.seconds
    assert pace_of(TINY.value, split.train, group=3).group == 3


def test_a_group_grows_while_it_trains_faster(monkeypatch):
    """Seconds of a step by size: what a GPU might take that four models fill."""
    seconds = {1: 1.0, 2: 1.2, 4: 1.6, 8: 3.1, 16: 6.0}
    tried = []

    def step_seconds(task, data, k, record):
        tried.append((k, record))
        return seconds[k] if record else 4.0

    monkeypatch.setattr(pace, "recorder", lambda device: "a recorder")
    monkeypatch.setattr(pace, "step_seconds", step_seconds)
    for name, value in {"memory_allocated": 0, "max_memory_allocated": 100, "mem_get_info": (10**6, 10**7)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    data = TINY.value.load(None).train
    each = 100 + data.inputs["image"].nbytes  # the data are there once for each model
    assert pace_of(TINY.value, data) == pace.Pace(4, 0.4, 1.0, 4.0, (4 * each, 10**7))
    assert [k for k, _ in tried] == [1, 1, 2, 4, 8]
    assert pace_of(TINY.value, data, group=2) == pace.Pace(2, 0.6, 1.0, 4.0, (2 * each, 10**7))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 * each, 10**7))
    assert pace_of(TINY.value, data).group == 2
    assert pace_of(TINY.value, data, share=0.5).group == 1


@pytest.mark.parametrize(("texts", "recorded", "steps"), [(False, True, 4), (True, False, 4), (True, True, 34)])
def test_of_texts_each_length_is_warmed_up(texts, recorded, steps, monkeypatch):
    """On a GPU a step of each length is recorded: that takes time once, and says nothing of a training.

    Eight times as many examples are trained on, with a shorter batch at the end of each pass.
    """
    made, launch = [], pace.run
    monkeypatch.setattr(pace, "run", lambda trainings, record: made.extend(trainings) or launch(trainings, None))
    data = TINY.value.load(None).train
    if texts:
        data = Data({**data.inputs, "length": torch.arange(len(data)) % 9 + 1}, data.labels)
    assert pace.step_seconds(TINY.value, data, 1, (lambda steps: None) if recorded else None) > 0
    assert [training.steps for training in made] == [steps]


def test_an_isolated_method_finds_no_retrained_model(tmp_path, groups, monkeypatch):
    """What is trained with P while a method runs in isolation is P of other seeds, and nothing that it could copy."""
    lab = lab_in(tmp_path, group=40)
    lab.will_need([replace(CELLS[0], unlearner=replace(GD, isolated=True))], lambda: TRIALS)
    monkeypatch.setattr(models.isolation, "warm", lambda: None)
    lab._models.of(TRIALS[0], "P")
    assert {arm for _, arm in groups[0]} == {"P"}
    assert len(groups[0]) == 6
    again = [trial(RETRAIN, BACKDOOR, seed) for seed in range(3)]
    lab.will_need([], lambda: again)
    lab._models.of(again[0], "U")
    assert [lab._models.stored(each, "U") is not None for each in again] == [True, False, False]


def test_a_full_disk_stops_no_group(tmp_path, groups, monkeypatch):
    lab = lab_in(tmp_path, group=40)
    lab.will_need(CELLS, lambda: TRIALS)
    take = Lock.take

    def full(self):
        if groups or full.asked:
            raise OSError("no space left")
        full.asked = True
        return take(self)

    full.asked = False
    lab._planting.of(TRIALS[0])
    monkeypatch.setattr(Lock, "take", full)
    lab._models.of(TRIALS[0], "P")
    assert groups == [[(TRIALS[0].id, "P")]]


def test_a_member_that_raises_stores_nothing_half_trained(tmp_path, groups, monkeypatch):
    lab = lab_in(tmp_path, group=40)
    lab.will_need(CELLS, lambda: TRIALS)
    criterion, calls = type(TINY.value).criterion, []

    def fails(self, logits, batch):
        calls.append(None)
        if len(calls) == 100:
            raise RuntimeError("no loss")
        return criterion(self, logits, batch)

    monkeypatch.setattr(type(TINY.value), "criterion", fails)
    with pytest.raises(RuntimeError, match="no loss"):
        lab.models(TRIALS[0])
    assert len(groups[0]) == 9
    assert not any(lab.stored(of)[1] for of in TRIALS)
    assert len(blobs(lab)) == 12


def test_another_method_that_can_begin_is_called_as_ever(tmp_path):
    """`begin` is our own way to group R'; a plugin with such an attribute is metered and checked like any other."""

    class Begins:
        def __call__(self, model, request):
            return model

        def begin(self, request):
            raise AssertionError("it is not asked to")

    lab = lab_in(tmp_path, group=4)
    of = trial(method(Begins()), BACKDOOR, 0)
    lab.will_need([of.cell], lambda: [of])
    assert lab.models(of)["U"].info["first_call"]
