"""Examine a line of the contract; what was found of an unchanged method is not examined again."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError, declares, serves
from harness.contract import confined
from harness.contract.lines import BrokenContract, Clause, NotExamined
from harness.store.artefacts import Artefact, Store, patiently
from harness.trials import keys
from harness.trials.datasets import Datasets

if TYPE_CHECKING:
    import torch

    from harness.cells import Registered


@functools.lru_cache(maxsize=4)
def on_cpu(store: Store, folder: Path | None = None) -> Datasets:
    """Return the data of tasks as the contract needs them, on the CPU; each task's are loaded once.

    Args:
        store: Where hashes of data are kept.
        folder: Data sets for tasks that read files, or None.
    """

    def device(task: Registered) -> torch.device:
        import torch

        return torch.device("cpu")

    return Datasets(store, folder, device)


def examine(clause: Clause) -> None:
    """Assert one line of the contract.

    Raises:
        BrokenContract: It does not hold.
        NotExamined: Nothing could be said, because the method raised or is for other inputs than images.
    """
    method = clause.method.value
    if clause.task is None and not serves(method, "image"):
        served = declares(method, "modality")
        named = served if isinstance(served, str) else " and ".join(served)
        raise NotExamined(f"it serves only {named} tasks, and the contract is checked on images")
    store = clause.store
    if store is None:
        _check(clause)
        return
    data = ""
    if clause.task is not None:
        datasets = clause.datasets or on_cpu(store)
        data = datasets.fingerprint(clause.task)
        clause = replace(clause, datasets=datasets)
    of = keys.contract(clause.method, clause.line, clause.budget, clause.epochs, clause.task, data)
    found = patiently(lambda: store.obtain("contract", of, lambda: (_found(clause), None), str(clause), _is_found))
    if found.info["broken"]:
        raise BrokenContract(clause.line, found.info["broken"], found.info["request"])


def _found(clause: Clause) -> dict[str, Any]:
    """Return what is stored of a line.

    Raises:
        BrokenContract: It is broken by an error that is not the method's refusal, such as a missing library: what comes
            of its surroundings may be otherwise next time, and is not stored.
        NotExamined: Nothing could be said.
    """
    try:
        _check(clause)
    except BrokenContract as broken:
        if not isinstance(broken.__cause__, UnlearningError | None):
            raise
        return {"broken": str(broken), "request": broken.request}
    return {"broken": "", "request": ""}


def _check(clause: Clause) -> None:
    if clause.method.isolated:
        confined.check(clause)
        return
    from harness.contract.checks import check

    check(clause)


def _is_found(artefact: Artefact) -> None:
    if not all(isinstance(artefact.info[name], str) for name in ("broken", "request")):
        raise TypeError("what was found of a line is a sentence")
