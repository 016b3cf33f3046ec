"""Methods that cheat or break, for processes of their own. Nothing here is to be called in the judge's process."""

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

CALLS = []


def counts(model, request):
    """Keep state: the second call of one process would return other weights."""
    CALLS.append(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(len(CALLS))
    return model


def certifies_one_number(model, request):
    return model


certifies_one_number.certifies = 1.0


def certifies_nothing_known(model, request):
    return model


certifies_nothing_known.certifies = object()


def patches(model, request):
    from harness.judging import judge
    from harness.training.meter import Meter

    judge.judge = None
    Meter.__exit__ = lambda *_: None
    return model


def sleeps(model, request):
    time.sleep(1000)


def waits_for_a_child(model, request):
    subprocess.run(["/bin/sleep", "1000"], check=True)
    return model


def leaves_a_child(model, request):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", "54321"])
        os._exit(0)
    return model


def allocates(model, request):
    kept = []
    while True:
        kept.append(torch.ones(1 << 22))


def hoards(model, request):
    kept = []
    while True:
        kept.append(bytes(1 << 24))


def exits(model, request):
    os._exit(0)


def really_exits(model, request):
    print("good bye", file=sys.stderr, flush=True)
    ctypes.CDLL(None)._exit(0)


def crashes(model, request):
    ctypes.string_at(0)


def raises(model, request):
    raise KeyError("no such thing")


def reads(model, request):
    return os.listdir("/")


def writes_temporary_files(model, request):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        Path(folder, "notes.txt").write_text("a step")
        file.write(b"another one")
    return model


def fakes(model, request):
    """Leave a link where the answer is to be, to a file that only the judge can read."""
    os.symlink(Path(__file__).with_name("conftest.py"), "plain.json")
    ctypes.CDLL(None)._exit(0)


def hands_out_links(model, request):
    os.symlink("/proc/self/environ", "tensors.safetensors")
    Path("plain.json").write_text('{"examples": 0, "steps": 0, "flops": 0, "seconds": 0}')
    ctypes.CDLL(None)._exit(0)


def computes_elsewhere(model, request):
    for _ in range(2):
        if os.fork() == 0:
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass
            os._exit(0)
    for _ in range(2):
        os.wait()
    return model


def other_network(model, request):
    return torch.nn.Linear(3, 3)


def looks_up_its_request(model, request):
    """Say by the weights how many points there were, and which epochs of the history."""
    value = float(len(request.retain) + 1000 * len(request.forget) + sum(request.history))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


looks_up_its_request.history = lambda epochs: [0, epochs]
