"""Which worker gets what; a stub stands in the place of the driver's tool, which says what GPUs there are."""

from __future__ import annotations

import os
import stat
import subprocess

import execnet
import pytest

from conftest import TINY
from harness.plugin import workers

SHOW = """
import os, time
from pathlib import Path

def test_show(worker_id, request):
    share = request.config.workerinput["unlearning_gpu_share"]
    text = f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {share}"
    Path(f"shown-{worker_id}").write_text(text)
    deadline = time.monotonic() + 120
    while worker_id == "gw0" and not Path("shown-gw2").exists() and time.monotonic() < deadline:
        time.sleep(0.1)  # leave something for the one that comes later
"""
DIE = """
def test_die(worker_id):
    if worker_id == "gw1":
        os._exit(1)
"""


def tool(path, gpus):
    """Write a driver's tool that reports so many GPUs."""
    path.mkdir()
    file = path / "nvidia-smi"
    file.write_text("#!/bin/sh\n" + "".join(f"echo GPU-{i}\n" for i in range(gpus)))
    file.chmod(file.stat().st_mode | stat.S_IEXEC)
    return f"{path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("gpus", "visible", "count", "expected"),
    [
        (1, None, 2, [("GPU-0", 0.5)] * 2),
        (2, None, 2, [("GPU-0", 1), ("GPU-1", 1)]),
        (2, None, 3, [("GPU-0", 0.5), ("GPU-1", 1), ("GPU-0", 0.5)]),
        (4, "2,3", 2, [("2", 1), ("3", 1)]),
        (4, " GPU-3 ", 2, [("GPU-3", 0.5)] * 2),
        (8, "MIG-1f,MIG-2e,5", 3, [("MIG-1f", 1), ("MIG-2e", 1), ("5", 1)]),
        (8, "6,-1,7", 2, [("6", 0.5)] * 2),
        (2, "", 2, [(None, 1)] * 2),
        (0, "0", 2, [(None, 1)] * 2),
    ],
)
def test_workers_share_what_the_caller_may_use(tmp_path, monkeypatch, gpus, visible, count, expected):
    monkeypatch.setenv("PATH", tool(tmp_path / "bin", gpus))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    specs = [execnet.XSpec("popen") for _ in range(count)]
    workers.assign(specs, workers.usable_gpus("auto"))
    assert [(s.env.get("CUDA_VISIBLE_DEVICES"), workers.share_of(s, specs)) for s in specs] == expected
    assert all(("OMP_NUM_THREADS" in spec.env) == (expected[0][0] is None) for spec in specs)
    assert workers.usable_gpus("cpu") == []


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (["GPU-0"], [("GPU-0", 1 / 3)] * 3),
        (["GPU-0", "GPU-1"], [("GPU-0", 0.5), ("GPU-1", 1), ("GPU-0", 0.5)]),
        ([], [(None, 1)] * 3),
    ],
)
def test_a_worker_that_was_told_nothing_takes_its_part_by_its_number(monkeypatch, gpus, expected):
    for number, part in enumerate(expected):
        monkeypatch.setattr(os, "environ", {})
        told = {"workerid": f"gw{number}", "workercount": 3}
        workers.take(told, gpus)
        assert (os.environ.get("CUDA_VISIBLE_DEVICES"), told[workers.SHARE]) == part
        assert ("OMP_NUM_THREADS" in os.environ) == (not gpus)


def test_without_the_drivers_tool_there_are_no_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert workers.usable_gpus("auto") == []


def run(folder, gpus, body, *args):
    folder.write("test_show.py", body)
    environment = {**folder.environment(), "PATH": tool(folder.path / "bin", gpus)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        folder.command("test_show.py", *TINY, *args), cwd=folder.path, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    return done.stdout, {path.name[6:]: path.read_text() for path in folder.path.glob("shown-*")}


def test_auto_is_a_worker_for_every_gpu(folder):
    text, shown = run(folder, 3, SHOW, "-n", "auto", "--dist=each")
    assert "devices: 3 workers on 3 GPUs" in text
    assert shown == {"gw0": "GPU-0 1.0", "gw1": "GPU-1 1.0", "gw2": "GPU-2 1.0"}


def test_a_replaced_worker_keeps_its_device(folder):
    again = "".join(f"\ntest_show_{i} = test_show" for i in range(12))
    text, shown = run(folder, 2, SHOW + DIE + "\ntest_another = test_die" + again, "-n2")
    assert "'gw1' crashed" in text
    assert shown["gw0"] == "GPU-0 1.0"
    assert shown["gw2"] == "GPU-1 1.0"


LOST = """
from pathlib import Path
from harness.api import DeviceLost
from harness.trials.unlearning import Unlearning

make = Unlearning.make

def loses(self, trial, *args):
    once = Path("lost-once")
    if trial.cell.unlearner.name == "identity" and not once.exists():
        once.write_text("")
        raise DeviceLost("the GPU no longer responds")
    return make(self, trial, *args)

Unlearning.make = loses
"""


def test_a_lost_device_retires_the_worker_and_not_the_run(folder):
    folder.write("methods/losing.py", LOST)
    run = folder.pytest(*TINY, "--unlearner=identity", "-n2", "--audit-seeds=3", "-p", "losing")
    assert run.counts()["crashed"] == 1, run.text
    assert {key[2]: audit["verdict"] for key, audit in run.audits.items()}["poison"] == "FAIL"  # it does nothing
    assert "INTERNALERROR" not in run.text


def test_a_lost_device_stops_a_run_of_one_process_with_a_sentence(folder):
    folder.write("methods/losing.py", LOST)
    run = folder.pytest(*TINY, "--unlearner=identity", "-n0", "--audit-seeds=3", "-p", "losing")
    assert run.code == 3
    assert "the GPU no longer responds; run again: everything finished is stored" in run.text
    again = folder.pytest(*TINY, "--unlearner=identity", "-n0", "--audit-seeds=3")
    assert again.audits["identity", "backdoor:size=1", "poison"]["verdict"] == "FAIL"
