"""What tests of the store share: a maker that counts, and where its artefacts lie."""

import torch

from harness.store.artefacts import key_of

OF = {"seed": 0}


class Maker:
    """Makes an artefact and counts how often it had to."""

    def __init__(self, value=1.0, tensors=True):
        self.calls = 0
        self.value, self.tensors = value, tensors

    def __call__(self):
        self.calls += 1
        return {"value": self.value}, {"w": torch.full((3, 4), self.value)} if self.tensors else None


def obtain(store, make, of=OF, trial="trial"):
    return store.obtain("model", of, make, trial)


def files(store, suffix=""):
    return sorted(p for p in store.root.rglob("*") if p.is_file() and p.name.endswith(suffix))


def record_of(store, of=OF):
    (path,) = store.root.glob(f"records/*/{key_of('model', of)}.json")
    return path


def blob_of(store):
    (path,) = files(store, ".safetensors")
    return path
