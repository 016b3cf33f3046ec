"""The functions, classes and modules that models are trained and judged with: are they still what they were?

Watched are those namespaces of torch, numpy, scipy and Python that trainings and verdicts use, and every module of the
harness with its classes. Compared is identity, and the length: a function that stands where there was none can hide
another. What a function is made of is watched by `harness.guards.events`.
"""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any

MODULES = (
    "torch", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.optim", "torch.optim.lr_scheduler",
    "torch.autograd", "torch.linalg", "torch._C._nn", "numpy", "numpy.random", "numpy.linalg", "random", "math",
    "time", "statistics", "hashlib", "json", "copy", "scipy.special", "scipy.stats", "safetensors.torch", "builtins",
)  # fmt: skip
#: Modules below these are watched, too, and the classes of all.
BELOW = ("harness.", "poisons.", "unlearners.", "torch.nn.modules.", "torch.optim.")
CLASSES = ("harness", "poisons", "unlearners", "torch.nn.modules", "torch.optim")
#: Packages of all that is watched: nobody may rewrite their functions either.
PACKAGES = {name.partition(".")[0] for name in (*MODULES, *BELOW)}
#: Classes of torch that stand elsewhere.
TENSORS = ("Tensor", "Generator")
#: What is watched beside what can be called.
KINDS = (property, classmethod, staticmethod, GetSetDescriptorType)


@dataclass(frozen=True)
class _Space:
    """A namespace as it was.

    Attributes:
        owner: The module or class.
        names: What is watched of it.
        get: Returns these from its dict, in order.
        objects: What they were.
        copies: What is in containers that are constants, by name.
        insides: Frozen objects that are constants, or in one, each with its attributes.
        length: Names it had.
    """

    owner: Any
    names: tuple[str, ...]
    get: Callable[[Mapping[str, Any]], tuple[Any, ...]]
    objects: tuple[Any, ...]
    copies: Mapping[str, Any]
    insides: tuple[tuple[Any, Mapping[str, Any]], ...]
    length: int

    def is_same(self) -> bool:
        held = vars(self.owner)
        try:
            same = all(map(operator.is_, self.get(held), self.objects))
        except KeyError:
            return False
        if not same or len(held) != self.length:
            return False
        if any(_differs(each, attributes) for each, attributes in self.insides):
            return False
        return not self.copies or all(held[name] == copy for name, copy in self.copies.items())


class _Together:
    """All watched namespaces, looked at without a step of Python for each: this is done around every call of a plugin.

    Args:
        spaces: The namespaces.
    """

    def __init__(self, spaces: Iterable[_Space]) -> None:
        spaces = list(spaces)
        self._held = [vars(space.owner) for space in spaces]  # of modules and classes it is always the same
        self._lengths = [space.length for space in spaces]
        self._get = [space.get for space in spaces]
        self._objects = [each for space in spaces for each in space.objects]
        self._copies = [
            (held, name, copy)
            for held, space in zip(self._held, spaces, strict=True)
            for name, copy in space.copies.items()
        ]
        insides = {
            (id(each), *attributes, *map(id, attributes.values())): (each, attributes)
            for space in spaces
            for each, attributes in space.insides
        }
        self._insides = [each for each, _ in insides.values()]
        self._get_attributes = [_getter(tuple(attributes)) for _, attributes in insides.values()]
        self._attributes = [value for _, attributes in insides.values() for value in attributes.values()]

    def is_same(self) -> bool:
        """Return whether each of them is, as `_Space.is_same` says it of one."""
        if list(map(len, self._held)) != self._lengths:
            return False
        objects = chain.from_iterable(map(operator.call, self._get, self._held))
        attributes = chain.from_iterable(map(operator.call, self._get_attributes, map(vars, self._insides)))
        try:
            same = all(map(operator.is_, objects, self._objects)) and all(
                map(operator.is_, attributes, self._attributes)
            )
        except KeyError:
            return False
        return same and all(held[name] == copy for held, name, copy in self._copies)


class Seal:
    """The watched namespaces as they were when they were last looked at."""

    def __init__(self) -> None:
        self._spaces: dict[int, _Space] = {}
        self._together: _Together | None = None
        self._modules: dict[str, ModuleType] = {}
        self._counted = 0
        self._judges: set[str] = set()

    def watch(self, module: str) -> None:
        """Watch a module that measures models, too, with its classes: that of a task or a poison."""
        self._judges.add(module)
        self._counted = 0

    def watches(self, module: str) -> bool:
        """Return whether the functions of a module must stay as they are."""
        return module in self._judges or module.partition(".")[0] in PACKAGES

    def renew(self) -> None:
        """Take for granted what is there now."""
        for space in self._changed():
            self._spaces[id(space.owner)] = _space(space.owner)
        if gone := [name for name, module in self._modules.items() if sys.modules.get(name) is not module]:
            for name in gone:
                del self._modules[name]
            self._counted = 0
        self._add(self._new_modules())

    def broken(self) -> list[str]:
        """Return what was replaced since, and put it back.

        A module of the harness that was imported meanwhile is compared with its source.
        """
        found = []
        for space in self._changed():
            found += _restored(space)
            self._spaces[id(space.owner)] = _space(space.owner)  # it grew, or torch wrapped a function
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
                found.append(f"the module {name}")
        new = self._new_modules()
        for name, module in new.items():
            found += _unlike_source(name, module)
        self._add(new)
        return found

    def _changed(self) -> list[_Space]:
        """Return the namespaces that are not what they were; the caller puts others in their places."""
        if self._together is None:
            self._together = _Together(self._spaces.values())
        if self._together.is_same():
            return []
        self._together = None
        return [each for each in self._spaces.values() if not each.is_same()]

    def _add(self, new: Mapping[str, ModuleType]) -> None:
        self._modules |= new
        self._counted = len(sys.modules)
        for module in new.values():
            for owner in (module, *_classes(module, self._judges)):
                if id(owner) not in self._spaces:
                    self._spaces[id(owner)] = _space(owner)
                    self._together = None

    def _new_modules(self) -> dict[str, ModuleType]:
        if len(sys.modules) == self._counted:
            return {}
        found = {}
        for name in tuple(sys.modules):
            wanted = name in MODULES or name.startswith(BELOW) or name == "harness" or name in self._judges
            if wanted and name not in self._modules:
                found[name] = sys.modules[name]
        return {name: module for name, module in found.items() if isinstance(module, ModuleType) and _is_loaded(module)}


def _is_loaded(module: ModuleType) -> bool:
    return not getattr(module.__spec__, "_initializing", False)


def _classes(module: ModuleType, judges: Set[str] = frozenset()) -> Iterator[type]:
    for name, held in tuple(vars(module).items()):
        if isinstance(held, type) and (
            held.__module__.startswith(CLASSES)
            or held.__module__ in judges
            or (module.__name__ == "torch" and name in TENSORS)
        ):
            yield from (
                c for c in held.__mro__ if c.__module__.startswith((*CLASSES, "torch")) or c.__module__ in judges
            )


def _space(owner: Any) -> _Space:
    held = dict(vars(owner))
    ours = _name(owner).startswith("harness")
    names = [name for name, each in held.items() if _is_watched(each) or (ours and _is_constant(name, each))]
    copies = {n: type(held[n])(held[n]) for n in names if ours and type(held[n]) in (dict, list, set)}
    constants = [held[name] for name in names if _is_constant(name, held[name])] if ours else []
    insides = tuple((each, dict(vars(each))) for constant in constants for each in _objects_in(constant))
    get = _getter(tuple(names))
    return _Space(owner, tuple(names), get, get(held), copies, insides, len(held))


def _getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what returns these of a dict, as a tuple."""
    return operator.itemgetter(*names) if len(names) > 1 else lambda held: tuple(held[name] for name in names)


def _objects_in(constant: Any) -> Iterator[Any]:
    """Yield the frozen objects that a constant is, or that it holds: claims in a table, members of an enum."""
    held = constant.values() if isinstance(constant, dict) else constant if isinstance(constant, (tuple, list)) else ()
    for each in (constant, *held):
        frozen = getattr(getattr(type(each), "__dataclass_params__", None), "frozen", False)
        if hasattr(each, "__dict__") and (frozen or isinstance(each, Enum)):
            yield each


def _differs(held: Any, attributes: Mapping[str, Any]) -> bool:
    now = vars(held)  # may have more: what was computed once and kept
    return any(now.get(name, held) is not value for name, value in attributes.items())


def _is_watched(held: Any) -> bool:
    return callable(held) or isinstance(held, KINDS)


def _is_constant(name: str, held: Any) -> bool:
    return isinstance(held, ModuleType) or (name.isupper() and not name.startswith("_"))


def _name(owner: Any) -> str:
    if isinstance(owner, ModuleType):
        return owner.__name__
    return f"{owner.__module__}.{owner.__qualname__}"


def _restored(space: _Space) -> list[str]:
    held, found = vars(space.owner), []
    for name, was in zip(space.names, space.objects, strict=True):
        if held.get(name) is not was and not _wraps(held.get(name), was):
            setattr(space.owner, name, was)
            found.append(f"{_name(space.owner)}.{name}")
    for name, copy in space.copies.items():
        if held[name] != copy:
            held[name].clear()
            (held[name].extend if isinstance(copy, list) else held[name].update)(copy)
            found.append(f"{_name(space.owner)}.{name}")
    for each, attributes in space.insides:
        if _differs(each, attributes):
            vars(each).update(attributes)
            found.append(f"what is in {_name(space.owner)}")
    bases = [vars(base) for base in space.owner.__mro__[1:]] if isinstance(space.owner, type) else [vars(builtins)]
    for name in set(held) - set(space.names):
        base = next((base[name] for base in bases if name in base), None)
        hides = base is not None and _is_watched(held[name]) and not _wraps(held[name], base)
        if hides and len(held) > space.length:
            delattr(space.owner, name)
            found.append(f"{_name(space.owner)}.{name}")
    return found


def _wraps(new: Any, old: Any) -> bool:
    """Return whether torch itself put a wrapper around its own function, as it does for optimisers and compilers."""
    of = str(getattr(new, "__globals__", {}).get("__name__", ""))
    if not isinstance(new, FunctionType) or of.partition(".")[0] != "torch":
        return False
    return of.startswith("torch._dynamo.") or _innermost(new) is _innermost(old)


def _innermost(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _unlike_source(name: str, module: ModuleType) -> list[str]:
    """Return the functions of a module of the harness that are not those of its source."""
    if not name.startswith("harness"):
        return []
    source = module.__file__ or ""
    try:
        code = compile(Path(source).read_bytes(), source, "exec", dont_inherit=True)
    except (OSError, SyntaxError):  # an installation without sources
        return []
    codes, imports = set(_codes(code)), {each.partition(".")[0] for each in code.co_names}
    found = []
    for owner in (module, *(each for each in _classes(module) if each.__module__ == name)):
        for attribute, held in tuple(vars(owner).items()):
            function = _innermost(getattr(held, "__func__", getattr(held, "fget", held)))
            if not isinstance(function, FunctionType):
                continue
            if function.__globals__ is vars(module):
                file = function.__code__.co_filename  # pytest rewrites the assertions of plugins
                strange = function.__code__ not in codes and file not in (source, "<string>")
            else:
                root = str(function.__globals__.get("__name__")).partition(".")[0]
                strange = owner is module and root not in imports | {"harness"} | sys.stdlib_module_names
            if strange:
                found.append(f"{_name(owner)}.{attribute}")
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


SEAL = Seal()
