"""What an object is made by: the hash of its source files, and the state that tells it from others of that source."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import uuid
from pathlib import Path
from typing import Any

from harness.api import DECLARATIONS, declares

ROOT = Path(__file__).resolve().parent.parent
IN_TREE = ("harness", "unlearners", "poisons")


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


def source_with_adapted(owner: Any, value: Any) -> str:
    """Return the source of an object, that of a function which it adapts included."""
    adapted = declares(value, "wraps")
    if adapted is None:
        return source_of(owner)
    return hashlib.sha256((source_of(owner) + source_of(factory_of(adapted))).encode()).hexdigest()


def source_of(owner: Any) -> str:
    """Return the SHA-256 of the source files that make an object, hexadecimal.

    An in-tree object is its own module and the underscore modules beside it. A plugin is every module of its
    top-level package; a loose file is every module of its folder and of the packages in it, so that an edited
    helper is noticed. Something typed at a prompt has no file, and another hash every time.
    """
    module = sys.modules.get(owner.__module__)
    file = getattr(module, "__file__", None)
    sha = hashlib.sha256()
    if module is None or file is None:
        # What a function at a prompt calls may be typed anew at any time: nothing made by it is ever found again.
        return hashlib.sha256(uuid.uuid4().bytes).hexdigest()
    path = Path(file).resolve()
    top = module.__name__.partition(".")[0]
    if top in IN_TREE and path.is_relative_to(ROOT):
        files = [path, *path.parent.glob("_[!_]*.py")]
    elif hasattr(sys.modules[top], "__path__") and top != "__main__":
        files = [f for folder in sys.modules[top].__path__ for f in Path(folder).rglob("*.py")]
    else:
        packages = [p.parent for p in path.parent.glob("*/__init__.py") if p.parent.name not in IN_TREE]
        files = [path, *path.parent.glob("*.py"), *(f for p in packages for f in p.rglob("*.py"))]
    for each in sorted(set(files)):
        sha.update(each.name.encode() + b"\0" + each.read_bytes() + b"\0")
    return sha.hexdigest()


def plain_value(value: Any, otherwise: str) -> Any:
    """Return a value that can stand in a key: as it is if it is plain, else ``otherwise``."""
    if isinstance(value, bool | int | float | str | None):
        return value if value == value and value not in (float("inf"), float("-inf")) else repr(value)
    if isinstance(value, tuple | list):
        return [plain_value(each, otherwise) for each in value]
    if isinstance(value, dict):
        return {str(name): plain_value(each, otherwise) for name, each in value.items()}
    return otherwise
