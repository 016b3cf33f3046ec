"""Partial discovery: what the unlearner is told, what stays in its data, and which retraining it reaches."""

import math
from statistics import fmean

import pytest
import torch
from tiny import Tiny

import harness
from conftest import TINY
from harness import registry
from harness.api import Measure, Outcome
from harness.cells import Cell, Trial
from harness.judging.claims import Criterion
from harness.judging.judge import beside_remaining
from harness.judging.plan import Plan
from harness.judging.verdict import Evidence
from harness.statistics import fieller
from harness.studies.forecast import remaining_cost
from harness.studies.study import Study
from harness.training.loop import train
from harness.trials.lab import Lab
from harness.trials.planting import known_points

TASK = registry.resolve("task", "tiny:Tiny")
BACKDOOR = registry.resolve("poison", "backdoor:size=1")
TRAIN = Tiny().load(None).train
CLAIM = Criterion(Measure("left", "what is left", worse="higher", test="retention"), 0.2, 2)


def cell(method, discovery=0.5):
    found = (registry.resolve if isinstance(method, str) else registry.register)("unlearner", method)
    return Cell(found, TASK, BACKDOOR, discovery)


def lab_in(folder, budget=0.1):
    return Lab.open(folder, device="cpu", budget=budget)


# ---- what is drawn


def test_a_share_of_the_points_is_drawn_per_seed():
    assert known_points(12, 1, 0).tolist() == list(range(12))
    draws = [known_points(12, 0.5, seed) for seed in range(20)]
    assert {len(drawn) for drawn in draws} == {6}
    assert all((drawn.diff() > 0).all() for drawn in draws)
    assert len({tuple(drawn.tolist()) for drawn in draws}) > 15
    assert len(known_points(12, 0.9, 0)) == 11
    assert len(known_points(12, 1e-6, 0)) == 1


def test_a_larger_share_holds_a_smaller_one():
    draws = [set(known_points(140, share, 3).tolist()) for share in (0.1, 0.5, 0.9)]
    assert draws[0] < draws[1] < draws[2]


@pytest.mark.parametrize("share", [0, -0.5, 1.01, math.nan])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"discovery must lie in \(0, 1\]"):
        cell("gd", share)
    with pytest.raises(ValueError, match=r"discovery must lie in \(0, 1\]"):
        harness.audit("gd", task="tiny:Tiny", discovery=share)


def test_ids_are_those_of_old_where_everything_is_known():
    assert cell("gd", 1).id == "gd-tiny:Tiny-backdoor:size=1"
    assert cell("gd", 0.5).id == "gd-tiny:Tiny-backdoor:size=1-discovery=0.5"


# ---- what a method sees, and what is trained


def rows(images, labels):
    return {(tuple(image.flatten().tolist()), int(label)) for image, label in zip(images, labels, strict=True)}


def test_what_was_not_discovered_stays_in_the_retain_set_poisoned(tmp_path):
    seen = []

    def watch(model, request):
        seen.append(request)
        return model

    lab = lab_in(tmp_path)
    trial = Trial(cell(watch), 3)
    lab.run(trial)
    (request,) = seen
    planted = lab.planted(trial)
    known = known_points(len(planted.forget), 0.5, 3)
    hidden = sorted(set(range(len(planted.forget))) - set(known.tolist()))
    assert len(known) == len(hidden) == 12
    forget = rows(request.forget.inputs["image"], request.forget.labels)
    assert forget == rows(planted.inputs["image"][known], planted.labels[known])
    clean = torch.ones(240, dtype=torch.bool)
    clean[planted.forget] = False
    expected = rows(TRAIN.inputs["image"][clean], TRAIN.labels[clean])
    expected |= rows(planted.inputs["image"][hidden], planted.labels[hidden])
    assert len(request.retain) == 228
    assert rows(request.retain.inputs["image"], request.retain.labels) == expected


def test_the_second_reference_is_trained_on_all_but_what_was_discovered(tmp_path):
    lab = lab_in(tmp_path)
    trial = Trial(cell("gd"), 1)
    planted = lab.planted(trial)
    keep = torch.ones(240, dtype=torch.bool)
    keep[planted.forget[known_points(len(planted.forget), 0.5, 1)]] = False
    expected, _ = train(Tiny(), TRAIN.poisoned_with(planted), keep, 1)
    artefact = lab.models(trial)["D"]
    found = lab.store.tensors(artefact)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())


def test_what_a_warm_store_has_serves_and_stays(tmp_path):
    def built(method, share):
        return lab_in(tmp_path).run(Trial(cell(method, share), 0)).cost["built"]

    assert built("gd", 1) == ["P", "R", "U"]
    assert built("gd", 0.5) == ["U", "D"]
    assert built("ngd", 0.5) == ["U"]
    assert built("gd", 0.9) == ["U", "D"]
    assert built("gd", 1) == []
    # From scratch on the clean rest serves every poison; on a rest that holds poison it serves this one alone.
    gaussian = registry.resolve("poison", "gaussian")
    short = registry.resolve("unlearner", "short")
    assert built("short", 0.5) == ["U"]
    trial = Trial(Cell(short, TASK, gaussian, 0.5), 0)
    assert lab_in(tmp_path).run(trial).cost["built"] == ["P", "U", "D"]


def test_compute_is_a_fraction_of_retraining_on_what_remains(tmp_path):
    def two_passes(model, request):
        optimizer = request.optimizer(model)
        for batch in request.batches("retain", epochs=2):
            optimizer.zero_grad()
            request.loss(model, batch).backward()
            optimizer.step()
        return model

    cost = lab_in(tmp_path, budget=0.2).run(Trial(cell(two_passes), 0)).cost
    assert cost["train_examples"] == 228 * 10
    assert cost["unlearn_fraction"] == pytest.approx(0.2)


# ---- which retraining is reached


def evidence(d, u, n=5):
    """P about 1, R about 0, D and U about what is given."""
    noise = [0.01 * ((7 * i) % 5 - 2) for i in range(n)]
    arms = [tuple(level + sign * x for x in noise) for level, sign in ((1, 1), (0, -1), (u, 1), (d, -1))]
    return Evidence(arms[0], arms[1], arms[2], arms[1], arms[1], remaining=arms[3])


def test_the_contrast_is_that_of_the_docstring():
    given = evidence(0.6, 0.7)
    found = beside_remaining(CLAIM, given, 0.05)
    effect = [p - r for p, r in zip(given.poisoned, given.retrained, strict=True)]
    above = [u - d for u, d in zip(given.unlearned, given.remaining, strict=True)]
    kept = [d - r for d, r in zip(given.remaining, given.retrained, strict=True)]
    assert found["above_remaining"] == pytest.approx(fmean(above) / fmean(effect))
    assert found["remaining_keeps"] == pytest.approx(fmean(kept) / fmean(effect))
    low, high = fieller(kept, effect, 0.05)
    assert (found["remaining_keeps_low"], found["remaining_keeps_high"]) == pytest.approx((low, high))
    from scipy.stats import ttest_1samp

    contrast = [a - 0.2 * e for a, e in zip(above, effect, strict=True)]
    assert found["p_reaches_remaining"] == pytest.approx(ttest_1samp(contrast, 0, alternative="less").pvalue)


@pytest.mark.parametrize(
    ("d", "u", "reaches", "identity"),
    [(0.97, 0.98, 1, 1), (0.5, 0.55, 1, 0), (0.5, 0.9, 0, 0), (0.0, 0.0, 1, 0), (0.6, 0.1, 1, 0)],
)
def test_what_reaches_the_second_reference(d, u, reaches, identity):
    found = beside_remaining(CLAIM, evidence(d, u), 0.0125)
    assert found["reaches_remaining"] == reaches
    assert found["identity_reaches_remaining"] == identity


def test_on_the_margin_neither_is_said():
    assert math.isnan(beside_remaining(CLAIM, evidence(0.5, 0.7), 0.0125)["reaches_remaining"])


# ---- in a study


def study(tmp_path, method, share=0.5, seeds=5, budget=0.1):
    found = Study([cell(method, share)], lab_in(tmp_path, budget), Plan(seeds=seeds), 0.2)
    return found, found.cells[0]


def test_the_gates_know_every_point(tmp_path):
    found, own = study(tmp_path, "retrain")
    verdict = found.verdict(own, "poison")
    assert (verdict.outcome, verdict.discovery) == (Outcome.FAIL, 0.5)
    assert verdict.details["reaches_remaining"] == 1
    assert verdict.details["remaining_keeps"] > 0.5  # twelve stamped points teach the backdoor, too
    assert len(verdict.values["remaining"]) == len(verdict.seeds)
    references = found.references(own)
    assert {name: references[name]["poison"] for name in ("retrain", "identity")} == {
        "retrain": "PASS",
        "identity": "FAIL",
    }
    assert {trial.cell.discovery for trial in found.trials if trial.cell.unlearner.name == "short"} == {0.5}
    assert {trial.cell.discovery for trial in found.trials if trial.cell.unlearner.name == "wrecked"} == {1}


def drop_what_looks_like_it(model, request):
    """Learn from the points that are known what the others look like, leave these out, and retrain."""
    from harness.training.loop import fit

    stamp = request.forget.inputs["image"][:, 0, -1, -1].min()
    clean = (request.retain.inputs["image"][:, 0, -1, -1] < stamp).nonzero().squeeze(1)
    model = request.new_model()
    fit(request, model, request.retain.subset(clean).batches(request.batch_size, request.epochs, request.generator))
    return model


def test_a_method_that_finds_the_rest_reaches_clean_data(tmp_path):
    found, own = study(tmp_path, drop_what_looks_like_it, seeds=16)
    verdict = found.verdict(own, "poison")
    assert verdict.outcome is Outcome.PASS
    assert verdict.estimate < 0.1
    assert verdict.details["above_remaining"] < -0.3


def test_further_audits_are_about_every_poisoned_point(tmp_path):
    """The poisoned model is the same, whatever it is said to forget; so is what they say of it."""
    found = {}
    for share in (0.5, 1):
        of, own = study(tmp_path, "identity", share, seeds=3)
        claims = ("membership", "forget-accuracy", "agreement", "relearning")
        found[share] = [of.verdict(own, claim).values for claim in claims]
    assert found[0.5] == found[1]


def test_the_forecast_counts_the_second_reference(tmp_path):
    found, _ = study(tmp_path, "gd", seeds=3)
    (cost,) = remaining_cost(found)
    # P, R, D and R' for each seed; of the method, short, identity and wrecked one each.
    assert (cost["trainings"], cost["unlearnings"]) == (4 * 3, 4 * 3)
    for trial in found.trials:
        found.lab.run(trial)
    assert [(c["trainings"], c["unlearnings"]) for c in remaining_cost(found)] == [(0, 0)]
    (whole,) = remaining_cost(study(tmp_path, "gd", 1, seeds=3)[0])
    assert (whole["trainings"], whole["unlearnings"]) == (0, 2 * 3)  # the method and short, told of everything


# ---- from the command line


def test_retraining_on_what_remains_fails_and_is_told_apart(folder):
    run = folder.pytest(*TINY, "--unlearner=retrain", "--audit-discovery=0.5", "-k", "forgotten", "-n2")
    assert run.code == 1, run.text
    (audit,) = run.json["audits"]
    assert (audit["verdict"], audit["discovery"]) == ("FAIL", 0.5)
    assert audit["id"].endswith("-discovery=0.5]")
    assert audit["details"]["reaches_remaining"] == 1
    assert audit["references"]["retrain"]["poison"] == "PASS"
    assert run.json["run"]["settings"]["discovery"] == 0.5
    assert {trial["discovery"] for trial in run.json["trials"]} == {0.5, 1}
    assert "Only 50 % of the poisoned points were handed over." in run.text
    assert "it reaches retraining on the remaining data, not on clean data" in run.text
    assert "with 50 % handed over, retraining on the remaining data keeps" in run.text
    assert "discovery: 50 %" in run.text
    assert "--audit-discovery=0.5" in run.text.partition("reproduce:")[2]
    again = folder.pytest(*TINY, "--unlearner=retrain", "--audit-discovery=0.5", "-k", "forgotten")
    assert "trained" not in again.counts()
    assert again.json["audits"][0]["details"] == audit["details"]


def test_python_says_the_same(tmp_path):
    verdicts = harness.audit(
        "retrain", task="tiny:Tiny", poison="backdoor:size=1", discovery=0.5, seeds=3, store=tmp_path, device="cpu"
    )
    assert (verdicts[0].discovery, verdicts[0].outcome) == (0.5, Outcome.FAIL)
    assert verdicts[0].cell.endswith("-discovery=0.5")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--unlearner=gd", "--audit-discovery=0"), "takes a number in (0, 1], not '0'"),
        (("--unlearner=gd", "--audit-discovery=nan"), "takes a number in (0, 1], not 'nan'"),
        (("--unlearner=gd", "--audit-discovery=0.5", "--audit-tune=2"), "drop --audit-discovery"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(folder, arguments, sentence):
    run = folder.pytest(*TINY, *arguments)
    assert run.code == 4
    assert sentence in run.text
    assert "Traceback" not in run.text
