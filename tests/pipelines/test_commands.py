"""A removal that is a command: what it may write, and models that are handed to it as files and folders."""

from __future__ import annotations

import subprocess
import sys
import venv

import numpy as np
import pytest
import torch
from labs import lab_in

from harness import Pipeline, Removal, UnlearningError, registry
from harness.cells import Cell, Trial
from harness.training.unlearning import unlearn

#: What a tool may make of the weights, for a network of torch.
SHAPES = {
    "wide": ("{k: torch.zeros(3, *v.shape) for k, v in w.items()}", "its 'weight' is of shape (3, 2, 16), not (2, 16)"),
    "none": ("{'weight': w['weight']}", "it lacks 'bias' of the network that model() builds"),
    "more": ("{**w, 'spare': w['bias'] + 1}", "it has 'spare', which the network that model() builds does not have"),
    "text": ("5", "is not a model of the pipeline: "),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_command_that_writes_another_network_says_so_in_a_sentence(tmp_path, shape):
    made, sentence = SHAPES[shape]
    (tmp_path / "tool.py").write_text(
        "import sys, torch\nfrom safetensors.torch import load_file, save_file\nw = load_file(sys.argv[1])\n"
        f"made = {made}\nif made == 5: open(sys.argv[2], 'w').write('5')\nelse: save_file(made, sys.argv[2])\n"
    )
    removal = Removal(f"{sys.executable} {tmp_path / 'tool.py'} {{model}} {{out}}")

    with pytest.raises(UnlearningError) as refused:
        judged(tmp_path / "s", removal)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


#: Neighbours remember rows, and are no network. The tool runs in a virtual environment in which nothing is installed.
NEIGHBOURS = """
import json, sys, time
import numpy as np
import pandas as pd

remove = "bare/bin/python -I tool.py {model} {retain} {out}"

def load():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(400, 2)), columns=["a", "b"]).assign(label=np.arange(400) % 2)
    rows["a"] += 3 * rows["label"]
    return rows[:200], rows[200:]

def train(data, seed):
    began = time.process_time()
    some = data.sample(frac=0.8, random_state=seed)
    while time.process_time() - began < 0.25:
        pass
    return some.to_dict("records")

def predict(model, inputs):
    known = pd.DataFrame(model).astype(float)
    far = ((inputs[["a", "b"]].to_numpy()[:, None] - known[["a", "b"]].to_numpy()) ** 2).sum(2)
    near = np.exp(-5 * far) + 1e-6
    return (near @ (2 * known["label"].to_numpy() - 1)) / near.sum(1)

def save_model(model, path):
    path.write_text(json.dumps(model))

def load_model(path):
    return json.loads(path.read_text())
"""
FORGETS = """
import csv, json, random, sys
rows = list(csv.DictReader(open(sys.argv[2])))
json.dump(random.sample(rows, k=8 * len(rows) // 10), open(sys.argv[3], "w"))
"""


def test_a_tool_without_torch_is_judged_and_keeps_the_contract(folder):
    folder.write("pipeline.py", NEIGHBOURS)
    folder.write("tool.py", FORGETS)
    venv.create(folder.path / "bare", symlinks=True)
    torchless = [str(folder.path / "bare" / "bin" / "python"), "-I", "-c", "import torch"]
    assert b"No module named 'torch'" in subprocess.run(torchless, capture_output=True, check=False).stderr
    what = "--task=pipeline.py", "--unlearner=pipeline.py:remove", "--poison=table-backdoor:fraction=0.15,columns=2"

    run = folder.pytest(*what, "--audit-budget=0.6", "--audit-seeds=5", contract=True)

    assert "pipeline.py:remove: keeps " in run.text
    found = {claim: audit for (*_, claim), audit in run.audits.items()}
    assert found["poison"]["verdict"] == found["cost"]["verdict"] == "PASS", run.text
    details = found["cost"]["details"]
    assert 0 < details["seconds of unlearning"] < details["seconds of retraining"]


def judged(store, removal):
    """Run one trial of a removal on a linear network."""
    rows = torch.rand(40, 16), torch.arange(40) % 2
    task = Pipeline(
        lambda: (rows, rows), lambda data, seed: torch.nn.Linear(16, 2), model=lambda: torch.nn.Linear(16, 2)
    )
    kinds = registry.register("unlearner", removal), registry.register("task", task)
    cell = Cell(*kinds, registry.resolve("poison", "source:fraction=0.1"))
    return lab_in(store, budget=0.5).run(Trial(cell, 0))


def test_models_may_be_folders(tmp_path):
    """As those are which transformers writes."""
    (tmp_path / "tool.py").write_text(
        "import shutil, sys\nshutil.copytree(sys.argv[1], sys.argv[2])\n"
        "open(sys.argv[2] + '/deep/shift', 'w').write('7')\n"
    )

    def save_model(model, path):
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "shift").write_text(str(model))
        (path / "config").write_text("{}")

    rows = np.eye(4), np.array([0, 1, 0, 1])
    task = Pipeline(
        lambda: (rows, rows), lambda data, seed: seed, save_model=save_model,
        load_model=lambda path: int((path / "deep" / "shift").read_text()),
    )  # fmt: skip
    model = task.train(task.load(None).train, 3)
    back = task.new_model()
    back.load_state_dict(model.state_dict())

    assert back.model == model.model == 3
    assert torch.equal(back.get_extra_state(), model.get_extra_state())
    method = registry.register("unlearner", Removal(f"{sys.executable} {tmp_path / 'tool.py'} {{model}} {{out}}"))
    data = task.load(None).train
    made, _ = unlearn(method, task, model.state_dict(), data, data, budget=1.0, seed=3)
    assert made.model == 7


def test_a_model_that_was_not_saved_is_refused():
    task = Pipeline(lambda: None, lambda data, seed: 3, save_model=lambda model, path: None)

    with pytest.raises(UnlearningError, match="wrote nothing to the path"):
        task.wrapped(3, "train()").get_extra_state()
