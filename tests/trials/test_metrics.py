"""The usual metrics: against scikit-learn, by hand, and as tests that inform and fail nothing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from tiny import Tiny

from conftest import TINY
from harness import Reading, registry
from harness.cells import Cell, Trial
from harness.judging.claims import CLAIMS, Limits
from harness.judging.judge import judge
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence
from harness.studies.study import Study
from harness.training.data import Data
from harness.trials.lab import Lab
from harness.trials.metrics import Answers, answers, area, asked, attack, logit_margin, readings, true_positives
from harness.trials.questions import forget_quality

TASK = Tiny()
SPLIT = TASK.load(None)

#: The metrics of every task; the others are those of causal language models.
USUAL = ("membership", "likelihood", "forget-accuracy", "agreement", "retain-accuracy")


def draw(seed, n=200, m=300, ties=False):
    random = np.random.default_rng(seed)
    members, others = random.normal(0.5, 1, n), random.normal(0, 1, m)
    if ties:
        members, others = members.round(1), others.round(1)
    return torch.tensor(members), torch.tensor(others)


def labelled(members, others):
    return [1] * len(members) + [0] * len(others), torch.cat([members, others]).numpy()


# ---- attacks


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_that_of_scikit_learn(seed, ties):
    members, others = draw(seed, ties=ties)
    assert area(members, others) == pytest.approx(roc_auc_score(*labelled(members, others)), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_rate_of_true_positives_is_that_of_scikit_learn(seed, ties):
    members, others = draw(seed, ties=ties)
    false, true, _ = roc_curve(*labelled(members, others), drop_intermediate=False)
    assert true_positives(members, others) == pytest.approx(true[false <= 0.01].max())
    assert true_positives(members, others, 0.2) == pytest.approx(true[false <= 0.2].max())


def test_attacks_on_what_is_known():
    low, high = torch.arange(5.0), torch.arange(10.0, 20.0)
    assert area(high, low) == 1
    assert area(low, high) == 0
    assert area(low, low) == 0.5
    assert true_positives(high, low) == 1
    assert true_positives(low, low) == 0
    members, others = draw(0)
    mixed = torch.cat([members, others])[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    assert area(members, others) > 0.6
    assert abs(area(mixed[:200], mixed[200:]) - 0.5) < 0.06
    assert math.isnan(attack(torch.tensor([1.0, math.nan]), low).value)


def test_the_logit_margin_is_that_of_the_probability():
    p = torch.tensor([0.1, 0.5, 0.9, 1 - 1e-9], dtype=torch.float64)
    assert torch.allclose(logit_margin(-p.log()), (p / (1 - p)).log(), rtol=1e-6)
    extremes = logit_margin(torch.tensor([0.0, 40.0, 900.0], dtype=torch.float64))
    assert 29 < float(extremes[0]) < 31
    assert extremes[1:].tolist() == pytest.approx([-40, -900])


# ---- what a model answers


def model_of(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TASK.new_model().eval()


def test_answers_are_losses_and_classes():
    model, forget = model_of(), SPLIT.train.subset(torch.arange(7))
    got = answers(model, TASK, forget, SPLIT.test, SPLIT.train.subset(torch.arange(7, 240)))
    scores = model(SPLIT.train.inputs["image"]).double().log_softmax(dim=1).detach()
    assert torch.allclose(got.forget, -scores[range(7), SPLIT.train.labels[:7]], atol=1e-6)
    right = scores.argmax(dim=1) == SPLIT.train.labels
    assert got.forget_accuracy == pytest.approx(right[:7].double().mean().item())
    assert got.retain_accuracy == pytest.approx(right[7:].double().mean().item())
    assert torch.equal(got.classes, model(SPLIT.test.inputs["image"]).argmax(dim=1))
    assert len(got.test) == 180
    gone = got.diverged()
    assert gone.forget.isnan().all()
    assert math.isnan(gone.retain_accuracy)


def test_a_task_may_have_losses_of_its_own():
    class Doubled(Tiny):
        def losses(self, logits, batch):
            return torch.full((len(batch),), 2.0)

        def predict(self, logits, batch):
            return batch.labels

    losses, classes = asked(model_of(), Doubled(), SPLIT.test)
    assert set(losses.tolist()) == {2.0}
    assert torch.equal(classes, SPLIT.test.labels)


# ---- what the heuristics read, by hand


def given(seed, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    forget = torch.rand(6, generator=random, dtype=torch.float64) + shift
    test = torch.rand(9, generator=random, dtype=torch.float64)
    return Answers(forget, test, torch.randint(3, (9,), generator=random), 0.5, 0.75)


OWN = [{arm: given(10 * s + i) for i, arm in enumerate("PRU")} for s in range(3)]
RETRAINED = [[given(100 + 10 * s + t).forget for t in range(3)] for s in range(3)]


def test_membership_is_by_small_losses():
    for s, of in enumerate(readings(OWN, RETRAINED)):
        for arm in "PRU":
            a = OWN[s][arm]
            pairs = (a.forget[:, None] < a.test).double().mean().item()
            assert of["membership"][arm].value == pytest.approx(pairs)


def test_likelihood_is_beside_the_other_seeds_retrained_models():
    def phi(loss):
        p = math.exp(-loss)
        return math.log(p / (1 - p))

    for s, of in enumerate(readings(OWN, RETRAINED)):
        others = [t for t in range(3) if t != s]
        a = OWN[s]["U"]
        members = [phi(a.forget[i]) - sum(phi(RETRAINED[s][t][i]) for t in others) / 2 for i in range(6)]
        test = [phi(a.test[i]) - sum(phi(OWN[t]["R"].test[i]) for t in others) / 2 for i in range(9)]
        expected = sum(m > o for m in members for o in test) / 54
        assert of["likelihood"]["U"].value == pytest.approx(expected)


def test_agreement_is_with_the_next_seeds_retrained_model():
    for s, of in enumerate(readings(OWN, RETRAINED)):
        reference = OWN[(s + 1) % 3]["R"].classes
        for arm in "PRU":
            reading = of["agreement"][arm]
            assert reading.value == (OWN[s][arm].classes == reference).double().mean().item()
            assert reading.resolution == 0.5 / 9
        assert of["forget-accuracy"]["U"].value == 0.5
        assert of["retain-accuracy"]["U"].value == 0.75
        assert set(of) == set(USUAL)


def test_what_diverged_reads_as_not_a_number():
    own = [dict(of) for of in OWN]
    own[1]["U"] = own[1]["U"].diverged()
    found = readings(own, RETRAINED)
    assert all(math.isnan(found[1][name]["U"].value) for name in USUAL)
    assert not any(math.isnan(found[0][name]["U"].value) for name in USUAL)
    with pytest.raises(ValueError, match="at least 3 seeds, not 2"):
        readings(OWN[:2], RETRAINED)


def test_forget_quality_is_beside_the_next_seeds_retrained_model():
    told = {"memorisation": Reading(0.5)}
    own = [{arm: replace(a, told=told, distinct=torch.arange(len(a.forget))) for arm, a in of.items()} for of in OWN]
    for s, of in enumerate(readings(own, RETRAINED)):
        expected = forget_quality(OWN[s]["U"].forget, RETRAINED[s][(s + 1) % 3])
        assert of["forget-quality"]["U"] == expected
        assert of["memorisation"]["U"].value == 0.5
    ratios = [torch.rand(4, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in range(6)]
    asked_of = [{arm: replace(a, ratios=ratios[s]) for arm, a in of.items()} for s, of in enumerate(own)]
    for s, of in enumerate(readings(asked_of, RETRAINED, ratios[3:])):
        assert of["forget-quality"]["P"] == forget_quality(ratios[s], ratios[3 + s])


# ---- retraining against retraining


def drawn_study(seed, n=5, points=40, tests=80):
    """A study of models drawn at random, in which R and R' are exchangeable: the oracle stands in the place of U."""
    g = torch.Generator().manual_seed(seed)

    def losses(hard):
        return (hard + 0.4 * torch.randn(len(hard), generator=g, dtype=torch.float64)).exp()

    labels = torch.arange(tests) % 3
    hard_test = torch.randn(tests, generator=g, dtype=torch.float64) - 3
    own, retrained = [], [[] for _ in range(n)]
    for s in range(n):
        hard = torch.randn(points, generator=g, dtype=torch.float64)
        arms = {}
        for arm in "PRU":
            wrong = torch.rand(tests, generator=g) < 0.05
            of_forget = losses(hard - 4 if arm == "P" else hard)
            right = float((of_forget < 0.7).double().mean())
            arms[arm] = Answers(of_forget, losses(hard_test), torch.where(wrong, (labels + 1) % 3, labels), right, 1.0)
        own.append(arms)
        # The other seeds' retrained models know most of the points, by their clean versions.
        retrained[s] = [arms["R"].forget if t == s else losses(hard - 1) for t in range(n)]
    return own, retrained


def test_no_heuristic_calls_the_oracle_different_more_often_than_alpha():
    """As ``ci/benchmarks/calibration.py --heuristics`` on trained models; here a hundred studies take seconds."""
    cell = Cell(*(registry.resolve(*of) for of in (
        ("unlearner", "retrain"), ("task", "tiny:Tiny"), ("poison", "backdoor:size=1"),
    )))  # fmt: skip
    studies, differs, passes = 100, dict.fromkeys(USUAL, 0), dict.fromkeys(USUAL, 0)
    for seed in range(studies):
        found = readings(*drawn_study(seed))
        for name in USUAL:
            p, r, u = (tuple(of[name][arm].value for of in found) for arm in "PRU")
            evidence = Evidence(p, r, u, u, (0.0,) * len(u), (), found[0][name]["U"].resolution)
            said = judge(CLAIMS[name].criteria(cell, Limits(0.2, 0.1))[0], evidence, Plan())
            differs[name] += said.outcome == "FAIL" or said.reason == "oracle-fails"
            passes[name] += said.outcome == "PASS"
    assert all(count <= 0.05 * studies for count in differs.values()), differs
    # And not for want of evidence.
    assert passes["membership"] > 0.9 * studies
    assert passes["forget-accuracy"] > 0.5 * studies
    assert passes["likelihood"] > 0.5 * studies


# ---- in a study


def study(tmp_path, method, n=5):
    cell = Cell(*(registry.resolve(*of) for of in (
        ("unlearner", method), ("task", "tiny:Tiny"), ("poison", "backdoor:size=1"),
    )))  # fmt: skip
    return Study([cell], Lab.open(tmp_path, device="cpu"), Plan(seeds=n), 0.2), cell


def test_doing_nothing_is_seen_and_retraining_is_not(tmp_path):
    found, cell = study(tmp_path, "identity", 16)
    verdicts = {name: found.verdict(cell, name) for name in USUAL}
    assert verdicts["forget-accuracy"].outcome == "FAIL"
    assert verdicts["retain-accuracy"].outcome == "PASS"
    assert verdicts["membership"].values["poisoned"] == verdicts["membership"].values["unlearned"]
    oracle, cell = study(tmp_path, "retrain", 16)
    assert "FAIL" not in {oracle.verdict(cell, name).outcome for name in USUAL}


def test_they_are_computed_once(tmp_path, monkeypatch):
    found, cell = study(tmp_path, "gd")
    first = [found.verdict(cell, name) for name in USUAL]
    monkeypatch.setattr("harness.trials.metrics.asked", lambda *_: pytest.fail("asked again"))
    again, cell = study(tmp_path, "gd")
    assert [again.verdict(cell, name) for name in USUAL] == first


def test_the_numbers_are_those_of_the_models(tmp_path):
    found, cell = study(tmp_path, "gd", 3)
    verdict = found.verdict(cell, "forget-accuracy")
    trial = Trial(cell, 1)
    planted = found.lab.planted(trial)
    model = found.lab.model(cell.task, found.lab.models(trial)["U"])
    losses, classes = asked(model, TASK, Data(planted.inputs, planted.labels))
    assert verdict.values["unlearned"][1] == (classes == planted.labels).double().mean().item()
    membership = found.verdict(cell, "membership").values["unlearned"][1]
    test = asked(model, TASK, SPLIT.test)[0]
    assert membership == pytest.approx(roc_auc_score(*labelled(-losses, -test)))


def test_the_threads_are_the_tasks_whoever_asks(tmp_path, monkeypatch):
    from harness.trials import metrics, relearning

    found, cell = study(tmp_path, "gd", 3)
    used = set()
    for module, name in ((metrics, "asked"), (relearning, "_after")):
        original = getattr(module, name)

        def watched(*args, original=original):
            used.add((original.__name__, torch.get_num_threads()))
            return original(*args)

        monkeypatch.setattr(module, name, watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found.verdict(cell, "membership")
        found.verdict(cell, "relearning")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == {("asked", TASK.threads), ("_after", TASK.threads)}


# ---- from the command line


def test_they_run_where_they_are_asked_for_and_fail_nothing(folder):
    common = (*TINY, "--unlearner=identity", "--audit-seeds=3")
    plain = folder.pytest(*common)
    assert plain.json["heuristics"] == []
    assert "6 deselected" in plain.text  # relearning is the sixth
    run = folder.pytest(*common, "-m", "heuristic", "-n2")
    assert run.code == 0, run.text
    assert run.counts()["informed"] == 5
    assert run.json["audits"] == []
    found = {each["claim"]: each for each in run.json["heuristics"]}
    assert set(found) == set(USUAL)
    assert found["forget-accuracy"]["verdict"] != "PASS"
    assert found["forget-accuracy"]["poison_verdict"] == "FAIL"
    assert "usual metrics" in run.text
    both = folder.pytest(*common, "-m", "heuristic or audit")
    assert both.code == 1
    assert len(both.json["heuristics"]) == 5
    assert len(both.json["audits"]) == 3
    assert {each["claim"]: each["estimate"] for each in both.json["heuristics"]} == {
        claim: each["estimate"] for claim, each in found.items()
    }


def test_what_a_method_raises_is_an_error_of_theirs_too(folder):
    folder.write("raises.py", "def forget(model, request):\n    raise RuntimeError('no idea')\n")
    run = folder.pytest(*TINY, "--unlearner=raises:forget", "--audit-seeds=3", "-m", "heuristic")
    assert run.code == 1
    assert run.counts()["errors"] == 5
    assert "no idea" in run.text
    assert {each["verdict"] for each in run.json["heuristics"]} == {"ERROR"}
