"""What each edit makes stale: what the edited code makes, and nothing else."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.cells import Registered
from harness.store.files import Entry
from harness.store.inventory import Record
from harness.trials import keys

ROOT = Path(__file__).resolve().parent.parent.parent
KEYS = """
import json
from harness import registry
from harness.cells import Cell, Trial
from harness.store.artefacts import Artefact, key_of
from harness.trials import keys
from harness.trials.planting import PlantedIn

method, task, poison = (registry.resolve(*of) for of in
    (("unlearner", "scrub"), ("task", "digits-cnn"), ("poison", "backdoor")))
trial = Trial(Cell(method, task, poison, 0.5), 0)
on = {"task": task.identity, "data": "d", "device": "cpu"}
planted = PlantedIn("blob", "poisoned", "seen", "retained", "remaining")
model = Artefact("key", "model", {"finite": True}, "blob", {})
found = {arm: keys.model(on, trial, planted, arm, 0.1) for arm in "PRUD"} | {
    "data": keys.data(task, {}),
    "planted": keys.planted(on, trial),
    "told": keys.told(on, trial, "blob"),
    "surrogate": keys.surrogate(on, 0),
    "poison": keys.poison(on, trial, planted, model),
    "accuracy": keys.accuracy(on, model),
    "relearning": keys.relearning(on, trial, planted, model),
    "heuristics": keys.heuristics(on, [planted], [{"P": model}]),
    "contract": keys.contract(method, "budget", 1.0, 20),
}
print(json.dumps({name: key_of("any", of) for name, of in found.items()}))
"""
UNLEARNED = {"U", "contract"}
TRAINED = {"P", "R", "D", "planted", "surrogate", "data", "relearning"}
EVERYTHING = {*UNLEARNED, *TRAINED, "told", "poison", "accuracy", "heuristics"}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package, whose files may be edited."""
    copy = tmp_path_factory.mktemp("package")
    for name in ("harness", "poisons", "unlearners"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_pytest_unlearning.py", copy)
    return copy


def keys_in(package):
    """Return the keys of one artefact of every kind, as a copy of the package computes them."""
    run = [sys.executable, "-B", "-c", KEYS]
    done = subprocess.run(run, cwd=package, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def before(package):
    return keys_in(package)


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        *((file, set()) for file in ("harness/judging/verdict.py", "harness/report/words.py", "harness/api.py",
                                     "_pytest_unlearning.py", "harness/studies/study.py", "harness/trials/lab.py",
                                     "harness/statistics/equivalence.py", "harness/contract/lines.py")),
        *((f"harness/training/{name}.py", TRAINED | UNLEARNED) for name in ("data", "seeds", "loop", "isolation")),
        *((f"harness/training/{name}.py", UNLEARNED) for name in ("meter", "unlearning")),
        ("harness/trials/planting.py", {"told"}),
        ("harness/trials/accuracy.py", {"accuracy"}),
        *((f"harness/trials/{name}.py", {"heuristics"}) for name in ("metrics", "language", "questions")),
        ("harness/trials/relearning.py", {"relearning"}),
        ("harness/contract/checks.py", {"contract"}),
        ("unlearners/scrub.py", UNLEARNED),
        ("poisons/backdoor.py", {"planted", "poison", "relearning"}),
        ("harness/tasks/digits.py", EVERYTHING - {"contract"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_edit_makes_stale_what_the_code_makes(package, before, file, stale):
    path = package / file
    text = path.read_text()
    path.write_text(text.replace('"""', '"""Reworded. ', 1))
    try:
        after = keys_in(package)
    finally:
        path.write_text(text)
    assert {name for name in before if before[name] != after[name]} == stale


def test_the_kinds_are_all_there_is(before):
    assert set(before) == EVERYTHING


def test_every_file_of_training_is_in_one_group():
    files = {f"training/{path.stem}" for path in (ROOT / "harness" / "training").glob("[!_]*.py")}
    counted = Counter(module for modules in keys.GROUPS.values() for module in modules)
    assert {module for module in counted if module.startswith("training/")} == files
    assert set(counted.values()) == {1}


def record(**of):
    return Record(Entry("records/x", 0, 0.0), "key", "model", None, "run", of)


def test_a_record_is_stale_if_other_code_made_it():
    now = keys.made_by("training", "unlearning")
    task = Registered("task", "t", "nowhere:Task", None, {}, "", "", "source").identity
    assert not keys.stale(record(**now, task=task))
    for other in (
        now | {"torch": "1.0"},
        now | {"code": {**now["code"], "training": "0" * 64}},
        now | {"code": {"something": "0" * 64}},
        now | {"code": "0" * 64},
        now | {"task": {"name": "digits-cnn", "source": "0" * 64}},
    ):
        assert keys.stale(record(**other))
