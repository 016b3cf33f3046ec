"""What is asked of an isolated process. Each job returns plain values and tensors."""

from __future__ import annotations

import contextlib
import inspect
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.api import DECLARATIONS, ContractError, UnlearningError, declares
from harness.calling import PluginExit, out_of_memory
from harness.cells import Registered
from harness.importing import trace
from harness.sources import factory_of
from harness.specs import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.training.data import Data

Answer = tuple[dict[str, Any], "Mapping[str, Tensor]"]
#: Errors that are raised as what they are on the other side.
KNOWN: dict[str, type[Exception]] = {
    each.__name__: each for each in (ContractError, PluginExit, SpecError, UnlearningError)
}
#: What a meter measured; `Measured` on the other side has the same.
MEASURED = ("examples", "steps", "flops", "seconds")


@dataclass(frozen=True)
class Job:
    """One thing that is asked.

    Attributes:
        function: What does it.
        spec: Of the method.
        folder: Working directory of the command, in which modules are found.
        task: The task, or None.
        arguments: Plain values.
        tensors: Tensors by name, on the CPU.
    """

    function: Callable[[Job], Answer]
    spec: str
    folder: str
    task: Registered | None
    arguments: dict[str, Any]
    tensors: Mapping[str, Tensor]

    def method(self) -> Registered:
        """Import the method, and return it."""
        return resolved("unlearner", self.spec, self.folder)

    def parts(self, of: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin so, by the rest of their names."""
        return {name.removeprefix(f"{of}."): t for name, t in self.tensors.items() if name.startswith(f"{of}.")}


def resolved(kind: registry.Kind, spec: str, folder: str) -> Registered:
    """Return what a spec names in a folder; this process stays in its own."""
    own = os.getcwd()
    os.chdir(folder)
    try:
        return registry.resolve(kind, spec, hashed=False)
    finally:
        os.chdir(own)


def describe(job: Job) -> Answer:
    """Say what a method is: what the judge would otherwise have to import it for."""
    found = job.method()
    said: dict[str, Any] = {name: declares(found.value, name) for name in DECLARATIONS}
    plain: dict[str, Any] = {}
    plain |= {name: value for name, value in said.items() if isinstance(value, bool | int | float | str | None)}
    asked = callable(said["history"])
    if not asked and said["history"] is not None:
        plain |= {"history": list(said["history"])}
    if said["certifies"] is not None:
        plain |= {"certifies": list(map(float, said["certifies"]))}
    owner = factory_of(found.value)
    line = 0
    with contextlib.suppress(OSError, TypeError):
        line = inspect.getsourcelines(owner)[1]
    made = {name: getattr(found, name) for name in ("id", "name", "distribution", "version", "file")}
    depends_on = declares(found.value, "depends_on") or declares(owner, "depends_on")
    made["depends_on"] = [depends_on] if isinstance(depends_on, str) else list(depends_on)
    return {**made, "line": line, "fields": dict(found.fields), "declares": plain, "asked": asked}, {}


def history(job: Job) -> Answer:
    """Say which epochs a method wants, of so many."""
    wanted = declares(job.method().value, "history")(job.arguments["epochs"])
    return {"epochs": list(wanted)}, {}


def unlearn(job: Job) -> Answer:
    """Have the method remove the forget set from the model, as `harness.training.unlearning.unlearn` does."""
    import torch

    from harness.training import unlearning
    from harness.training.data import Data

    assert job.task is not None
    arguments = dict(job.arguments)
    device = torch.device(arguments.pop("device"))
    torch.set_num_threads(job.task.value.threads)

    def data(of: str) -> Data:
        return Data(job.parts(f"{of}.inputs"), job.tensors[f"{of}.labels"]).to(device)

    checkpoints = {
        epoch: {name: t.to(device) for name, t in job.parts(f"history.{epoch}").items()}
        for epoch in arguments.pop("history")
    }
    model, meter = unlearning.unlearn(
        job.method(), job.task.value, job.parts("model"), data("retain"), data("forget"), history=checkpoints,
        **arguments,
    )  # fmt: skip
    return {name: getattr(meter, name) for name in MEASURED}, model.state_dict()


def error_of(error: BaseException) -> dict[str, Any]:
    """Return an exception as plain values."""
    name, text = type(error).__name__, str(error)
    if out_of_memory(error):
        name = "MemoryError"
    elif type(error) not in KNOWN.values():
        known = [each.__name__ for each in KNOWN.values() if isinstance(error, each)]
        name = known[0] if known else name
    lines = trace(error.__cause__) if isinstance(error, SpecError) else []
    return {
        "name": name,
        "text": "\n".join([text, *lines]),
        "line": getattr(error, "line", ""),
        "trace": "".join(traceback.format_exception(error)),
    }
