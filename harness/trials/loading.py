"""The models of a trial, out of the store."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.api import Planted, UnlearningError
from harness.cells import Trial
from harness.isolated import method as isolation
from harness.store.artefacts import patiently
from harness.trials.lab import Lab, new_run

if TYPE_CHECKING:
    from torch import nn

    from harness.training.data import Split


NAMES = {"P": "poisoned", "R": "retrained", "U": "unlearned"}


@dataclass(frozen=True)
class LoadedModels:
    """The models of a trial, with what they were trained and are tested on.

    Attributes:
        P, R, U: The poisoned, the retrained and the unlearned model, in eval mode; copies that may be changed.
        planted: What was planted: indices, poisoned inputs and labels, and the auditor's secrets, on the CPU.
        split: The task's data, on the models' device; ``split.train`` is clean, and
            ``split.train.poisoned_with(planted)`` is what P was trained on. R was trained on
            ``split.train.retained_with(planted)``, which has a poison that stays, without ``planted.forget``.
        seed: The seed.
    """

    P: nn.Module
    R: nn.Module
    U: nn.Module
    planted: Planted
    split: Split
    seed: int


def load_models(
    unlearner: str | Callable[..., Any],
    *,
    task: str = DEFAULTS["task"],
    poison: str,
    seed: int,
    budget: float = DEFAULTS["budget"],
    discovery: float = DEFAULTS["discovery"],
    store: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "cpu",
    made_on: str = "cpu",
    train: bool = False,
    isolated: bool = False,
) -> LoadedModels:
    """Load the poisoned, the retrained and the unlearned model of one trial, e.g. of the worst seed of a failed audit.

    ``harness.load_models("scrub", poison="gaussian", seed=2).U``. A failing audit prints this line for its worst seed.

    Args:
        unlearner: A spec as on the command line, or a callable.
        task: Spec of a task.
        poison: Spec of a poison.
        seed: Which trial; audits use 0 to 15, or drawn ones.
        budget: Compute the unlearner was given, as a fraction of retraining.
        discovery: Share of the poisoned points that it was told of, in (0, 1].
        store: Directory or URL of what was trained; None for the user's cache directory.
        data: Directory with data sets, for tasks that read files.
        device: Where the models are put: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        made_on: Where they were trained, ``"cpu"`` or ``"cuda"``.
        train: Whether to make what the store does not have, where ``made_on`` is the device at hand.
        isolated: Whether the unlearned model was made in a process of its own (``--audit-isolated``).

    Raises:
        UnlearningError: Something named cannot be found or used, or the store lacks a model and ``train`` is False.
        ValueError: ``budget``, ``discovery`` or ``made_on`` is out of range.
        Exception: Whatever the unlearner raised, with ``train``.
    """
    if not budget > 0 or not 0 < discovery <= 1 or made_on not in ("cpu", "cuda"):
        raise ValueError("budget must be positive, discovery lie in (0, 1], and made_on be 'cpu' or 'cuda'")
    method = isolation.method(unlearner) if isolated else registry.method(unlearner)
    if not train and store is not None and "://" not in str(store) and not Path(store).expanduser().is_dir():
        raise UnlearningError(f"found no store at {store}")
    (cell,) = registry.cells([method], [registry.resolve("task", task)], [poison], discovery)
    trial = Trial(cell, seed)
    lab = Lab.open(store, data=data, device=device, budget=budget, run=new_run("models"), made_on=made_on)
    if train and lab.bench.kind != made_on:
        raise UnlearningError(f"models that are made on {made_on} cannot be trained here, with device={device!r}")

    def stored() -> tuple[Planted, dict[str, nn.Module]]:
        if train:
            lab.models(trial)
        planted, found = lab.stored(trial)
        if planted is None or len(found) < len(NAMES):
            missing = [name for arm, name in NAMES.items() if arm not in found]
            lacking = "nothing" if planted is None else f"no {' and no '.join(missing)} model"
            raise UnlearningError(
                f"the store {lab.store.root} has {lacking} of {trial.id}, made on {made_on} with a budget of "
                f"{budget:g} by this version of the code and of torch; audit it first, name the store with store=, or "
                "make it here with train=True"
            )
        return planted, {arm: copy.deepcopy(lab.model(cell.task, artefact)) for arm, artefact in found.items()}

    planted, models = patiently(stored)
    return LoadedModels(**models, planted=planted, split=lab.split(cell.task), seed=seed)
