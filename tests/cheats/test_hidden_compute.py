"""Methods that hide what they compute: each is caught by one of the yardsticks, whatever the others say."""

from dataclasses import dataclass

import costs
import pytest
import torch
from tiny import Tiny
from torch import nn

from harness import audit
from harness.report.words import finding


@dataclass
class Answer:
    scores: torch.Tensor


class Answering(nn.Module):
    """Returns a plain dataclass."""

    def __init__(self):
        super().__init__()
        self.body = Tiny().new_model()

    def forward(self, x):
        return Answer(self.body(x))


class Second(nn.Module):
    """Has the examples in the second dimension of its inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 3)

    def forward(self, rows):
        return self.head(self.body(rows))


class Answers(Tiny):
    def new_model(self):
        return Answering()

    def logits(self, model, batch):
        return model(batch.inputs["image"]).scores


class NotBatchFirst(Tiny):
    def new_model(self):
        return Second()

    def logits(self, model, batch):
        return model(batch.inputs["image"].flatten(1)[None])[0]


def cost_of(method, task, store):
    verdicts = audit(method, task=task, poison="backdoor:size=1", seeds=3, store=store)
    return next(verdict for verdict in verdicts if verdict.measure.name == "cost")


@pytest.mark.parametrize(
    ("method", "task", "share", "by"),
    [
        (costs.three_epochs, "tiny:Tiny", 0.3, "examples"),
        (costs.three_epochs, f"{__name__}:Answers", 0.3, "examples"),
        (costs.seven_epochs, f"{__name__}:NotBatchFirst", 0.7, "operations"),
        (costs.behind_an_object, "tiny:Tiny", 1, "examples"),
        (costs.behind_a_number, "tiny:Tiny", 1, "examples"),
        (costs.in_one_forward_pass, "tiny:Tiny", 1, "operations"),
        (costs.written_out, "tiny:Tiny", 1, "operations"),
        (costs.compiled, "tiny:Tiny", 1, "examples"),
        (costs.in_a_thread, "tiny:Tiny", 1, "examples"),
        (costs.on_odd_seeds, "tiny:Tiny", 1, "operations"),
    ],
)
def test_what_is_hidden_from_one_count_shows_in_another(method, task, share, by, tmp_path):
    cost = cost_of(method, task, tmp_path)
    assert (cost.outcome, cost.reason) == ("FAIL", "over-budget")
    assert cost.estimate == pytest.approx(share, rel=0.03)
    said = finding(cost)
    assert f"{100 * share:.0f} % of the {by} of retraining" in said
    assert ("15 % are allowed" in said) == (by == "operations")


@pytest.mark.parametrize("method", [costs.in_numpy, costs.in_a_child])
def test_what_no_count_sees_takes_cpu_time(method, tmp_path):
    cost = cost_of(method, "wide:Wide", tmp_path)
    assert cost.estimate == 0
    assert (cost.outcome, cost.reason) == ("FAIL", "over-budget")
    assert cost.details["cpu_seconds_of_retraining"] > 0.5
    assert "of the CPU time of retraining. The budget is 10 %; by CPU time, 40 % are allowed." in finding(cost)


def test_a_budget_is_not_kept_where_retraining_itself_is_not_measured(tmp_path):
    def honest(model, request):
        return costs.steps(model, request, lambda batch: request.loss(model, batch), 1)

    cost = cost_of(honest, f"{__name__}:NotBatchFirst", tmp_path)
    assert (cost.outcome, cost.reason) == ("INCONCLUSIVE", "unmetered")
    assert 0 < cost.details["retraining_measured"] < 0.6
    assert f"the meter finds {100 * cost.details['retraining_measured']:.0f} % of retraining's own" in finding(cost)
