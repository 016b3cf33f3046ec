"""A removal of a team's own, as a function and as a command, from a file and from Python."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

import harness
from harness import Pipeline, Removal, UnlearningError, registry

PIPELINE = """
import json
import numpy as np

def load():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(90, 3))
    return (inputs[:60], (inputs[:60, 0] > 0) * 1), (inputs[60:], (inputs[60:, 0] > 0) * 1)

def train(data, seed):
    inputs, labels = data
    noise = np.random.default_rng(seed).normal(size=3) / 10
    return {{"weights": np.linalg.lstsq(inputs, 2.0 * labels - 1, rcond=None)[0] + noise}}

def predict(model, inputs):
    return inputs @ model["weights"]

def remove(model, retain, forget):
    assert len(forget[1]) + len(retain[1]) == 60
    return train(retain, np.random.randint(2**31))

def fixed(model, retain, forget):
    return train((np.eye(3), np.array([1, 0, 0])), 0)

def save_model(model, path):
    path.write_text(json.dumps(model["weights"].tolist()))

def load_model(path):
    return {{"weights": np.array(json.loads(path.read_text()))}}

tool = "{python} -I -S tool.py {{model}} {{ids}} {{out}}"
slow = "{python} -c 'import time; time.sleep(60)' {{model}} {{out}}"
fails = "{python} -c 'print(5); raise SystemExit(3)' {{model}} {{out}}"
silent = "{python} -c 'print(5)' {{model}} {{out}}"
odd = "{python} -c 'import sys; open(sys.argv[2], \\\"w\\\").write(\\\"x\\\")' {{model}} {{out}}"
missing = "no-such-tool {{model}} {{out}}"
mute = "{python} -c 'raise SystemExit(4)' {{model}} {{out}}"
folder = "{python} -c 'import os, sys; os.mkdir(sys.argv[2])' {{model}} {{out}}"
"""
#: It is run without installed packages.
TOOL = """
import json, sys
ids = [int(line) for line in open(sys.argv[2])]
assert ids == sorted(ids)
json.dump([weight + len(ids) for weight in json.load(open(sys.argv[1]))], open(sys.argv[3], "w"))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own_pipeline.py").write_text(
        PIPELINE.replace("{python}", sys.executable).replace("{{", "{").replace("}}", "}")
    )
    (tmp_path / "tool.py").write_text(TOOL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_pipeline", None)


def unlearned(name: str, seconds: float = 300.0):
    """What a removal of the file makes of a model, and the model."""
    from harness.training.unlearning import unlearn

    task = registry.resolve("task", "own_pipeline.py").value
    train = task.load(None).train
    model = task.train(train, 1)
    retain, forget = train.subset(torch.arange(10, 60)), train.subset(torch.arange(10))
    method = registry.resolve("unlearner", f"own_pipeline.py:{name}")
    made, _ = unlearn(method, task, model.state_dict(), retain, forget, budget=1.0, seed=3, seconds=seconds)
    return made.model["weights"], model.model["weights"]


def test_a_function_is_handed_models_and_rows_as_the_pipeline_knows_them(here):
    made, model = unlearned("remove")

    assert made.shape == model.shape
    assert (made != model).any()


def test_a_command_is_handed_a_file_and_the_places_of_rows(here):
    made, model = unlearned("tool")

    assert made == pytest.approx(model + 10)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fails", "ended with exit code 3. The last lines of its output:\n5"),
        ("silent", "wrote no model to {out}. The last lines of its output:\n5"),
        ("odd", "is not a model of the pipeline: JSONDecodeError: Expecting value"),
        ("mute", "ended with exit code 4. It printed nothing."),
        ("folder", "is not a model of the pipeline: IsADirectoryError"),
        ("missing", "cannot be run"),
    ],
)
def test_a_command_that_does_not_work_says_so(here, name, sentence):
    with pytest.raises(UnlearningError) as refused:
        unlearned(name)

    assert sentence in str(refused.value)


def test_a_command_that_hangs_is_stopped(here):
    unlearned("tool")  # the first call imports much; a limit in the middle of it would leave half a module

    with pytest.raises(Exception, match="did not end within 3 seconds"):
        unlearned("slow", seconds=3.0)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("tool {model}", "must name {model} and {out}"),
        ("tool {model} {out} {rows}", "is not valid"),
        ("tool '{model} {out}", "is not valid"),
        (3, "a function or a command"),
    ],
)
def test_a_command_is_checked_before_anything_is_trained(command, sentence):
    with pytest.raises(UnlearningError) as refused:
        Removal(command)

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "spec", "sentence"),
    [
        ("task", "nowhere.py", "there is no file nowhere.py"),
        ("task", "own_pipeline.py:train", "name the file alone"),
        ("unlearner", "own_pipeline.py:nothing", "does not define 'nothing'"),
        ("poison", "own_pipeline.py", "name a class in a module"),
        ("task", "tool.py", "cannot be imported"),
        ("task", "my-file.py", "rename the file"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(here, kind, spec, sentence):
    (here / "my-file.py").write_text("")

    with pytest.raises(UnlearningError) as refused:
        registry.resolve(kind, spec)

    assert sentence in str(refused.value)


def test_a_file_without_its_functions_is_refused(here):
    (here / "half_pipeline.py").write_text("def load(): ...")

    with pytest.raises(UnlearningError, match="lacks the function train"):
        registry.resolve("task", "half_pipeline.py")


def test_a_removal_needs_a_pipeline(here):
    with pytest.raises(UnlearningError, match="audit it on --task=PIPELINE"):
        harness.audit(
            "own_pipeline.py:remove", task="digits-mlp:epochs=1", poison="backdoor", seeds=3, store=here / "s"
        )


def test_two_seeds_with_one_model_are_refused(here):
    with pytest.raises(UnlearningError, match="made the same model for seeds 0 and 1"):
        harness.audit(
            "own_pipeline.py:fixed", task="own_pipeline.py", poison="source:fraction=0.2", seeds=3, store=here / "s"
        )


@pytest.mark.parametrize("named", [True, False])
def test_a_learner_that_keeps_its_seed_and_ignores_it_is_refused(here, named):
    (here / "own_pipeline.py").write_text(
        (here / "own_pipeline.py")
        .read_text()
        .replace("np.random.default_rng(seed).normal(size=3) / 10", "0.0")
        .replace("+ noise}", '+ noise, "seed": seed}')
        .replace("def save_model", "def _save")
        .replace("def load_model", "def _load")
    )
    (here / "ids.txt").write_text("".join(f"{place}\n" for place in range(12)))
    sys.modules.pop("own_pipeline", None)
    poison = "source:rows=ids.txt" if named else "source:fraction=0.2"

    def audit():
        return harness.audit("own_pipeline.py:remove", task="own_pipeline.py", poison=poison, seeds=3, store=here / "s")

    if named:
        with pytest.raises(
            UnlearningError, match="trained models that give the same scores on all of the seeds 0, 1, 2"
        ):
            audit()
    else:  # seeds differ by the rows
        assert len(audit()) == 3


def test_a_pipeline_is_audited_from_python(here):
    from own_pipeline import load, predict, remove, train

    verdicts = harness.audit(
        Removal(remove), task=Pipeline(load, train, predict=predict), seeds=3, store=here / "s",
        poison="source:fraction=0.2,mislabelled=true",
    )  # fmt: skip

    assert {verdict.measure.name for verdict in verdicts} == {"source_rank", "accuracy", "cost"}
    (cost,) = (verdict for verdict in verdicts if verdict.measure.name == "cost")
    assert cost.reason == "too-quick"


def test_worker_processes_of_joblib_count(here):
    """Counted is what the harness waits for; joblib itself keeps its workers for the next call."""
    from joblib import Parallel, delayed
    from own_pipeline import load, predict, train

    from harness.training.unlearning import unlearn

    def remove(model, retain, forget):
        began = time.process_time()
        Parallel(n_jobs=2)(delayed(sum)(range(30_000_000)) for _ in range(2))
        own.append(time.process_time() - began)
        return model

    own, task = [], Pipeline(load, train, predict=predict)
    data = task.load(None).train
    alone = time.process_time()
    sum(range(30_000_000))
    alone = time.process_time() - alone
    method = registry.register("unlearner", Removal(remove))
    _, meter = unlearn(method, task, task.train(data, 1).state_dict(), data, data, budget=1.0, seed=3)

    assert meter.cpu_seconds - own[0] > alone


def test_a_model_whose_only_score_is_a_probability_is_refused_before_anything_is_judged(here):
    from own_pipeline import load, predict, remove, train

    task = Pipeline(load, train, predict=lambda model, inputs: 1 / (1 + np.exp(-9 * predict(model, inputs))))

    with pytest.raises(UnlearningError, match="which looks like a probability"):
        harness.audit(Removal(remove), task=task, seeds=3, store=here / "s", poison="source:fraction=0.2")


def test_predictions_may_use_worker_processes_of_joblib(here):
    from joblib import Parallel, delayed
    from own_pipeline import load, predict, train

    from harness.guards.guard import guarded

    def spread(model, inputs):
        Parallel(n_jobs=2)(delayed(len)("row") for _ in range(2))
        return predict(model, inputs)

    task = Pipeline(load, train, predict=spread)
    data = task.load(None).train
    model, batch = task.train(data, 0), data.batch(torch.arange(3))

    with guarded("a poison"):  # it would refuse processes that are left
        assert task.logits(model, batch).shape == (3, 2)


def test_an_edit_of_the_removal_or_its_tool_trains_nothing_again(here):
    specs = {"task": "own_pipeline.py", "unlearner": "own_pipeline.py:tool"}

    def sources() -> dict[str, str]:
        sys.modules.pop("own_pipeline", None)
        return {kind: registry.resolve(kind, spec).source for kind, spec in specs.items()}

    first = sources()
    (here / "tool.py").write_text(TOOL + "# changed")
    second = sources()
    (here / "own_pipeline.py").write_text(
        (here / "own_pipeline.py").read_text().replace("forget[1]) +", "forget[1]) + 0 +")
    )
    third = sources()
    (here / "own_pipeline.py").write_text((here / "own_pipeline.py").read_text().replace("/ 10", "/ 9"))
    fourth = sources()

    assert first["task"] == second["task"] == third["task"] != fourth["task"]
    assert len({each["unlearner"] for each in (first, second, third, fourth)}) == 4


def test_removals_and_pipelines_of_one_file_are_told_apart(here):
    from functools import partial

    from own_pipeline import fixed, load, remove, train

    def closed(rate: float):
        return lambda model, retain, forget: train(retain, int(rate))

    removals = [remove, fixed, partial(remove, retain=1), partial(remove, retain=2), closed(1), closed(2)]
    found = [registry.register("unlearner", Removal(each)) for each in removals]
    tasks = [registry.register("task", Pipeline(load, each)) for each in (train, partial(train, seed=1), remove)]

    assert len({str(each.identity) for each in found}) == len(removals)
    assert len({str(each.identity) for each in tasks}) == 3
    assert registry.register("unlearner", Removal(remove)).identity == found[0].identity


def test_a_file_of_row_numbers_is_known_by_what_it_lists(here):
    def source() -> str:
        return registry.resolve("poison", "source:rows=ids.txt").source

    (here / "ids.txt").write_text("1\n2\n")
    first = source()
    (here / "ids.txt").write_text("1\n3\n")

    assert source() != first


def test_a_tool_runs_where_it_lies_and_is_watched_with_what_it_imports(here, monkeypatch):
    (here / "deep").mkdir()
    for name in ("own_pipeline.py", "tool.py"):
        (here / name).rename(here / "deep" / name)
    (here / "deep" / "beside.py").write_text("X = 1")
    (here / "deep" / "tool.py").write_text(
        "import os; assert os.path.exists('own_pipeline.py')\n" + TOOL + "import beside"
    )
    spec = "deep/own_pipeline.py:tool"
    first = registry.resolve("unlearner", spec)
    (here / "deep" / "beside.py").write_text("X = 2")

    assert first.source != registry.resolve("unlearner", spec).source
    assert first.value._folder == here / "deep"
