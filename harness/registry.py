"""Names to configured objects: ``NAME[:FIELD=VALUE[,FIELD=VALUE...]]``, or ``pkg.module:attr`` in place of the name.

Tasks, poisons and unlearners are registered under the entry-point groups below, in-tree ones like anybody's::

    [project.entry-points."unlearning.unlearners"]
    mine = "mypackage.mine:Mine"

What is registered is a class whose constructor takes the fields (a frozen dataclass, say), or a function whose
keyword parameters are the fields. Nothing is imported before its name is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from harness.api import Measure, Search, UnlearningError, declares, serves
from harness.calling import calling
from harness.cells import Cell, Registered
from harness.guards.patches import SEAL
from harness.importing import DOTTED, cause, distribution_of, imported, named, raised
from harness.sources import ROOT, adapted_by, factory_of, file_of, plain_value, source_with_adapted, state_of
from harness.specs import SpecError, aliased, called, converted, fields_in, names_file, shown, split

Kind = Literal["task", "poison", "unlearner"]

GROUPS: dict[str, str] = {
    "task": "unlearning.tasks",
    "poison": "unlearning.poisons",
    "unlearner": "unlearning.unlearners",
}
#: What makes a task or an unlearner of a file; imported by its name, as plugins are, only where a spec names a file.
FILES = "harness.pipelines.files:in_file"
#: What an object must have to be one of a kind; `harness.api` says what each is.
REQUIRED: dict[str, tuple[str, ...]] = {
    "task": (
        "modality",
        "poisons",
        "utility_margin",
        "threads",
        "epochs",
        "batch_size",
        "load",
        "new_model",
        "logits",
        "criterion",
        "optimizer",
        "schedule",
    ),
    "poison": ("modality", "measure", "plant", "probe"),
    "unlearner": ("__call__",),
}
ANYTHING = bool | int | float | str | None  # what a field without an annotation, None by default, may be set to


def available(kind: Kind) -> dict[str, metadata.EntryPoint]:
    """Return the registered entry points of a kind by name, sorted; the first where two register one name."""
    return {name: entries[0] for name, entries in _entries(kind).items()}


@functools.cache
def _entries(kind: Kind) -> dict[str, list[metadata.EntryPoint]]:
    """Return by name what is registered under it: several entry points where distributions are at odds."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for entry in [*metadata.entry_points(group=GROUPS[kind]), *_checkout_entries(kind)]:
        known = found.setdefault(entry.name, [])
        if entry.value not in [each.value for each in known]:  # one distribution can be found twice
            known.append(entry)
    return dict(sorted(found.items()))


def resolve(kind: Kind, spec: str, hashed: bool = True) -> Registered:
    """Return the configured object that a spec names; if it is not to be hashed, its source is ``""``.

    Raises:
        SpecError: Unknown name (near misses are listed), a module that cannot be imported, an unknown or ill-typed
            field, an object that cannot be made, or an alias that cannot be given.
    """
    alias, spec = aliased(spec)
    if alias:
        _check_alias(kind, alias, spec)
    target, _, fields = split(spec)
    factory, module, distribution, version = _load(kind, target)
    given = fields_in(spec, fields)
    try:
        with calling(f"the {kind} {target!r}"):
            made = _configure(kind, target, factory, module if hashed else None, given, distribution, version)
            return replace(made, id=f"{alias}={made.id}") if alias else made
    except UnlearningError:
        raise
    except Exception as error:
        raise SpecError(f"the {kind} {target!r} cannot be made: {raised(error)}") from cause(error)


def _check_alias(kind: Kind, alias: str, spec: str) -> None:
    given = f"{alias}={spec}"
    if kind != "unlearner":
        raise SpecError(f"{given!r}: only a method can have an alias; write {spec!r}")
    if alias in available(kind):  # people would take it for that method
        raise SpecError(f"{given!r}: {alias!r} is the name of a method, and no alias; choose another one")
    if aliased(spec)[0]:
        raise SpecError(f"{given!r}: a method can have one alias only; write {alias}={aliased(spec)[1]}")


def resolve_all(
    kind: Kind, specs: Iterable[str], resolve_one: Callable[[str], Registered] | None = None
) -> list[Registered]:
    """Return what several specs name, each once.

    ``"all"`` is every registered one but the controls; ``"@FILE"`` are the specs in a file, one per line, where ``#``
    begins a comment: what a tuner writes.

    Args:
        kind: The kind.
        specs: The specs.
        resolve_one: What resolves one of them; None for `resolve`.

    Raises:
        SpecError: As `resolve`; the file cannot be read or is empty; or two methods have one name.
    """
    of = resolve_one or functools.partial(resolve, kind)
    found: dict[str, Registered] = {}
    for spec in _from_files(kind, specs):
        if spec == "all":
            everything = [of(name) for name in available(kind)]
            found |= {each.id: each for each in everything if not declares(each.value, "control")}
        else:
            one = of(spec)
            found[one.id] = one
    by_name: dict[str, str] = {}
    for id_ in found:
        if (other := by_name.setdefault(called(id_), id_)) != id_:
            raise SpecError(f"the name {called(id_)!r} is given to two methods: {other!r} and {id_!r}")
    return list(found.values())


def _from_files(kind: Kind, specs: Iterable[str]) -> Iterator[str]:
    for spec in specs:
        if not spec.startswith("@"):
            yield spec
            continue
        try:
            text = Path(spec[1:]).expanduser().read_text(encoding="utf-8-sig")  # some editors write a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{spec!r}: {spec[1:]} cannot be read: {error}") from None
        found = [line.partition("#")[0].strip() for line in text.splitlines()]
        if not any(found):
            raise SpecError(f"{spec!r}: {spec[1:]} is empty; write the name of one {kind} on each line")
        yield from filter(None, found)


def cells(
    methods: Sequence[Registered], tasks: Sequence[Registered], poisons: Sequence[str] = (), discovery: float = 1.0
) -> list[Cell]:
    """Return every method on every task with every poison that serves the task's modality.

    Args:
        methods: The unlearners.
        tasks: The tasks.
        poisons: Specs; none for those that each task lists as biting on it. ``"all"`` is every one that is registered,
            at the strengths that the task lists for it, if it lists any.
        discovery: Share of the poisoned points that the methods are told of, in (0, 1].

    Raises:
        SpecError: A poison cannot be resolved, or none of them works on a task.
    """
    found = []
    for task in tasks:
        offered = _poisons_of(task, poisons)
        modality = task.value.modality
        fitting = [poison for poison in offered if serves(poison.value, modality)]
        if not fitting:
            names = ", ".join(poison.id for poison in offered) or "none"
            raise SpecError(f"no poison fits the {modality} task {task.id!r} (given: {names})")
        serving = [method for method in methods if serves(method.value, modality)]
        found += [Cell(method, task, poison, discovery) for method in serving for poison in fitting]
    if not found:
        modalities = " or ".join(sorted({task.value.modality for task in tasks}))
        given = ", ".join(method.id for method in methods)
        raise SpecError(f"no unlearner fits {modalities} tasks (given: {given})")
    return found


def _poisons_of(task: Registered, specs: Sequence[str]) -> list[Registered]:
    """Return the poisons that specs name on a task, each once; without specs those that the task lists.

    Raises:
        SpecError: As `resolve`, or the task does not list specs.
    """
    listed = task.value.poisons
    if isinstance(listed, str) or not all(isinstance(spec, str) for spec in listed):
        raise SpecError(f"the task {task.id!r} must list its poisons as a tuple of specs, not as {listed!r}")
    try:
        own = resolve_all("poison", listed)
    except SpecError as error:
        raise SpecError(f"the task {task.id!r} lists a poison that cannot be used: {error}") from error.__cause__
    if not specs:
        return own
    names = {each.name for each in own}
    found: list[Registered] = []
    for spec in _from_files("poison", specs):
        named = resolve_all("poison", [spec])
        found += [*own, *(each for each in named if each.name not in names)] if spec == "all" else named
    return list({each.id: each for each in found}.values())


def searches(method: Registered) -> dict[str, Search]:
    """Return where to look for the fields that say so in their annotation."""
    found = {}
    for name, hint in _hints(factory_of(method.value), include_extras=True).items():
        said = [each for each in typing.get_args(hint) if isinstance(each, Search)]
        if said and name in method.fields:
            found[name] = said[0]
    return found


def with_fields(method: Registered, fields: Mapping[str, Any]) -> Registered:
    """Return an unlearner with other values of some fields."""
    fields = {**method.fields, **fields}
    text = ",".join(f"{name}={shown(value)}" for name, value in fields.items())
    return resolve("unlearner", f"{method.name}:{text}")


def register(kind: Kind, value: Callable[..., Any]) -> Registered:
    """Wrap an object that was handed over from Python, without a name on the command line.

    What an adapter adapts is named by its dotted path, as on the command line, if that leads to it: its source is part
    of the adapter's. Another object in a field has a new name every time.

    Raises:
        SpecError: It declares what cannot be read.
    """
    owner = factory_of(value)
    name = f"{owner.__module__}:{owner.__qualname__}".replace("<", "").replace(">", "")
    one: Any = value
    declared = dataclasses.fields(one) if dataclasses.is_dataclass(one) and not inspect.isclass(one) else ()
    fields: dict[Any, Any] = {
        each.name: getattr(value, each.name) for each in declared if getattr(value, each.name, None) is not None
    }
    adapted = adapted_by(value)
    fields = {name: _path_of(of) or of if any(of is each for each in adapted) else of for name, of in fields.items()}
    if isinstance(value, functools.partial):
        fields = dict(enumerate(value.args)) | value.keywords
    elif hasattr(value, "identified_by"):
        fields = value.identified_by
    elif not dataclasses.is_dataclass(value):
        fields = state_of(value)
    plain = {str(k): plain_value(v, f"{type(v).__name__}-{uuid.uuid4().hex[:8]}") for k, v in fields.items()}
    text = ",".join(f"{k}={shown(v)}" for k, v in plain.items())
    source, file = source_with_adapted(owner, value), _file(owner, value)
    return Registered(kind, f"{name}:{text}" if text else name, name, value, plain, "(local)", "", source, file)


def _path_of(value: Any) -> str:
    """Return the dotted path that leads to a class or function; ``""`` if none does, as to what a function defines."""
    found: Any = sys.modules.get(getattr(value, "__module__", ""))
    names = getattr(value, "__qualname__", "")
    for name in names.split("."):
        found = getattr(found, name, None)
    return f"{value.__module__}:{names}" if found is value and value is not None else ""


def _file(owner: Any, value: Any) -> str:
    """Return the file that defines an object or, where it adapts a function, that function."""
    adapted = adapted_by(value)
    return file_of(factory_of(adapted[0]) if adapted else owner)


def method(unlearner: str | Callable[..., Any]) -> Registered:
    """Return the unlearner that a spec names, or that a callable is.

    Raises:
        SpecError: As `resolve`.
    """
    return resolve("unlearner", unlearner) if isinstance(unlearner, str) else register("unlearner", unlearner)


def _load(kind: Kind, target: str) -> tuple[Any, str, str, str]:
    """Return what a name means, the module by which it is named, and its distribution with version."""
    entries = _entries(kind)
    if names_file(target):
        in_file = imported(FILES, kind, target)
        return (*in_file(kind, target), "(local)", "")
    if target in entries:
        entry, *others = entries[target]
        if others:
            said = [f"{distribution_of(each)[0]} ({each.value})" for each in (entry, *others)]
            raise SpecError(f"{' and '.join(said)} register the same {kind} {target!r}; uninstall all but one")
        return (imported(entry.value, kind, target, entry), entry.module, *distribution_of(entry))
    name, colon, rest = target.partition(":")
    if colon and name in entries:
        raise SpecError(f"{target!r}: {rest!r} is not FIELD=VALUE")
    if DOTTED.fullmatch(target):
        return named(target, kind), name, "(local)", ""
    near = get_close_matches(target, entries, n=3, cutoff=0.5)
    raise SpecError(
        f"unknown {kind} {target!r}"
        + (f"; did you mean {' or '.join(near)}?" if near else "")
        + f" (available: {', '.join(entries) or 'none'}; or give a dotted path like mymodule:attribute)"
    )


def _check_traces(target: str, poison: Any) -> None:
    measures = (poison.measure, *getattr(poison, "traces", ()))
    labels = [measure.label for measure in measures if isinstance(measure, Measure)]
    for label in labels:
        if labels.count(label) > 1:
            raise SpecError(f"the poison {target!r} has two traces called {label!r}; give each Measure its own short")


def _configure(
    kind: Kind, target: str, factory: Any, module: str | None, given: Mapping[str, str], distribution: str, version: str
) -> Registered:
    if not callable(factory):
        raise SpecError(f"the {kind} {target!r} is {type(factory).__name__}, neither a class nor a function")
    is_class = inspect.isclass(factory)
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except ValueError:
        raise SpecError(f"the {kind} {target!r} is a builtin without a readable signature") from None
    if not is_class:  # a function: its first two parameters are the model and the request
        parameters = dict(list(parameters.items())[2:]) if kind == "unlearner" else parameters
    parameters = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    hints = _hints(factory)
    fields: dict[str, Any] = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    defaults = dict(fields)
    for name, text in given.items():
        if name not in parameters:
            near = get_close_matches(name, parameters, n=2)
            raise SpecError(
                f"the {kind} {target!r} has no field {name!r}"
                + (f"; did you mean {' or '.join(near)}?" if near else "")
                + f" (its fields: {', '.join(parameters) or 'none'})"
            )
        default = parameters[name].default
        guess = ANYTHING if default is None else str if default is parameters[name].empty else type(default)
        hint = hints.get(name, guess)
        fields[name] = converted(f"the field {name!r} of the {kind} {target!r}", text, hint)
    if missing := [n for n, p in parameters.items() if n not in fields]:
        raise SpecError(f"the {kind} {target!r} needs the fields {', '.join(missing)}: {target}:{missing[0]}=...")
    fields = {n: fields[n] for n in parameters if n in fields}  # in one order, however they were typed: ids follow it
    try:
        if is_class or kind != "unlearner":
            value = factory(**fields)
        else:  # its declarations (``from_scratch``, ...) come along
            value = functools.update_wrapper(functools.partial(factory, **fields), factory) if fields else factory
    except ValueError as error:  # a sentence on a value that was given
        raise SpecError(f"the {kind} {target!r}: {error}") from None
    # A property of the class need not be asked, which may take long.
    if lacking := [name for name in REQUIRED[kind] if not (hasattr(type(value), name) or hasattr(value, name))]:
        raise SpecError(f"{target!r} is not a valid {kind}: it lacks {', '.join(lacking)}")
    if kind == "poison":
        _check_traces(target, value)
    changed = {n: v for n, v in fields.items() if n not in defaults or defaults[n] != v}
    label = ",".join(f"{n}={shown(v)}" for n, v in changed.items())
    # What was typed is plain; another default is part of the source.
    plain = {n: plain_value(v, f"({type(v).__name__})") for n, v in fields.items()}
    id_ = f"{target}:{label}" if label else target
    owner = factory_of(factory)
    if kind != "unlearner":
        for each in (type(value), *map(factory_of, adapted_by(value))):
            SEAL.watch(each.__module__)
    source = "" if module is None else source_with_adapted(owner, value, module)
    return Registered(kind, id_, target, value, plain, distribution, version, source, _file(owner, value))


def _hints(factory: Any, include_extras: bool = False) -> dict[str, Any]:
    function = factory.__init__ if inspect.isclass(factory) else factory
    # A dataclass has fields of its bases, too, whose annotations are in the words of their modules.
    names: dict[str, Any] = {}
    for owner in reversed(factory.__mro__) if inspect.isclass(factory) else (factory,):
        names |= getattr(sys.modules.get(owner.__module__), "__dict__", {})
    names |= getattr(function, "__globals__", {})
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(Exception):  # annotations that exist for type checkers only
            hints |= typing.get_type_hints(one, names, include_extras=include_extras)
    return hints


def _checkout_entries(kind: Kind) -> list[metadata.EntryPoint]:
    """Entry points of a bare checkout, which nobody installed, read from its pyproject.toml."""
    project = ROOT / "pyproject.toml"
    try:
        metadata.distribution("pytest-unlearning")
    except metadata.PackageNotFoundError:
        if project.exists():
            import tomllib

            points = tomllib.loads(project.read_text())["project"]["entry-points"].get(GROUPS[kind], {})
            return [metadata.EntryPoint(name, value, GROUPS[kind]) for name, value in points.items()]
    return []
