"""A pipeline in a file: ``pipeline.py`` on the command line, and ``pipeline.py:remove``."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.calling import calling
from harness.guards.guard import importing
from harness.importing import cause, named, raised
from harness.specs import SpecError


def is_file(target: str) -> bool:
    """Return whether what a spec names is a Python file, or something in one."""
    return target.partition(":")[0].endswith(".py")


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
    module = _module(kind, target, Path(path))
    if kind == "task":
        if attribute:
            raise SpecError(f"the task {target!r} names something in a file; name the file alone")
        return functools.partial(Pipeline.of_module, module, path), module.__name__
    from harness.pipelines.removal import Removal

    return Removal.of_module(module, path, attribute or "remove"), module.__name__


def _module(kind: str, target: str, path: Path) -> Any:
    """Return the module of a file; one in the working directory under its plain name, as an import finds it."""
    who = f"the {kind} {target!r}"
    if not path.is_file():
        raise SpecError(f"{who}: there is no file {path}")
    name = path.stem
    if not name.isidentifier():
        raise SpecError(f"{who}: {name!r} is no name of a module; rename the file")
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
    sys.path.append(str(path.resolve().parent))  # what it imports beside it
    try:
        with calling(who), importing(who):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SpecError(f"{who} cannot be imported: {raised(error)}") from cause(error)
    return module
