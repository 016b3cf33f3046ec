"""Where the modules are that source files import, and which distribution they belong to. Nothing is imported."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

#: Folders in which installers put distributions.
SITES = ("site-packages", "dist-packages")
STANDARD = tuple(
    {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}  # each holds a folder of SITES
)
#: Functions whose first argument names a module.
IMPORTERS = ("import_module", "__import__", "importorskip")


@dataclass(frozen=True)
class Place:
    """Where a module is.

    Attributes:
        file: Its file; None for a namespace package, which is folders alone, and for a builtin module.
        folders: Where its submodules are; None if it is no package.
    """

    file: Path | None
    folders: tuple[str, ...] | None

    @property
    def site(self) -> Path | None:
        """The folder of installed distributions in which a top-level module is, or None."""
        top = Path(self.folders[0]) if self.folders else self.file
        return top.parent if top is not None and top.parent.name in SITES else None

    @property
    def standard(self) -> bool:
        """Whether it is of Python's standard library."""
        return self.file is not None and any(
            self.file.is_relative_to(folder) and not set(self.file.relative_to(folder).parts) & set(SITES)
            for folder in STANDARD
        )


def locate(name: str, path: Sequence[str]) -> Place | None:
    """Return where a module is, searched for level by level as an import does; None if it is nowhere."""
    folders: Sequence[str] | None = path
    place = None
    for depth, part in enumerate(name.split(".")):
        if folders is None:
            return None
        # The last part alone: a namespace below another one asks for its parent, which nobody has imported.
        spec = PathFinder.find_spec(part, folders) or (_editable(part) if depth == 0 else None)
        if spec is None:
            return None
        found = spec.submodule_search_locations
        folders = None if found is None else tuple(found)
        file = Path(spec.origin).resolve() if spec.has_location and spec.origin is not None else None
        place = Place(file, None if folders is None else tuple(folders))
    return place


def _editable(name: str) -> ModuleSpec | None:
    """Return the spec of a top-level module that setuptools installed as editable, by a finder of its own."""
    finders = [each for each in sys.meta_path if getattr(each, "__module__", "").startswith("__editable__")]
    return next(filter(None, (finder.find_spec(name, None) for finder in finders)), None)


def imports_of(file: Path) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    """Return the imports that a source file states, wherever in it, but not those for type checkers alone.

    Returns:
        For each its level (the dots before a relative name), the module, and the names that are taken from it, among
        which may be submodules.
    """
    return _imports_of(file, _stamp(file)) if file.suffix == ".py" else ()


def exported_by(file: Path) -> tuple[str, ...]:
    """Return the names in a source file's ``__all__``: what ``from ... import *`` imports, submodules included."""
    return _exported_by(file, _stamp(file)) if file.suffix == ".py" else ()


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    return _digest_of(file, _stamp(file))


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(4096)
def _digest_of(file: Path, stamp: tuple[int, int]) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@functools.lru_cache(4096)
def _imports_of(file: Path, stamp: tuple[int, int]) -> tuple[tuple[int, str, tuple[str, ...]], ...]:
    content = file.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # its import says so
        return ()
    everywhere = any(each.encode() in content for each in IMPORTERS)  # they stand in expressions, which are many
    return tuple(dict.fromkeys(each for node in _nodes(tree, everywhere) for each in _imported(node)))


@functools.lru_cache(4096)
def _exported_by(file: Path, stamp: tuple[int, int]) -> tuple[str, ...]:
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return ()
    lists = [
        node.value
        for node in body
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "__all__"
    ]
    return tuple(name for each in lists for node in ast.walk(each) if (name := _text(node)) is not None)


def _nodes(tree: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    """Yield the statements of a tree, and its expressions if they are asked for."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending += node.orelse
            continue
        if everywhere or not isinstance(node, ast.expr):
            pending += ast.iter_child_nodes(node)


def _imported(node: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield 0, alias.name, ()
    elif isinstance(node, ast.ImportFrom):
        yield node.level, node.module or "", tuple(alias.name for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        name = _text(node.args[0])
        if function in IMPORTERS and name is not None:
            bare = name.lstrip(".")
            yield len(name) - len(bare), bare, ()


def _text(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@functools.cache
def distributions(site: Path, top: str) -> Mapping[str, str]:
    """Return the distributions in a folder that bring a top-level module, each with its version.

    One that was not installed from an index may have been built anew under the same version: the hash of the list of
    its files, which has a hash of each, stands beside its version.
    """
    found: dict[str, str] = {}
    marks = [f"\n{top}{end}".encode() for end in "/."]
    infos = [(*each.stem.lower().rpartition("-")[::2], each) for each in site.glob("*.dist-info")]
    for name, version, info in sorted(infos, key=lambda of: (of[0] != top.lower(), of)):
        record = info / "RECORD"
        content = b"\n" + record.read_bytes() if record.is_file() else b""
        if not any(mark in content for mark in marks):
            continue
        local = f" ({hashlib.sha256(content).hexdigest()})" if (info / "direct_url.json").exists() else ""
        found[name] = version + local
        if name == top.lower() and (site / top / "__init__.py").is_file():
            break  # no others are looked into: only folders without that file are shared
    return found or {name.lower(): metadata.version(name) for name in _packages().get(top, ())}


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # slow; for systems whose distributions have no list of files
