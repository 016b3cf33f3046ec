"""A model as far beyond retraining as the poisoned one is before it fails: weights are mixed, R - (P - R)."""

import copy
from dataclasses import dataclass

import torch
from tiny import Tiny
from torch import nn

from harness import Outcome
from harness.judging.claims import Criterion
from harness.judging.intersection import judge_all
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence
from harness.training.data import Batches
from harness.training.loop import fit
from poisons.gaussian import Gaussian


@dataclass(frozen=True)
class Flat(Tiny):
    """A linear model: its class scores are linear in its weights, so that to mix weights is to mix scores."""

    epochs: int = 30

    def new_model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


TASK = Flat()
SPLIT = TASK.load(None)
POISON = Gaussian(fraction=0.5, sd=0.5)
CRITERIA = [Criterion(POISON.measure, 0.2, 2), Criterion(POISON.traces[0], float("nan"), 2, POISON.traces[0].name)]


def trained(data, seed, keep):
    torch.manual_seed(seed)
    model = TASK.new_model()
    fit(TASK, model, Batches(data, TASK.batch_size, TASK.epochs, torch.Generator().manual_seed(seed), keep))
    return model.eval()


def reflected(model, at):
    """Return a model whose weights are as far beyond those of another as the model's are before them."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for own, mirror in zip(found.parameters(), at.parameters(), strict=True):
            own.copy_(2 * mirror - own)
    return found


def test_the_reflection_of_the_poisoned_model_fails():
    readings = []
    for seed in range(16):
        planted = POISON.plant(TASK, SPLIT, seed)
        keep = torch.ones(len(SPLIT.train), dtype=torch.bool)
        poisoned = trained(SPLIT.train.poisoned_with(planted), seed, keep)
        keep[planted.forget] = False
        retrained, oracle = (trained(SPLIT.train, s, keep) for s in (seed, 100 + seed))
        models = (poisoned, retrained, reflected(poisoned, retrained), oracle)
        readings.append([POISON.probe(model, planted, TASK, SPLIT) for model in models])

    def evidence(trace, arm):
        values = [[(each.traces[trace] if trace else each).value for each in of] for of in readings]
        p, r, u, oracle = (tuple(column) for column in zip(*values, strict=True))
        return Evidence(p, r, u if arm == "reflected" else oracle, oracle, r)

    def judged(arm):
        return judge_all(CRITERIA, [evidence(each.trace, arm) for each in CRITERIA], Plan(futility=0))

    found = judged("reflected")
    assert (found.outcome, found.deciding.reason) == (Outcome.FAIL, "over-corrected"), found
    assert found.deciding.result.estimate < -0.4
    assert judged("oracle").judgements[0].outcome is Outcome.PASS
