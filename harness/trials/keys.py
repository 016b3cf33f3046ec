"""What determines the bytes of each artefact."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch

from harness import registry
from harness.api import UnlearningError
from harness.store.inventory import Record

HERE = Path(__file__).resolve().parent.parent


def stale(record: Record) -> bool:
    """Say whether this installation would look for the artefact in vain: made by other code, or with another torch.

    What belongs to a plugin that is not installed here is never stale. A record is not believed: what it names is
    looked up among what is registered, and never imported on its word.
    """
    if any(record.of.get(name, now) != now for name, now in sources().items()):
        return True
    parts: dict[registry.Kind, Any] = {"task": "task", "poison": "poison", "unlearner": "method"}
    for kind, part in parts.items():
        identity = record.of.get(part)
        if isinstance(identity, dict):
            source = source_of_registered(kind, str(identity.get("name")))
            if source not in (None, identity.get("source")):
                return True
    return False


@functools.cache
def source_of_registered(kind: registry.Kind, name: str) -> str | None:
    """Return the source of what is registered under a name; None where nothing is, or cannot be made without fields."""
    if name not in registry.available(kind):
        return None
    try:
        return registry.resolve(kind, name).source
    except UnlearningError:
        return None


def sources() -> dict[str, str]:
    """Return what of this installation artefacts depend on, under the names by which their records say so."""
    return {
        "torch": torch.__version__,
        "code": code_of("training/loop", "training/isolation", "training/data", "training/seeds"),
        "harness": code_of("api", "training/meter", "training/unlearning", "trials/planting", "trials/readings"),
        "heuristics": code_of("trials/metrics"),
        "relearning": code_of("trials/relearning"),
    }


def code_of(*modules: str) -> str:
    """Return the SHA-256 of modules of ours, named by their place below ``harness``."""
    return hashlib.sha256(b"\0".join((HERE / f"{name}.py").read_bytes() for name in modules)).hexdigest()
