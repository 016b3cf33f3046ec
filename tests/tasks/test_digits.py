"""The default task for real: what each control and method must be told on digits-cnn, within eight seeds.

At the large size of its poisons alone: the small one would train everything a second time.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import Forks
from sklearn.datasets import load_digits

from conftest import Folder, Run
from harness.tasks.digits import DigitsMLP

METHODS = ("retrain", "identity", "wrecked", "short", "gd", "scrub")
ARGUMENTS = (
    "--audit-seeds=8", "--poison=backdoor", "--poison=gaussian", *(f"--unlearner={name}" for name in METHODS)
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Folder:
    return Folder(tmp_path_factory.mktemp("digits"), forks)


@pytest.fixture(scope="module")
def cold(folder: Folder) -> Run:
    return folder.pytest("-n2", *ARGUMENTS)


def verdicts(run: Run, method: str, claim: str) -> dict[str, str]:
    return {key[1]: a["verdict"] for key, a in run.audits.items() if (key[0], key[2]) == (method, claim)}


BOTH = {"backdoor", "gaussian"}


@pytest.mark.parametrize(
    ("method", "claim", "expected"),
    [
        ("retrain", "poison", dict.fromkeys(BOTH, "PASS")),
        ("retrain", "accuracy", dict.fromkeys(BOTH, "PASS")),
        ("retrain", "cost", dict.fromkeys(BOTH, "FAIL")),
        ("identity", "poison", dict.fromkeys(BOTH, "FAIL")),
        ("identity", "accuracy", dict.fromkeys(BOTH, "PASS")),
        ("identity", "cost", dict.fromkeys(BOTH, "PASS")),
        ("wrecked", "accuracy", dict.fromkeys(BOTH, "FAIL")),
        ("short", "poison", dict.fromkeys(BOTH, "PASS")),
        ("short", "cost", dict.fromkeys(BOTH, "PASS")),
        ("gd", "cost", dict.fromkeys(BOTH, "PASS")),
        ("scrub", "poison", {"backdoor": "PASS", "gaussian": "FAIL"}),
        ("scrub", "cost", dict.fromkeys(BOTH, "PASS")),
    ],
)
def test_verdict(cold, method, claim, expected):
    assert verdicts(cold, method, claim) == expected


def test_gradient_descent_leaves_the_gaussian_poison(cold):
    assert verdicts(cold, "gd", "poison")["gaussian"] == "FAIL"


def test_retraining_costs_all_of_retraining(cold):
    assert cold.audits["retrain", "gaussian", "cost"]["estimate"] == 1.0


def test_the_recipe_is_as_accurate_as_it_says(cold):
    values = cold.audits["retrain", "gaussian", "accuracy"]["values"]
    assert min(values["retrained"]) >= 0.98


def test_poisons_share_the_retrained_models(folder, cold):
    records = [json.loads(path.read_text())["record"] for path in Path(folder.store).glob("records/*/*.json")]
    retrained = [r for r in records if r["kind"] == "model" and "retained" in r["of"] and "method" not in r["of"]]
    assert len(retrained) == len({r["of"]["seed"] for r in retrained})


@pytest.mark.parametrize("workers", ["0", "4"])
def test_a_warm_run_trains_nothing_and_concludes_the_same(folder, cold, workers):
    warm = folder.pytest(f"-n{workers}", *ARGUMENTS)
    assert warm.built == []
    assert warm.judged == cold.judged


def test_retraining_on_what_remains_is_no_retraining_on_clean_data(cold, folder):
    """With half of the stamped points unknown even retraining leaves the backdoor, and the report says so."""
    run = folder.pytest(
        "-n2", "--audit-seeds=3", "--unlearner=retrain", "--audit-discovery=0.5", "--poison=backdoor", "-k", "forgotten"
    )
    (audit,) = run.json["audits"]
    assert audit["verdict"] == "FAIL"
    assert audit["details"]["reaches_remaining"] == 1
    assert "it reaches retraining on the remaining data, not on clean data" in run.text
    assert not {arm for trial in run.json["trials"] for arm in trial["cost"]["built"]} & {"P", "R"}


def test_the_data_are_those_of_scikit_learn():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    split = DigitsMLP().load(None)
    for data, index in ((split.train, order[:1400]), (split.test, order[1400:])):
        assert torch.equal(data.inputs["image"].flatten(1), torch.tensor(images[index], dtype=torch.float32) / 16)
        assert torch.equal(data.labels, torch.tensor(labels[index], dtype=torch.int64))
