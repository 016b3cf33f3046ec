"""What an object is made by: the code that it can reach by imports, and the state that tells it from others of it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.api import DECLARATIONS, declares
from harness.locating import Place, digest_of, distributions, exported_by, imports_of, locate
from harness.specs import SpecError

ROOT = Path(__file__).resolve().parent.parent
IN_TREE = ("harness", "unlearners", "poisons")
#: Our own modules that are plugins. The rest of `harness` stands in the keys of what it makes: `harness.trials.keys`.
PLUGINS = re.compile(r"harness\.(tasks|adapters|pipelines)(\..*)?")
#: Names of "files" in which code was typed.
TYPED = re.compile(r"<(stdin|input|console|ipython-input.*|python-input.*)>")


@dataclass(frozen=True)
class Reached:
    """What a module can reach by import.

    Attributes:
        modules: Source files and binaries by the name of their module, their own ones included, resolved.
        versions: Versions by distribution, of those that are installed.
        parts: Hashes, in place of their file's, of modules of which only a part matters.
    """

    modules: Mapping[str, Path]
    versions: Mapping[str, str]
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, sorted."""
        return tuple(sorted(set(self.modules.values())))

    @property
    def sha256(self) -> str:
        """SHA-256 over names and contents of the files and over the versions, hexadecimal."""
        lines = [f"{name} {self.parts.get(name) or digest_of(file)}" for name, file in self.modules.items()]
        lines += [f"{name}=={version}" for name, version in self.versions.items()]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def reached(module: str, folder: Path | None = None) -> Reached:
    """Return what a module can reach by the imports that it and the modules it imports state. Imports nothing.

    Followed are modules that are neither of the standard library nor of an installed distribution; those of a
    distribution are known by its version. The top-level package of the module itself is always followed.

    Args:
        module: Its full name.
        folder: Where modules are searched for first, before ``sys.path``; None for the working directory.

    Raises:
        SpecError: There is no such module.
    """
    reach = _Reach(folder)
    if (place := reach.find(module)) is None:
        raise SpecError(f"the module {module!r} cannot be found")
    reach.begin(module, place)
    return reach.found()


def source_of_module(module: str, depends_on: tuple[str, ...] = ()) -> tuple[str, Reached, tuple[Path, ...]]:
    """Return the source of what a module defines, as `source_of`, what it reaches, and the files it depends on.

    Imports nothing.

    Raises:
        SpecError: There is no such module, or something that it depends on is missing.
    """
    reach = _Reach()
    if (place := reach.find(module)) is None or place.file is None:
        raise SpecError(f"the module {module!r} cannot be found")
    reach.begin(module, place)
    lines = [line for each in depends_on for line in _depended_on(reach, each, place.file)]
    paths = [place.file.parent / each for each in depends_on]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return _hashed(reach.found().sha256, lines), reach.found(), tuple(files)


class _Reach:
    """A walk over imports.

    Args:
        folder: As `reached`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = [str(folder or Path.cwd()), *sys.path]
        self._own = {"unlearners", "poisons"}  # followed even where they are installed
        self._modules: dict[str, Path] = {}
        self._versions: dict[str, str] = {}
        self._followed: dict[str, bool] = {}
        self._pending: list[str] = []

    def found(self) -> Reached:
        return Reached(self._modules, self._versions)

    def find(self, name: str) -> Place | None:
        return locate(name, self._path)

    def begin(self, name: str, place: Place) -> None:
        """Follow a module, whatever it is of, and the packages that it is in."""
        self._own.add(name.partition(".")[0])
        self._followed[name] = True
        self._follow(name, place)
        self.reach(name)

    def reach(self, name: str) -> None:
        """Follow a module and the packages that it is in, as far as they are followed, and what they import."""
        self._pending.append(name)
        while self._pending:
            parts = self._pending.pop().split(".")
            for level in range(len(parts)):
                each = ".".join(parts[: level + 1])
                if each not in self._followed:
                    self._followed[each] = self._look_at(each)
                if not self._followed[each]:
                    break

    def _look_at(self, name: str) -> bool:
        """Take a module, and return whether those in it are looked at, too."""
        top = name.partition(".")[0]
        if top == "harness" and not PLUGINS.fullmatch(name):
            return name == "harness"
        place = self.find(name)
        if place is None or place.standard:
            return False
        if name == top and top not in self._own and place.site is not None:
            versions = distributions(place.site, top)
            self._versions |= versions
            if versions:
                return False
        self._follow(name, place)
        return True

    def _follow(self, name: str, place: Place) -> None:
        # A module in an archive is known by its archive.
        file = place.file and next((each for each in (place.file, *place.file.parents) if each.is_file()), None)
        if file is None:
            return
        self._modules[name] = file
        package = name if place.folders is not None else name.rpartition(".")[0]
        for level, module, names in imports_of(file):
            base = ".".join(package.split(".")[: 1 - level or None]) if level else ""
            target = ".".join(filter(None, (base, module)))
            if not target:  # relative, where there is no package
                continue
            self._pending.append(target)
            if "*" in names and (there := self.find(target)) is not None and there.file is not None:
                names = exported_by(there.file)
            self._pending += [f"{target}.{each}" for each in names]


def factory_of(value: Any) -> Any:
    """Return the class or function whose fields an object was made with."""
    function = value.func if isinstance(value, functools.partial) else value
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function)


def state_of(value: Any) -> dict[str, Any]:
    """Return what tells a callable from others of the same source: its closure, its attributes, the code of a lambda.

    What is no plain value gets a new name every time: nothing made with it is found again, which is slow and right.
    """
    function, owner = getattr(value, "__func__", value), getattr(value, "__self__", None)
    state = dict(getattr(value if owner is None else owner, "__dict__", {}))
    for declaration in (*DECLARATIONS, "__wrapped__"):
        state.pop(declaration, None)
    code = getattr(function, "__code__", None)
    if code is not None:
        cells = (cell.cell_contents for cell in function.__closure__ or ())
        state |= dict(zip(code.co_freevars, cells, strict=True))
        if function.__name__ == "<lambda>":
            state["code"] = hashlib.sha256(repr((code.co_code, code.co_consts, code.co_names)).encode()).hexdigest()[:8]
    return state


def source_with_adapted(owner: Any, value: Any, named: str = "") -> str:
    """Return the source of an object, what it depends on and a function that it adapts included.

    Raises:
        SpecError: What it declares to depend on is missing.
    """
    # An instance has what its class declares.
    depends_on = declares(value, "depends_on") or (() if inspect.isclass(owner) else declares(owner, "depends_on"))
    files = (depends_on,) if isinstance(depends_on, str) else tuple(depends_on)
    adapted = adapted_by(value)
    if not adapted:
        return source_of(owner, named, files)
    # What an adapter depends on lies beside what it adapts.
    parts = getattr(value, "parts", {})
    hashes = [source_of(owner, named, parts=parts)]
    for place, each in enumerate(adapted):
        hashes.append(source_of(factory_of(each), depends_on=() if place else files, parts=parts))
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def adapted_by(value: Any) -> tuple[Any, ...]:
    """Return the functions that an object adapts, none for most."""
    adapted = declares(value, "wraps")
    return () if adapted is None else adapted if isinstance(adapted, tuple) else (adapted,)


def source_of(
    owner: Any, named: str = "", depends_on: tuple[str, ...] = (), parts: Mapping[str, str] | None = None
) -> str:
    """Return the SHA-256 of what makes an object, hexadecimal: what its module reaches (`reached`), and more.

    Something typed at a prompt has no file, and another hash every time: what it calls may be typed anew at any time,
    so nothing made by it is ever found again.

    Args:
        owner: The class or function that makes it.
        named: The module by which it was named, which may have it from another one; ``""`` for its own.
        depends_on: Files, folders and modules that the source does not name; paths are relative to its file.
        parts: As in `Reached`.

    Raises:
        SpecError: One of them is missing.
    """
    file, root = file_of(owner), _main_or(named or owner.__module__)
    place = _loaded(root)
    if not file or place is None:
        return hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    reach = _Reach()
    reach.begin(root, place)
    defining = _main_or(owner.__module__)
    there = _loaded(defining)
    if reach.find(defining) is None and there is not None:  # loaded from a file that stands on no path
        reach.begin(defining, there)
    reach.reach(defining)
    lines = [line for each in depends_on for line in _depended_on(reach, each, Path(file))]
    return _hashed(replace(reach.found(), parts=parts or {}).sha256, lines)


def _hashed(source: str, lines: list[str]) -> str:
    return hashlib.sha256("\n".join([source, *lines]).encode()).hexdigest() if lines else source


def file_of(owner: Any) -> str:
    """Return the file that defines a class or function; ``""`` for what was typed at a prompt."""
    place = _loaded(_main_or(owner.__module__))
    typed = TYPED.fullmatch(getattr(getattr(owner, "__code__", None), "co_filename", ""))
    return "" if place is None or typed else str(place.file)


def in_tree(file: str) -> bool:
    """Return whether a file is of this project's own packages."""
    return any(Path(file).is_relative_to(ROOT / name) for name in IN_TREE)


def _main_or(name: str) -> str:
    """Return the name of a module; for that of a script, the one by which ``python -m`` was given it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if name == "__main__" and spec is not None else name


def _loaded(name: str) -> Place | None:
    """Return where a module was loaded from; None if it was from no file."""
    module = sys.modules.get(name) or (sys.modules["__main__"] if _main_or("__main__") == name else None)
    file = getattr(module, "__file__", None)
    if file is None or not any(each.is_file() for each in (Path(file), *Path(file).parents)):
        return None
    folders = getattr(module, "__path__", None)
    return Place(Path(file).resolve(), None if folders is None else tuple(folders))


def _depended_on(reach: _Reach, name: str, beside: Path) -> list[str]:
    """Return lines on the files that a plugin depends on; a module is followed instead."""
    path = beside.parent / name
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts)
        return [f"{name}/{each.relative_to(path).as_posix()} {digest_of(each)}" for each in files]
    if path.is_file():
        return [f"{name} {digest_of(path)}"]
    if not all(part.isidentifier() for part in name.split(".")) or reach.find(name) is None:
        raise SpecError(
            f"depends_on = {name!r} in {beside} names neither a file or folder beside that file nor a module; "
            "correct it or take it out"
        )
    reach.reach(name)
    return [name]


def plain_value(value: Any, otherwise: str) -> Any:
    """Return a value that can stand in a key: as it is if it is plain, else ``otherwise``."""
    if isinstance(value, bool | int | float | str | None):
        return value if value == value and value not in (float("inf"), float("-inf")) else repr(value)
    if isinstance(value, tuple | list):
        return [plain_value(each, otherwise) for each in value]
    if isinstance(value, dict):
        return {str(name): plain_value(each, otherwise) for name, each in value.items()}
    return otherwise
