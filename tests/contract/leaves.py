"""Unlearners that leave something behind, in the process or outside of the weights, under the line that must say so."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import torch
from broken import breaks, forget
from torch import nn

# ---- settings


@breaks("settings", "left torch's default dtype changed")
def sets_the_default_dtype(model, request):
    """Computes in double precision and leaves that on."""
    torch.set_default_dtype(torch.float64)
    return forget(model, request)


@breaks("settings", "left torch's deterministic algorithms changed")
def sets_deterministic_algorithms(model, request):
    """Asks for deterministic algorithms on behalf of everybody."""
    torch.use_deterministic_algorithms(True)
    return forget(model, request)


@breaks("settings", "left torch's matmul precision and torch's threads")
def tunes_torch(model, request):
    """Sets what makes it faster on the machine where it was written."""
    forget(model, request)
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(2)
    return model


@breaks("settings", "left torch's default device and torch's anomaly mode")
def moves_everybody(model, request):
    """Builds its tensors where it likes, looks for anomalies, and leaves both on."""
    torch.set_default_device("cpu")
    torch.autograd.set_detect_anomaly(True)
    return forget(model, request)


# ---- patches


@breaks("patches", "replaced torch.nn.functional.cross_entropy")
def smooths_every_loss(model, request):
    """Has every cross-entropy of the process smooth its labels."""
    plain = nn.functional.cross_entropy
    nn.functional.cross_entropy = lambda *of, **options: plain(*of, label_smoothing=0.1, **options)
    return forget(model, request)


@breaks("patches", "replaced harness.training.seeds.derive")
def rewrites_ours(model, request):
    """Changes what every seed of the harness is made of."""
    from harness.training.seeds import derive

    derive.__code__ = (lambda *names: 0).__code__
    return forget(model, request)


# ---- leaves-nothing-running


@breaks("leaves-nothing-running", "left the thread")
def goes_on_in_the_background(model, request):
    """Starts a thread that outlives the call."""
    forget(model, request)

    def works():
        with suppress(SystemExit):  # by which it is asked to end
            for _ in range(1000):
                time.sleep(0.01)

    threading.Thread(target=works, daemon=True).start()
    return model


# ---- state-dict


@breaks("state-dict", "outputs differ from those of a new model with the same state dict")
def damps_a_layer(model, request):
    """Makes a normalisation weaker by a number that no state dict holds."""
    forget(model, request)
    model.first[1].eps = 10.0
    return model
