"""What is trained again after an edit of a user's files: trials of the tiny task, each in a process of its own."""

import json
import os
import shutil
from pathlib import Path

import pytest
from plugins import write

HERE = Path(__file__).resolve().parent
RUN = """
import json, sys, uuid
from harness import registry
from harness.cells import Cell, Trial
from harness.trials.lab import Lab

parts = zip(("unlearner", "task", "poison"), (sys.argv[1], "study.task:Task", "backdoor:size=1"))
trial = Trial(Cell(*(registry.resolve(kind, spec) for kind, spec in parts)), 0)
lab = Lab.open("store", device="cpu", run=uuid.uuid4().hex)
built = lab.run(trial).cost["built"]
print(json.dumps({"built": built, "U": lab._models.of(trial, "U").blob}))
"""
METHOD = """
from helpers.steps import descend


def forget(model, request):
    return descend(model, request)


def renamed(model, request):
    return descend(model, request)
"""
STEPS = """
def descend(model, request):
    optimizer = request.optimizer(model, lr=0.05)
    for batch in request.batches("retain", epochs=1):
        optimizer.zero_grad()
        request.loss(model, batch).backward()
        optimizer.step()
    return model
"""
TASK = """
import library.networks
from tiny import Tiny


class Task(Tiny):
    def new_model(self):
        return library.networks.network()
"""
NETWORK = """
def network():
    from torch import nn

    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU()), nn.Linear(16, 3))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A user's folder: a loose method whose work is done by a package, and a task whose network is in a library."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(HERE.parent / "tiny.py", folder)
    write(folder / "mine.py", METHOD)
    write(folder / "notes.py", "")
    for name, text in (("helpers/steps", STEPS), ("study/task", TASK), ("library/networks", NETWORK)):
        write(folder / Path(name).parent / "__init__.py")
        write(folder / f"{name}.py", text)
    return folder


@pytest.fixture(scope="module")
def trained(project, forks):
    """Returns the models that a trial trained, and what its U is: the hash of its weights."""

    def trained(method="mine:forget"):
        code, text = forks.run(["-P", "-c", RUN, method], project, dict(os.environ), timeout=120)
        assert code == 0, text
        found = json.loads(text.splitlines()[-1])
        return "".join(sorted(found["built"])), found["U"]

    return trained


@pytest.fixture(scope="module")
def first(trained):
    built, weights = trained()
    assert built == "PRU"
    return weights


def edit(file):
    file.write_text(file.read_text() + "\n# edited\n")


def test_an_edit_of_an_unrelated_file_trains_nothing(project, trained, first):
    edit(project / "notes.py")
    write(project / "helpers/other.py")
    assert trained() == ("", first)


def test_an_edit_of_an_imported_helper_unlearns_again(project, trained, first):
    edit(project / "helpers/steps.py")
    assert trained() == ("U", first)


def test_an_edit_of_the_library_of_the_task_trains_everything_again(project, trained, first):
    edit(project / "library/networks.py")
    assert trained() == ("PRU", first)


def test_a_renamed_method_draws_the_same_numbers(trained, first):
    assert trained("mine:renamed") == ("U", first)
