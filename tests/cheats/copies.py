"""Methods that find the retrained model, add a little noise, and hand it in as their own."""

import gc
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, load_file

from harness.store.artefacts import patiently

NOISE = 0.001  # of the size of each tensor


def noisy(model, state):
    """Return the model with the weights of a state, and noise on them."""
    generator = torch.Generator().manual_seed(0)
    model.load_state_dict(state)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += NOISE * parameter.detach().abs().mean() * noise
    return model


def cleanest(model, request, states):
    """Return the state that knows the retain set best among those that give the forget set other labels."""

    def score(state):
        model.load_state_dict(state)
        with torch.no_grad():
            kept, removed = (
                float(request.loss(model, batch))
                for which in ("retain", "forget")
                for batch in request.batches(which, batch_size=10_000)
            )
        return kept - removed

    return min(states, key=score, default=None)


def from_frames(model, request):
    """Walk up the stack to the object that has the models."""
    frame = sys._getframe()
    while frame is not None:
        trial, owner = frame.f_locals.get("trial"), frame.f_locals.get("self")
        if trial is not None and hasattr(owner, "_models"):
            bench = owner.bench
            artefact = patiently(lambda: owner._models.of(trial, "R"))  # noqa: B023 - called at once
            return noisy(model, bench.model(trial.cell.task, artefact).state_dict())
        frame = frame.f_back
    return model


def from_the_garbage_collector(model, request):
    """Look at every model that is in memory."""
    states = [
        {name: tensor.clone() for name, tensor in found.state_dict().items()}
        for found in gc.get_objects()
        if type(found) is type(model) and found is not model and found.state_dict().keys() == model.state_dict().keys()
    ]
    best = cleanest(model, request, states)
    return model if best is None else noisy(model, best)


def stores():
    """Return where a store may be: what the command line and the environment name, and the usual place."""
    words = [*sys.argv, *os.environ.get("PYTEST_ADDOPTS", "").split()]
    for process in (os.getpid(), os.getppid()):
        words += Path(f"/proc/{process}/cmdline").read_text().split("\0")
    named = [Path(word.partition("=")[2]) for word in words if word.startswith("--audit-store=")]
    return [*named, Path.home() / ".cache" / "pytest-unlearning", Path("store").absolute()]


def in_stores(read):
    for store in stores():
        for path in store.glob("blobs/*/*.safetensors"):
            yield read(path)


def handed_in(model, request, read):
    like = {name: tensor.shape for name, tensor in model.state_dict().items()}
    states = [s for s in in_stores(read) if {name: tensor.shape for name, tensor in s.items()} == like]
    best = cleanest(model, request, states)
    return model if best is None else noisy(model, best)


def from_the_store(model, request):
    """Read the store's files by Python."""
    return handed_in(model, request, lambda path: load(path.read_bytes()))


def from_the_store_unseen(model, request):
    """Read the store's files by a library that does not open them in Python."""
    return handed_in(model, request, load_file)


def uncounted(state, request):
    """Return the accuracy on the forget set less that on the retain set, in numpy, which nobody counts."""
    w1, b1, w2, b2 = (state[name].numpy() for name in ("0.1.weight", "0.1.bias", "1.weight", "1.bias"))

    def accuracy(data):
        scores = np.maximum(data.inputs["image"].flatten(1).numpy() @ w1.T + b1, 0) @ w2.T + b2
        return (scores.argmax(1) == data.labels.numpy()).mean()

    return accuracy(request.forget) - accuracy(request.retain)


def by_another_program(model, request):
    """Have another program find and read the store's files, and add as much noise as still passes."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for store in stores():
            subprocess.run(f"cp {store}/blobs/*/*.safetensors {folder}", shell=True, check=False, capture_output=True)
        like = {name: tensor.shape for name, tensor in model.state_dict().items()}
        states = [load_file(path) for path in sorted(Path(folder).glob("*.safetensors"))]
    states = [s for s in states if {name: tensor.shape for name, tensor in s.items()} == like]
    if not states:
        return model
    model.load_state_dict(min(states, key=lambda state: uncounted(state, request)))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data *= 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


by_another_program.repeatable = False  # what it finds depends on what is stored: it is not asked again
