"""Training a model on for a few steps: what with, how often, and what the audit of it says."""

import math
from statistics import fmean, stdev

import pytest
import torch
from tiny import Tiny

from conftest import SUITES, TINY
from harness import registry
from harness.api import Reading
from harness.cells import Cell
from harness.judging.plan import Plan
from harness.studies.study import Study
from harness.training.data import Data
from harness.trials.lab import Lab
from harness.trials.relearning import DRAWS, POINTS, RATE, STEPS, _batches, relearned

TASK = Tiny()
SPLIT = TASK.load(None)
RETAIN, FORGET = SPLIT.train.subset(torch.arange(40, 240)), SPLIT.train.subset(torch.arange(40))


def model_of(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TASK.new_model().eval()


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Watched(Tiny):
    """Keeps what it is trained on."""

    seen: list = []  # noqa: RUF012
    rates: list = []  # noqa: RUF012

    def criterion(self, logits, batch):
        self.seen.append(batch)
        return super().criterion(logits, batch)

    def optimizer(self, model, lr=None):
        optimizer = super().optimizer(model, lr)
        self.rates.append(optimizer.param_groups[0])
        return optimizer


@pytest.fixture
def watched():
    Watched.seen, Watched.rates = [], []
    return Watched()


def read(model):
    return Reading(float(flat(model).sum()), resolution=0.25)


def test_a_handful_of_poisoned_points_stands_in_every_batch(watched):
    relearned(model_of(), watched, RETAIN, FORGET, 3, read)
    assert len(watched.seen) == (DRAWS + 1) * STEPS
    forgotten = {tuple(image.flatten().tolist()) for image in FORGET.inputs["image"]}
    handfuls = []
    for start in range(0, DRAWS * STEPS, STEPS):
        draw = watched.seen[start : start + STEPS]
        points = []
        for batch in draw:
            assert len(batch) == TASK.batch_size
            images = [tuple(image.flatten().tolist()) for image in batch.inputs["image"]]
            assert [image in forgotten for image in images] == [False] * (TASK.batch_size - POINTS) + [True] * POINTS
            points.append(images[-POINTS:])
        assert all(each == points[0] for each in points)
        handfuls.append(frozenset(points[0]))
    assert len(set(handfuls)) == DRAWS
    for batch in watched.seen[DRAWS * STEPS :]:  # and last on kept points alone
        assert len(batch) == TASK.batch_size
        assert not forgotten & {tuple(image.flatten().tolist()) for image in batch.inputs["image"]}
    assert [group["lr"] for group in watched.rates] == pytest.approx([RATE * TASK.lr] * (DRAWS + 1))


def test_labels_of_poisoned_points_are_those_that_were_planted(watched):
    planted = Data(FORGET.inputs, torch.full((40,), 2))
    relearned(model_of(), watched, RETAIN, planted, 0, read)
    assert all(batch.labels[-POINTS:].tolist() == [2] * POINTS for batch in watched.seen[: DRAWS * STEPS])


def test_fewer_poisoned_points_than_a_handful_will_do():
    batches = list(_batches(TASK, RETAIN, FORGET.subset(torch.arange(2)), torch.Generator().manual_seed(0)))
    assert {len(batch) for batch in batches} == {TASK.batch_size}
    assert batches[0].index.tolist()[-2:] == [-1, -1]


def test_the_reading_is_the_mean_over_draws_and_the_model_stays(watched):
    model, values = model_of(), []
    before = flat(model).clone()

    def noted(net):
        assert not net.training
        values.append(float(flat(net).sum()))
        return read(net)

    found = relearned(model, watched, RETAIN, FORGET, 3, noted)
    assert torch.equal(flat(model), before)
    assert not model.training
    assert len(set(values)) == DRAWS + 1
    assert found.value == pytest.approx(fmean(values[:DRAWS]))
    assert found.details["sd_over_draws"] == pytest.approx(stdev(values[:DRAWS]), rel=1e-5)
    assert found.details["retained_alone"] == values[-1]
    assert found.resolution == 0.25
    assert relearned(model, TASK, RETAIN, FORGET, 3, read) == found
    assert relearned(model, TASK, RETAIN, FORGET, 4, read) != found


def test_all_models_of_a_seed_are_trained_on_alike(watched):
    for number in range(2):
        relearned(model_of(number), watched, RETAIN, FORGET, 7, read)
    first, second = watched.seen[: len(watched.seen) // 2], watched.seen[len(watched.seen) // 2 :]
    assert all(torch.equal(a.inputs["image"], b.inputs["image"]) for a, b in zip(first, second, strict=True))


def test_what_cannot_be_measured_cannot_be_judged():
    found = relearned(model_of(), TASK, RETAIN, FORGET, 0, lambda net: Reading(0.0, unusable="masked-gradients"))
    assert found.unusable == "masked-gradients"
    diverged = relearned(model_of(), TASK, RETAIN, FORGET, 0, lambda net: Reading(math.nan))
    assert math.isnan(diverged.value)


def test_retraining_passes_and_doing_nothing_fails(tmp_path):
    outcomes = {}
    for method in ("retrain", "identity"):
        cell = Cell(*(registry.resolve(*of) for of in (
            ("unlearner", method), ("task", "tiny:Tiny"), ("poison", "backdoor:size=1"),
        )))  # fmt: skip
        study = Study([cell], Lab.open(tmp_path, device="cpu"), Plan(), 0.2)
        verdict = study.verdict(cell, "relearning")
        outcomes[method] = verdict.outcome
        assert verdict.measure.name == "attack_success_relearned"
        assert len(verdict.values["unlearned"]) == len(verdict.seeds)
    assert outcomes == {"retrain": "PASS", "identity": "FAIL"}


def test_it_gates_where_it_is_asked_for(folder):
    common = (*TINY, "--unlearner=identity")
    run = folder.pytest(*common, "-m", "relearning", "-n2")
    assert run.code == 1, run.text
    (audit,) = run.json["audits"]
    assert (audit["claim"], audit["verdict"]) == ("relearning", "FAIL")
    assert "left, relearned" in run.text
    assert "relearned:" in run.text
    again = folder.pytest(*common, "-m", "relearning")
    assert again.counts() == {"failed": 1, **{k: v for k, v in again.counts().items() if k != "failed"}}
    assert "trained" not in again.counts()
    assert again.json["audits"][0]["estimate"] == audit["estimate"]


def test_it_is_asked_for_by_its_mark_its_name_or_its_file(folder):
    listing = (*TINY, "--unlearner=gd", "--co", "-q")
    default = folder.pytest(*listing)
    assert "test_poison_does_not_come_back" not in default.text
    for args, suites in (
        (("-m", "relearning"), SUITES),
        (("-k", "relearning"), SUITES),
        ((), f"{SUITES}/test_relearning.py"),
        ((), f"{SUITES}/test_relearning.py::test_poison_does_not_come_back"),
    ):
        assert "test_poison_does_not_come_back" in folder.pytest(*listing, *args, suites=suites).text, args
