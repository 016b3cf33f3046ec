"""Methods that remember: what they return depends on what they were asked before."""

import sys
import tempfile
from pathlib import Path

import torch

SEEN = []


def mean_of(states, model):
    model.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    return model


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def in_a_global(model, request):
    SEEN.append(copy_of(model))
    return mean_of(SEEN, model)


def in_sys(model, request):
    sys.modules.setdefault("kept_by_a_cheat", type(sys)("kept_by_a_cheat")).__dict__.setdefault("seen", []).append(
        copy_of(model)
    )
    return mean_of(sys.modules["kept_by_a_cheat"].seen, model)


def in_a_file(model, request):
    folder = Path(tempfile.gettempdir()) / "kept-by-a-cheat"
    folder.mkdir(exist_ok=True)
    torch.save(copy_of(model), folder / f"{len(list(folder.iterdir()))}.pt")
    return mean_of([torch.load(path) for path in sorted(folder.iterdir())], model)
