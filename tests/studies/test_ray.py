"""Trials on a Ray cluster over an object store. Needs ``pip install -e ".[cluster-test]"``; skipped without."""

import json
import platform
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from labs import BACKDOOR, GAUSSIAN, trial
from labs import GD as GRADIENT_DESCENT

from conftest import SUITES, TINY, Run, comparable
from harness import registry
from harness.api import UnlearningError
from harness.store.files import files_at
from harness.studies.ray import Cluster, beside, connect, place_of

GD = "--unlearner=gd:lr=0.01"


# ---- the option, without Ray


@pytest.mark.parametrize(
    ("text", "cluster"),
    [
        ("ray", Cluster()),
        ("ray?gpus=0.25", Cluster(gpus=0.25)),
        ("ray://head:10001", Cluster("ray://head:10001")),
        ("ray://head:10001?gpus=2&cpus=8", Cluster("ray://head:10001", 2.0, 8.0)),
    ],
)
def test_a_cluster_is_named_by_its_address_and_what_a_trial_takes(text, cluster):
    assert Cluster.of(text) == cluster


@pytest.mark.parametrize(
    "text",
    ["", "rays", "ray:", "ray://", "ray://head", "ray://head:x", "ray?gpus=0", "ray?gpus=x", "ray?gpu=1", "ray?",
     "ray?gpus=nan", "dask", "ray://head:1/path", "ray?address=1"],
)  # fmt: skip
def test_anything_else_is_refused_in_a_sentence(text):
    with pytest.raises(UnlearningError, match="--audit-executor takes local, ray, or ray://HOST:PORT"):
        Cluster.of(text)


def test_a_missing_ray_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import finds that is not installed
    with pytest.raises(UnlearningError, match=r"needs Ray: pip install 'pytest-unlearning\[ray\]'"):
        connect("ray", "/tmp")


# ---- which trials share a task


def seeds(n, *poisons):
    return [trial(GRADIENT_DESCENT, poison, seed) for seed in range(n) for poison in poisons]


def test_seeds_are_shared_out_among_the_tasks_that_can_start():
    needed = seeds(5, BACKDOOR, GAUSSIAN)
    first = beside(needed[0], needed, frozenset(), free=2)
    assert first == tuple(needed[1:6]), "three of five seeds, all poisons of each"
    taken = frozenset(map(place_of, needed[:6]))
    assert beside(needed[6], needed, taken, free=1) == tuple(needed[7:])
    assert beside(needed[6], needed, taken, free=2) == (needed[7],)
    assert beside(needed[0], needed, frozenset(), free=100) == (needed[1],), "R is the same for both poisons"


def test_who_is_at_work_elsewhere_or_on_another_task_is_left_out():
    needed = seeds(4, BACKDOOR)
    taken = frozenset({(*place_of(needed[2]), GRADIENT_DESCENT)})  # the same method, whose models are made
    assert beside(needed[0], needed, taken, free=1) == (needed[1], needed[3])
    other = replace(needed[1], cell=replace(needed[1].cell, task=registry.resolve("task", "digits-mlp")))
    assert beside(needed[0], [other], frozenset(), free=1) == ()


# ---- the real thing

EXTRA = "Ray and an S3 server come with the extra cluster-test, 300 MB that no other test needs"


@pytest.fixture(scope="module")
def s3():
    """An S3 server on this machine with a bucket, in this process's environment and so in that of all others."""
    pytest.importorskip("ray", reason=EXTRA)
    pytest.importorskip("s3fs", reason=EXTRA)
    server = pytest.importorskip("moto.server", reason=EXTRA).ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import fsspec

        fsspec.config.set_conf_env(fsspec.config.conf)  # it read the environment when it was imported
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("audits")
        yield "s3://audits"
    server.stop()


@pytest.fixture(scope="module")
def nodes(s3):
    """A cluster of two nodes on this machine, of one CPU each."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
    nodes.shutdown()


@pytest.fixture
def bucket(s3, tmp_path):
    """A place of this test in the bucket."""
    return f"{s3}/{tmp_path.name}"


def records(store, kind):
    files = files_at(store)
    found = [json.loads(files.read(e.name))["record"] for e in files.entries() if e.name.startswith("records/")]
    return [record for record in found if record["kind"] == kind]


def test_on_a_cluster_over_a_bucket_the_verdicts_are_the_same(folder, nodes, bucket):
    arguments = (*TINY, GD, "--unlearner=gd:lr=0.05")
    here = folder.pytest(*arguments)
    there = folder.pytest(*arguments, "--audit-executor=ray", f"--audit-store={bucket}", "-n2")
    assert there.code == here.code == 1, there.text
    assert there.judged == here.judged
    assert "connecting to Ray (ray)" in there.text
    assert f"devices: Ray cluster (ray)   store: {bucket} (cache " in there.text
    # What two trials both made would be counted twice; what is at work ahead when the session ends, not at all.
    assert 0 < len(there.built) <= len(records(bucket, "model"))
    again = folder.pytest(*arguments, "--audit-executor=ray", f"--audit-store={bucket}")
    assert again.judged == here.judged
    assert again.built == []


def test_a_task_trains_a_group(folder, nodes, bucket):
    arguments = (*TINY, GD, "--audit-seeds=5")
    here = folder.pytest(*arguments)
    there = folder.pytest(*arguments, "--audit-executor=ray", f"--audit-store={bucket}", "--audit-group=8")
    assert there.judged == here.judged
    made = [json.dumps(record["of"], sort_keys=True) for record in records(bucket, "model")]
    assert len(made) == len(set(made)), "each once"
    long = ("--task=tiny:Tiny:epochs=300", TINY[1], GD, "--audit-seeds=3", "--audit-executor=ray", "--audit-group=8")
    with folder.terminal(*long) as until:
        text = until(" more for ")
    assert re.search(rf"{platform.node()}: P and \d more for backdoor:size=1, seed \d, pass", text), text


def test_a_node_that_is_killed_costs_no_verdict(folder, nodes, bucket):
    slow = ("--task=tiny:Tiny:epochs=150", TINY[1], GD)
    victim = nodes.add_node(num_cpus=1)
    result = folder.path / "ray.json"
    command = folder.command(
        SUITES, *slow, f"--ignore={SUITES}/test_contract.py", "--audit-executor=ray", f"--audit-store={bucket}",
        f"--audit-json={result}",
    )  # fmt: skip
    with subprocess.Popen(command, cwd=folder.path, env=folder.environment(), stdout=subprocess.PIPE, text=True) as run:
        while len(records(bucket, "model")) < 6:
            assert run.poll() is None
            time.sleep(0.1)
        nodes.remove_node(victim, allow_graceful=False)
        text = run.communicate(timeout=600)[0]
    assert run.returncode == 1, text
    there = Run(run.returncode, text, json.loads(result.read_text()))
    assert there.judged == folder.pytest(*slow).judged


def test_what_a_method_raises_comes_back_with_its_traceback(folder, nodes):
    folder.write(
        "methods/mine.py",
        "from harness import UnlearningError\n\n\nclass Strange(Exception):\n"
        "    def __init__(self, a, b):\n        super().__init__(f'{a} {b}')\n\n\n"
        "def forget(model, request):\n    raise KeyError('in the method')\n\n\n"
        "def strange(model, request):\n    raise Strange('one', 'other')\n\n\n"
        "def dies(model, request):\n    import os\n    os.abort()\n\n\n"
        "def refuses(model, request):\n    raise UnlearningError('it cannot be served; do something else')\n",
    )
    methods = [f"--unlearner=mine:{name}" for name in ("forget", "strange", "refuses", "dies")]
    run = folder.pytest(*TINY, *methods, GD, "--audit-seeds=3", "--audit-executor=ray")
    assert run.code == 1
    assert "KeyError: 'in the method'" in run.text
    assert 'mine.py", line 10, in forget' in run.text
    assert "one other" in run.text
    assert "it cannot be served; do something else" in run.text
    assert "was lost on the Ray cluster, 4 times" in run.text
    found = {(a["unlearner"], a["claim"]): a["verdict"] for a in run.json["audits"]}
    assert all(found[f"mine:{name}", "poison"] == "ERROR" for name in ("forget", "strange", "refuses", "dies"))
    assert found["gd:lr=0.01", "poison"] == "FAIL"


def test_optional_audits_run_on_the_cluster_too(folder, nodes):
    arguments = (*TINY, GD, "--audit-seeds=3", "-m", "heuristic or relearning")
    here = folder.pytest(*arguments)
    there = folder.pytest(*arguments, "--audit-executor=ray", f"--audit-store={folder.path / 'other'}")
    assert there.judged == here.judged
    said = [[comparable(each) for each in run.json["heuristics"]] for run in (here, there)]
    assert said[0] == said[1]
    assert len(said[0]) == 5


#: A method that writes down which actors of its run there are; a name of each is enough to get at it.
ACTORS = """
import json, pathlib, ray

def forget(model, request):
    found = ray.util.list_named_actors(all_namespaces=True)
    pathlib.Path({path!r}).write_text(json.dumps(found))
    return model
"""


@pytest.fixture
def actors(folder):
    """What returns the actors that `mine:forget` saw last."""
    path = folder.path / "actors.json"
    folder.write("methods/mine.py", ACTORS.format(path=str(path)))
    return lambda: json.loads(path.read_text())


LONG = ("--task=tiny:Tiny:epochs=300", TINY[1], "--unlearner=mine:forget", "--audit-seeds=3", "--audit-executor=ray")


def test_a_terminal_shows_what_trains_on_which_node(folder, nodes, actors):
    with folder.terminal(*LONG) as until:
        text = until(" starting")
        assert "2 starting" in text or "1 starting" in text
    text = until("")
    for what in ("backdoor:size=1 model", "retraining"):
        assert re.search(rf"{platform.node()}: {what}, seed \d, pass \d+/300", text), text
    assert re.search(r"pass \d+/300[^\033]* — \d+ of 15 trials", text)
    (board,) = actors()
    assert board["name"].startswith("pytest-unlearning-")


def test_where_nobody_looks_nothing_is_sent(folder, nodes, actors):
    assert folder.pytest(*LONG).code == 1
    assert actors() == []


KILL = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR")
(board,) = ray.util.list_named_actors(all_namespaces=True)
ray.kill(ray.get_actor(**board), no_restart=sys.argv[2] == "for good")
"""


@pytest.mark.parametrize("how", ["for good", "once"])
def test_a_board_that_dies_costs_news_and_no_verdict(folder, nodes, actors, how):
    with folder.terminal(*LONG) as until:
        until("pass ")
        subprocess.run([sys.executable, "-c", KILL, nodes.address, how], check=True)
        killed = len(until(""))
    text = until("")
    assert "FAILED" in text
    assert "1 failed" in text
    if how == "once":
        assert len(re.findall("pass ", text[killed:])) > 2, "it was started again"


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ("dask", "--audit-executor takes local, ray, or ray://HOST:PORT"),
        ("ray://127.0.0.1:9", "--audit-executor: the Ray cluster ray://127.0.0.1:9 cannot be reached"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_line(folder, executor, said):
    if executor.startswith("ray"):
        pytest.importorskip("ray", reason=EXTRA)
    done = subprocess.run(
        folder.command(SUITES, *TINY, GD, f"--audit-executor={executor}"), cwd=folder.path, env=folder.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
