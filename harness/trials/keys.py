"""What determines the bytes of each artefact.

A key holds the code that trains, unlearns and reads, and no other: whoever edits a sentence, an option or the rule of
a verdict makes no stored model and no reading stale. Which seeds, points and budget a model is made with stands in its
key as values; an edit of how `harness.trials` chooses them goes with a new name or value there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.api import UnlearningError, declares
from harness.cells import REMAINING, Registered, Trial, traces_of
from harness.trials.devices import torch_version

if TYPE_CHECKING:
    from harness.store.artefacts import Artefact
    from harness.store.inventory import Record
    from harness.trials.planting import PlantedIn

HERE = Path(__file__).resolve().parent.parent

#: Our code, by what it makes: modules by their place below ``harness``. Every module of ``training`` is in one group.
GROUPS: Mapping[str, tuple[str, ...]] = {
    # P, R, what is planted; and U, together with the second group.
    "training": (
        "training/data",
        "training/seeds",
        "training/loop",
        "training/engine",
        "training/isolation",
        "training/clock",
    ),
    "recording": ("training/graphs",),  # on a GPU alone
    "unlearning": ("training/meter", "training/operations", "training/roundtrip", "training/unlearning"),
    "planting": ("trials/planting",),  # which of the planted points are handed over, and hashes of that
    "accuracy": ("trials/accuracy",),
    "nearness": ("trials/nearness",),
    "sameness": ("trials/sameness",),
    "metrics": ("trials/metrics", "trials/language", "trials/questions"),
    "relearning": ("trials/relearning",),
    "contract": ("contract/checks", "contract/grounds", "contract/requests", "contract/watching"),
    "guards": ("guards/clock", "guards/events", "guards/guard", "guards/patches", "guards/running", "guards/settings"),
}


def made_by(*groups: str) -> dict[str, Any]:
    """Return the torch and the groups of our code that make an artefact, as its record names them."""
    return {"torch": torch_version(), "code": {group: code_of(group) for group in groups}}


def _trained(on: Mapping[str, Any], *groups: str) -> dict[str, Any]:
    """As `made_by`, of what is trained on a kind of device."""
    return made_by("training", *(["recording"] if on["device"] == "cuda" else []), *groups)


@functools.cache
def code_of(group: str) -> str:
    """Return the SHA-256 of a group of our modules, hexadecimal."""
    return hashlib.sha256(b"\0".join((HERE / f"{name}.py").read_bytes() for name in GROUPS[group])).hexdigest()


def data(task: Registered, files: Mapping[str, str]) -> dict[str, Any]:
    """Return what a task's data depend on, given what it says of its files."""
    return {"task": task.identity, "files": dict(files)} | made_by("training")


def planted(on: Mapping[str, Any], trial: Trial) -> dict[str, Any]:
    """Return what the planted set of a trial depends on.

    Args:
        on: Here and below: the task, the hash of its data and the kind of device, as `Bench.on` gives them.
        trial: The trial.
    """
    return {**on, "poison": trial.cell.poison.identity, "seed": trial.seed} | _trained(on)


def told(on: Mapping[str, Any], trial: Trial, blob: str) -> dict[str, Any]:
    """Return what depends on which of the planted points the unlearner is told of."""
    return {**on, "planted": blob, "discovery": trial.cell.discovery, "seed": trial.seed} | made_by("planting")


def surrogate(on: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return what a model depends on that an attacker trained on clean data."""
    return {**on, "surrogate": seed} | _trained(on)


def model(on: Mapping[str, Any], trial: Trial, planted: PlantedIn, arm: str, budget: float) -> dict[str, Any]:
    """Return what a model's weights depend on; models that depend on the same are one.

    R never depends on the unlearner, nor on the poison beyond the points that it took. Nor does a method that works
    from scratch, unless undiscovered poison is left in what it is given.
    """
    common = {**on, "seed": trial.seed} | _trained(on)
    if arm == "P":
        return common | {"poisoned": planted.poisoned}
    if arm == "R":
        return common | {"retained": planted.retained}
    if arm == REMAINING:
        return common | {"poisoned": planted.seen, "remaining": planted.remaining}
    method = trial.cell.unlearner
    start = {"retained": planted.retained}
    if not declares(method.value, "from_scratch"):
        start |= {"poisoned": planted.poisoned}
    if trial.cell.discovery < 1:
        start |= {"poisoned": planted.poisoned, "remaining": planted.remaining}
    return common | start | {"method": method.identity, "budget": budget} | _trained(on, "unlearning")


def poison(on: Mapping[str, Any], trial: Trial, planted: PlantedIn, model: Artefact) -> dict[str, Any]:
    """Return what the reading of the poison's measures depends on; the model is what its weights are."""
    of = {"measures": [each.name for each in traces_of(trial.cell.poison)], "poison": trial.cell.poison.identity}
    return _reading(on, model) | of | {"planted": planted.blob} | made_by()


def accuracy(on: Mapping[str, Any], model: Artefact) -> dict[str, Any]:
    """Return what the reading of a model's accuracy depends on."""
    return _reading(on, model) | {"measure": "accuracy"} | made_by("accuracy")


def nearness(on: Mapping[str, Any], model: Artefact, retrained: Artefact) -> dict[str, Any]:
    """Return what the distance of a model from a retrained one depends on."""
    return _reading(on, model) | {"measure": "nearness", "retrained": retrained.blob} | made_by("nearness")


def answers(on: Mapping[str, Any], planted: PlantedIn, model: Artefact) -> dict[str, Any]:
    """Return what the hash of a model's answers depends on."""
    return _reading(on, model) | {"measure": "answers", "planted": planted.blob} | made_by("sameness")


def relearning(on: Mapping[str, Any], trial: Trial, planted: PlantedIn, model: Artefact) -> dict[str, Any]:
    """Return what the reading of the poison's measure after relearning depends on."""
    of = {"measure": "relearning", "poison": trial.cell.poison.identity, "seed": trial.seed}
    return _reading(on, model) | of | {"planted": planted.blob} | _trained(on, "relearning")


def heuristics(
    on: Mapping[str, Any],
    planted: Sequence[PlantedIn],
    models: Sequence[Mapping[str, Artefact]],
    asking: Registered | None = None,
) -> dict[str, Any]:
    """Return what the usual metrics of several seeds depend on; ``asking`` is the poison, if it has questions."""
    blobs = [{arm: of[arm].blob for arm in of} for of in models]
    of_poison = {} if asking is None else {"poison": asking.identity}
    return {**on, "planted": [each.blob for each in planted], "models": blobs} | of_poison | made_by("metrics")


def contract(
    method: Registered, line: str, budget: float, epochs: int, task: Registered | None = None, data: str = ""
) -> dict[str, Any]:
    """Return what the finding on a line of the contract depends on; hypothesis draws the requests.

    Args:
        method: The method.
        line: Name of the line.
        budget: Compute it may use, in passes over the retain set.
        epochs: Passes of the training that it undoes.
        task: The task on whose models and data it is examined, if it is on one's.
        data: The hash of these data.
    """
    of: dict[str, Any] = {"contract": line, "method": method.identity, "budget": budget, "epochs": epochs}
    if task is not None:
        of |= {"task": task.identity, "data": data}
    return of | {"hypothesis": metadata.version("hypothesis")} | made_by("training", "unlearning", "contract", "guards")


def _reading(on: Mapping[str, Any], model: Artefact) -> dict[str, Any]:
    return {**on, "model": model.blob, "finite": model.info["finite"]}


def stale(record: Record) -> bool:
    """Say that no run of this installation can find the artefact: other code made it, or another torch.

    What belongs to a plugin that is not installed here is never stale. A record is not believed: what it names is
    looked up among what is registered, and never imported on its word.
    """
    code = record.of.get("code", {})
    if record.of.get("torch", torch_version()) != torch_version() or not isinstance(code, dict):
        return True
    if any(group not in GROUPS or code_of(group) != made for group, made in code.items()):
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
    """Return the source of what is registered under a name; None if nothing is, or it cannot be made without fields."""
    if name not in registry.available(kind):
        return None
    try:
        return registry.resolve(kind, name).source
    except UnlearningError:
        return None
