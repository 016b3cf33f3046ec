"""The pilot as a command: what it says, and of which numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from harness.cli.main import main
from harness.registry import resolve
from harness.report.planning import dial_lines, pilot_lines
from harness.studies.dials import stronger
from harness.studies.pilot import PILOT_SEED, Forecast

STRONG = Forecast(
    poison="noise", measure="score", title="score", test="retention", margin=0.2, least_margin=None, resolution=0.0,
    n=10, poisoned=0.62, retrained=0.0, oracle=0.0, effect=0.62, effect_sds=4.8, noise=0.1,
    passes={5: 0.41, 8: 0.83, 12: 0.9, 16: 0.94}, fails=0.0, mean_seeds=8.2, seeds_80=7, seeds_90=9,
    dials=("fraction", "sd"),
)  # fmt: skip
ACCURACY = replace(
    STRONG, measure="accuracy", title="test accuracy", test="non-inferiority", margin=0.01, least_margin=0.004,
    resolution=0.00125, poisoned=0.96, retrained=0.97, noise=0.005,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("plan") / "store"


def plan(store, *arguments):
    return main(["plan", "--task=tiny:Tiny", "--poison=backdoor:size=1", f"--store={store}", "--seeds=4", *arguments])


def test_it_says_of_each_claim_whether_audits_can_judge_it(store, tmp_path, capsys):
    assert plan(store, f"--json={tmp_path / 'plan.json'}") == 0
    said = capsys.readouterr()
    assert f"A pilot of 4 seeds, {PILOT_SEED} to {PILOT_SEED + 3}; quick plan" in said.out
    assert "backdoor:size=1 on tiny:Tiny" in said.out
    assert said.out.count("Audits can judge it.") == 2  # success, and accuracy on the stamped images
    assert "The margin of 2.0 pp can be judged" in said.out
    assert "seed 4 of 4" in said.err
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["forecasts"][0]["measure"] == "attack_success"
    assert all(each["passes"]["16"] > 0.9 for each in found["forecasts"])


def test_a_reliable_plan_takes_more_seeds(store, capsys):
    assert plan(store, "--plan=reliable") == 0
    assert "by 16 seeds; its verdict takes 16.0 seeds on average" in capsys.readouterr().out


def test_a_weak_poison_is_sent_back_with_what_to_do():
    weak = replace(STRONG, passes={5: 0.1, 8: 0.2, 12: 0.3, 16: 0.58})
    text = "\n".join(pilot_lines("digits", [weak, replace(weak, seeds_90=None)]))
    assert "PASSes with probability 0.58 by 16 seeds, 0.10 by 5 seeds" in text
    assert text.count("Too weak to audit") == 2
    assert text.count("With a single look, 9 seeds would reach 0.9.") == 1
    assert "Plant more points (fraction)" in text
    assert "add --dials: fraction and sd are each doubled." in text
    (_, _, _, fixed) = pilot_lines("mine.py", [replace(weak, dials=())])
    assert "None of its fields can be doubled." in fixed
    assert "Plant more points" not in fixed


def test_a_pilot_measures_by_what_the_effect_grows(store, tmp_path, capsys):
    assert plan(store, "--dials", f"--json={tmp_path / 'plan.json'}") == 0
    said = capsys.readouterr().out
    assert re.search(r"  fraction=0.2 \(more points\): power 1.00 → 1.00", said), said
    assert re.search(r"  size=2 \(a larger trigger\): power 1.00 → \d\.\d\d", said), said
    assert "  None of them raises the power." in said
    found = json.loads((tmp_path / "plan.json").read_text())["dials"]["backdoor:size=1"]
    assert found.keys() == {"fraction=0.2", "size=2"}


def test_the_field_by_which_the_effect_grows_is_named():
    found = {"fraction=0.3": 0.7, "sd=1": 0.42, "columns=9": "the task has 8 columns"}
    assert dial_lines(0.45, found) == [
        "  fraction=0.3 (more points): power 0.45 → 0.70",
        "  sd=1 (stronger noise): power 0.45 → 0.42",
        "  columns=9 (a trigger of more columns): not planted: the task has 8 columns",
        "  The power grows most by fraction=0.3. Raise it further: a power of 0.9 is enough.",
    ]
    assert dial_lines(0.45, {})[0] == "  None of its fields can be doubled."


def test_fields_are_doubled_as_far_as_the_poison_allows():
    found = {
        spec: stronger(resolve("poison", spec)) for spec in ("gaussian:fraction=0.6", "source:rows=tests/linear.py")
    }
    assert found["gaussian:fraction=0.6"]["sd"] == ("gaussian:fraction=0.6,sd=1", "")
    _, refusal = found["gaussian:fraction=0.6"]["fraction"]
    assert "fraction must lie in (0, 1), not 1.2" in refusal
    assert found["source:rows=tests/linear.py"] == {}


def test_a_poison_that_never_varies_has_no_number_of_deviations():
    (_, measured, _, _) = pilot_lines("digits", [replace(STRONG, effect_sds=float("inf"))])
    assert measured.endswith("infinitely many standard deviations apart")


def test_accuracy_says_what_the_test_set_can_resolve():
    head, measured, planned, judged = pilot_lines("digits", [ACCURACY])
    assert head == "noise on digits"
    assert "97 % after retraining" in measured
    assert "differ by 0.5 pp (standard deviation)" in measured
    assert "one test example counts 0.2 pp" in measured
    assert "0.94 by 16 seeds" in planned
    assert judged == (
        "    The margin of 1.0 pp can be judged; the smallest margin at which a PASS can be expected is 0.4 pp."
    )
    *_, judged = pilot_lines("digits", [replace(ACCURACY, passes={5: 0.0, 16: 0.3}, least_margin=0.021)])
    assert "is too small here" in judged
    assert "2.1 pp" in judged
    assert "margin = 0.021 in a pipeline" in judged
    assert "which is more than the margin" not in judged
    *_, judged = pilot_lines("digits", [replace(ACCURACY, passes={16: 0.3}, least_margin=0.021, resolution=0.006)])
    assert "One test example counts 1.2 pp, which is more than the margin." in judged


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--poison=nonsense",), "nonsense"),
        (("--json=no/such/folder/plan.json",), "the directory of no/such/folder/plan.json is missing; make it first"),
    ],
)
def test_bad_input_is_one_sentence(store, capsys, arguments, said):
    assert plan(store, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert said in error[0]


@pytest.mark.parametrize("seeds", ["2", "-1", "many"])
def test_a_pilot_takes_three_seeds(store, capsys, seeds):
    with pytest.raises(SystemExit) as ended:
        main(["plan", f"--seeds={seeds}"])
    assert ended.value.code == 2
    assert f"takes a whole number from 3 on, not '{seeds}'" in capsys.readouterr().err
