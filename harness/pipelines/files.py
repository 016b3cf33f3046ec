"""A pipeline in a file: ``pipeline.py`` on the command line, and ``pipeline.py:remove``."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from harness.calling import calling
from harness.guards.guard import importing
from harness.importing import cause, first_in, named, raised
from harness.specs import SpecError


def in_file(kind: str, target: str) -> tuple[Callable[..., Any], str]:
    """Return what makes the task that a file defines, or the unlearner itself, and the name of its module.

    Args:
        kind: ``"task"`` or ``"unlearner"``.
        target: ``PATH.py``, or ``PATH.py:NAME``.

    Raises:
        SpecError: The file is missing, cannot be imported, or lacks what was asked for.
    """
    from harness.pipelines.pipeline import Pipeline

    path, _, attribute = target.partition(":")
    if kind == "poison":
        raise SpecError(f"the poison {target!r} is a file; name a class in a module, such as mymodule:MyPoison")
    module = module_of(kind, target, Path(path))
    if kind == "task":
        if attribute:
            raise SpecError(f"the task {target!r} names something in a file; name the file alone")
        return functools.partial(Pipeline.of_module, module, path), module.__name__
    from harness.pipelines.removal import Removal

    return Removal.of_module(module, path, attribute or "remove"), module.__name__


def part_of(file: Path, names: Collection[str]) -> str:
    """Return a hash of what a module's code needs for some of its names: whoever edits ``remove`` trains nothing again.

    Left out are functions, classes and constants at the top of the module that these names do not lead to.

    Args:
        file: The module's file.
        names: What is used of it.
    """
    body = ast.parse(file.read_bytes()).body
    defined: dict[str, list[ast.stmt]] = {}
    always: list[ast.stmt] = []
    for node in body:
        own = _names_of(node)
        for name in own:
            defined.setdefault(name, []).append(node)
        always += [] if own else [node]
    kept, pending = set(always), [*always, *(node for name in names for node in defined.get(name, ()))]
    while pending:
        node = pending.pop()
        kept.add(node)
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        pending += [each for name in used for each in defined.get(name, ()) if each not in kept]
    return hashlib.sha256("\n".join(ast.dump(node) for node in body if node in kept).encode()).hexdigest()


def _names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines, if that is all it does."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [] if node.decorator_list else [node.name]
    plain = not any(isinstance(each, ast.Call) for each in ast.walk(node))
    if isinstance(node, ast.Assign) and plain and all(isinstance(each, ast.Name) for each in node.targets):
        return [each.id for each in node.targets if isinstance(each, ast.Name)]
    return []


def module_of(kind: str, target: str, path: Path) -> Any:
    """Return the module of a file; one in the working directory under its plain name, as an import finds it.

    Args:
        kind: What it is to define, in a word.
        target: What names it, for errors.
        path: The file.

    Raises:
        SpecError: The file is missing, or cannot be imported.
    """
    who = f"the {kind} {target!r}"
    if not path.is_file():
        raise SpecError(f"{who}: there is no file {path}")
    name = path.stem
    if not name.isidentifier():
        raise SpecError(f"{who}: {name!r} is not a valid module name; rename the file")
    if path.resolve().parent == Path.cwd().resolve():
        return sys.modules[named(f"{name}:__name__", kind)]
    before = sys.modules.get(name)
    if before is not None:
        if Path(getattr(before, "__file__", "") or "").resolve() == path.resolve():
            return before
        raise SpecError(f"{who}: Python has already imported another module {name!r}; rename the file")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise SpecError(f"{who} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.append(folder)  # what its functions import later
    try:
        with first_in(folder), calling(who), importing(who):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SpecError(f"{who} cannot be imported: {raised(error)}") from cause(error)
    return module
