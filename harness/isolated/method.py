"""A method that the judge has never imported: what it said of itself, and how it is asked for a model."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.api import DECLARATIONS, ContractError, UnlearningError, declares
from harness.calling import PluginError
from harness.cells import Cell, Registered
from harness.conventions import has_own_loop
from harness.importing import DOTTED
from harness.isolated import process, walls
from harness.isolated.process import Answer, Limits
from harness.sources import IN_TREE, ROOT, Reached, source_of_module
from harness.specs import SpecError, names_file, split

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.data import Data

#: The module of the controls, which are ours: they run where everything else does.
CONTROLS = "unlearners.controls"
#: What the server imports, so that the jobs find it done: what trains, and what torch's optimisers import in the end.
TRAINING = ("harness.training.unlearning", "harness.training.loop", "torch._dynamo")
#: Libraries of which it imports what this process has imported.
LIBRARIES = ("peft", "torchvision", "transformers")
#: What it imports for a method that reaches a library, by its distribution: it takes seconds, for which the method is
#: charged otherwise.
REACHED = {"accelerate": "accelerate", "transformers": "transformers.trainer"}
#: Source, what is reached, files that are depended on.
_Source = tuple[str, Reached, tuple[Path, ...]]


@dataclass(frozen=True)
class StandIn:
    """What stands for a method in the judge's process.

    Attributes:
        spec: What names it.
        line: The line of its file where it is defined.
    """

    spec: str
    line: int = 0
    declared: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        if name in DECLARATIONS:
            return self.__dict__["declared"].get(name, DECLARATIONS[name])
        raise AttributeError(name)

    def __call__(self, model: nn.Module, request: object) -> nn.Module:
        """Refuse to be called here."""
        raise UnlearningError(f"the unlearner {self.spec!r} runs isolated, and cannot be called in this process")


@dataclass(frozen=True)
class Measured:
    """What an isolated unlearning cost.

    Attributes:
        examples, steps, flops, seconds: As `harness.training.meter.Meter` counts them, in the method's process.
        cpu_seconds: CPU time of all its processes, the method's import included, measured outside of them; on a GPU,
            ``seconds``.
    """

    examples: float
    steps: int
    flops: int
    seconds: float
    cpu_seconds: float


def resolve(spec: str) -> Registered:
    """Return the method that a spec names, without importing it; one of our controls as it is.

    Raises:
        SpecError: As `harness.registry.resolve`.
        UnlearningError: It cannot be isolated, on this system or at all.
    """
    if module_of("unlearner", spec) == CONTROLS:
        return registry.resolve("unlearner", spec)
    if names_file(split(spec)[0]):
        raise UnlearningError(f"the unlearner {spec!r} cannot be isolated: it needs its pipeline's own code")
    try:
        said = _ask("describe", spec).plain
        declared = dict(said["declares"])
        if said["asked"]:
            declared["history"] = lambda epochs: _history(spec, epochs)
        declared["depends_on"] = tuple(map(str, said["depends_on"]))
        if isinstance(declared.get("certifies"), list):
            declared["certifies"] = tuple(declared["certifies"])
        value = StandIn(str(said["id"]), int(said["line"]), declared)
        parts = [source for source, _, _ in _sources("unlearner", spec, declared["depends_on"], strictly=True)]
        source = parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()
        names = [str(said[name]) for name in ("name", "distribution", "version", "file")]
        fields = dict(said["fields"])
    except (PluginError, KeyError, TypeError, ValueError) as error:  # it declares what nobody can read
        raise SpecError(f"the unlearner {spec!r} cannot be described: {error}") from error
    name, distribution, version, file = names
    return Registered("unlearner", value.spec, name, value, fields, distribution, version, source, file, isolated=True)


def method(unlearner: str | Callable[..., Any]) -> Registered:
    """Return the method that a spec names; a callable is refused, because it is in this process already.

    Raises:
        SpecError: As `harness.registry.resolve`.
        UnlearningError: It is a callable, or this system cannot isolate it.
    """
    if not isinstance(unlearner, str):
        raise UnlearningError(
            f"{getattr(unlearner, '__name__', unlearner)!s} is a callable of this process and cannot be isolated; name "
            "the method by a spec, such as 'mymodule:forget'"
        )
    return resolve(unlearner)


def require_separate(cells: Iterable[Cell]) -> None:
    """Refuse an isolated method if this process, which judges, has imported it, or imports it with a task or poison.

    Raises:
        UnlearningError: It does, or nobody knows which module the method is in.
    """
    for cell in cells:
        if not cell.unlearner.isolated:
            continue
        if has_own_loop(cell.task.value):
            raise UnlearningError(
                f"the unlearner {cell.unlearner.id!r} cannot be isolated on {cell.task.id!r}, whose models are read by "
                "code of its own"
            )
        who = f"the unlearner {cell.unlearner.id!r} cannot be isolated"
        if module_of("unlearner", cell.unlearner.id) is None:
            raise UnlearningError(f"{who}: its module is unknown")
        others: tuple[tuple[registry.Kind, Registered], ...] = (("task", cell.task), ("poison", cell.poison))
        for own in _modules("unlearner", cell.unlearner.id):
            if own.partition(".")[0] in IN_TREE:  # ours can be trusted, but not what our adapters adapt
                continue
            for kind, other in others:
                if any(own in reached.modules for _, reached, _ in _sources(kind, other.id)):
                    raise UnlearningError(
                        f"{who}: the {kind} {other.id!r} imports its module; move it to one of its own"
                    )
            if own in sys.modules:
                raise UnlearningError(f"{who}: this process has imported its module; run it in another process")


def unlearn(
    of: Registered,
    task: Registered,
    poisoned: Mapping[str, Tensor],
    retain: Data,
    forget: Data,
    *,
    history: Mapping[int, Mapping[str, Tensor]],
    limits: Limits,
    **plain: Any,
) -> tuple[nn.Module, Measured]:
    """Have a method remove the forget set in a process of its own; as `harness.training.unlearning.unlearn`.

    Args:
        of: The method.
        task: The task.
        poisoned: As there, like the next three.
        retain: The points to keep.
        forget: The points to remove.
        history: Checkpoints by epoch.
        limits: What the process may use.
        plain: The other arguments of that function.

    Raises:
        UnlearningError: The method broke a limit, or ended its process.
        ContractError: It returned another architecture, or what is no model.
        MethodError: Whatever else it raised.
    """
    import torch

    from harness.training.isolation import isolated_rng

    if declares(of.value, "from_scratch"):  # it is promised to have neither, not even somewhere in its process
        forget, history = forget.subset(torch.arange(0)), {}
    tensors = {f"model.{name}": tensor for name, tensor in poisoned.items()}
    for name, data in (("retain", retain), ("forget", forget)):
        tensors |= {f"{name}.inputs.{key}": tensor for key, tensor in data.inputs.items()}
        tensors[f"{name}.labels"] = data.labels
    for epoch, state in history.items():
        tensors |= {f"history.{epoch}.{name}": tensor for name, tensor in state.items()}
    arguments = {**plain, "device": str(retain.device), "history": list(history)}
    # Before it is asked: what the task imports to make a model, the server then imports for the job, which is charged
    # for what it imports itself.
    with isolated_rng(0):
        model: nn.Module = task.value.new_model()
    answer = _ask(
        "unlearn", of.id, depends_on=of.value.depends_on, task=task, arguments=arguments, tensors=tensors,
        limits=limits, gpus=retain.device.type != "cpu",
    )  # fmt: skip
    expected = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    if {name: (tuple(t.shape), t.dtype) for name, t in answer.tensors.items()} != expected:
        raise ContractError(
            f"the unlearner {of.id!r} returned another architecture; it must return a model of the one it was given",
            "same-architecture",
        )
    model.load_state_dict(answer.tensors)
    try:
        said = answer.plain
        seconds = float(said["seconds"])
        work = answer.cpu_seconds if retain.device.type == "cpu" else seconds
        cost = Measured(float(said["examples"]), int(said["steps"]), int(said["flops"]), seconds, work)
    except (KeyError, TypeError, ValueError):
        raise UnlearningError(f"the unlearner {of.id!r} left an answer that does not say what it cost") from None
    with torch.no_grad():
        return model.to(retain.device), cost


def ask(function: str, of: Registered, arguments: Mapping[str, Any], limits: Limits) -> Mapping[str, Any]:
    """Return the plain values that a function of ours returns in a process with the method.

    Args:
        function: Dotted path of one that takes a `harness.isolated.jobs.Job`.
        of: The method.
        arguments: Plain values.
        limits: What the process may use.
    """
    return _ask(function, of.id, depends_on=of.value.depends_on, arguments=arguments, limits=limits, torch=True).plain


def warm() -> None:
    """Have the server import what trains, while this process does something else.

    Raises:
        UnlearningError: This system cannot isolate methods.
    """
    process.server().warm(TRAINING)


def module_of(kind: registry.Kind, spec: str) -> str | None:
    """Return the module that a spec names, without importing it; None if the name is unknown."""
    target = split(spec)[0]
    entry = registry.available(kind).get(target)
    value = target if entry is None else entry.value
    found = DOTTED.fullmatch(value)
    return found[1] if found else None


def _modules(kind: registry.Kind, spec: str) -> list[str]:
    """Return the modules that a spec names: the plugin's own first, if it is known, and those in its fields."""
    own = module_of(kind, spec)
    return list(dict.fromkeys([*([] if own is None else [own]), *re.findall(DOTTED, split(spec)[2])]))


def _history(spec: str, epochs: int) -> list[int]:
    return list(_ask("history", spec, arguments={"epochs": epochs}).plain["epochs"])


def _ask(
    function: str,
    spec: str,
    *,
    depends_on: tuple[str, ...] = (),
    task: Registered | None = None,
    arguments: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    torch: bool = False,
    gpus: bool = False,
) -> Answer:
    own_parts = _sources("unlearner", spec, depends_on)
    parts = [*own_parts, *(_sources("task", task.id) if task is not None else [])]
    files = [file for _, reached, others in parts for file in (*reached.files, *others)]
    walls.require_apart(files)
    # A module is found by the names in the folders of sys.path.
    modules = [each for _, reached, _ in parts for each in reached.modules.items()]
    folders = {file.parents[name.count(".") + (file.stem == "__init__")] for name, file in modules} | {ROOT}
    loaded = [name for name in sys.modules if name.partition(".")[0] in LIBRARIES]
    own = module_of("unlearner", spec) or ""
    if torch or tensors:
        reached = {name for _, found, _ in own_parts for name in found.versions}
        imports = [*TRAINING, *loaded, *(module for name, module in REACHED.items() if name in reached)]
    elif own.partition(".")[0] not in IN_TREE and any("torch" in reached.versions for _, reached, _ in parts):
        imports = ["torch"]  # else each job of such a method would import it for itself, for seconds
    else:
        imports = []
    return process.ask(
        function if ":" in function else f"harness.isolated.jobs:{function}", spec,
        task=task.id if task is not None else None, arguments=arguments, tensors=tensors,
        files=files, folders=sorted(folders), gpus=gpus, imports=imports, limits=limits,
    )  # fmt: skip


def _sources(kind: registry.Kind, spec: str, depends_on: tuple[str, ...] = (), strictly: bool = False) -> list[_Source]:
    """Return what the modules are made of that a spec names: the plugin's own first, and those in its fields.

    Raises:
        SpecError: ``strictly``, and its own module is unknown, or that or what it depends on is missing.
    """
    if strictly and module_of(kind, spec) is None:  # a hash without it would never change
        raise SpecError(f"unknown {kind} {spec!r}")
    found = []
    for at, name in enumerate(_modules(kind, spec)):
        try:
            found.append(source_of_module(name, () if at else depends_on))
        except SpecError:  # the method's process says it, and how
            if strictly and not at:
                raise
    return found
