"""What a plugin's module reaches, found without importing it: a stand-in for what `harness.sources` is to say."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from harness.sources import IN_TREE, ROOT


@dataclass(frozen=True)
class Reached:
    """What a module is made of.

    Attributes:
        files: Its source files, those of its helpers included.
        sha256: Their hash, hexadecimal.
        top: The folder in which Python finds it, or the package that it is in.
    """

    files: tuple[Path, ...]
    sha256: str
    top: Path


def reached(module: str) -> Reached | None:
    """Return what a module is made of, by the rule of `harness.sources.source_of`; None if there is no such file."""
    found = _found(module)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return None
    path, top = Path(found.origin).resolve(), module.partition(".")[0]
    package, place = _found(top), path.parents[module.count(".") + (path.name == "__init__.py")]
    if top in IN_TREE and path.is_relative_to(ROOT):
        files = [path, *path.parent.glob("_[!_]*.py")]
    elif package is not None and package.submodule_search_locations:
        files = [f for folder in package.submodule_search_locations for f in Path(folder).rglob("*.py")]
    else:
        packages = [p.parent for p in path.parent.glob("*/__init__.py") if p.parent.name not in IN_TREE]
        files = [path, *path.parent.glob("*.py"), *(f for p in packages for f in p.rglob("*.py"))]
    sha = hashlib.sha256()
    for each in sorted(set(files)):
        sha.update(each.name.encode() + b"\0" + each.read_bytes() + b"\0")
    return Reached(tuple(sorted(set(files))), sha.hexdigest(), place)


def _found(module: str) -> ModuleSpec | None:
    """Return where a module is, without importing the packages that it is in."""
    parts, place, spec = module.split("."), None, None
    for at in range(len(parts)):
        name = ".".join(parts[: at + 1])
        spec = PathFinder.find_spec(name, place)
        for finder in sys.meta_path if spec is None else ():
            if spec is None and not type(finder).__module__.startswith("_pytest"):
                spec = finder.find_spec(name, place)
        if spec is None:
            return None
        place = list(spec.submodule_search_locations or ())
    return spec
