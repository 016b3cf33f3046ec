"""Imports of plugins, and what is said where they fail."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from harness import calling as calls
from harness.api import ContractError
from harness.calling import PluginExit, calling
from harness.guards.guard import importing
from harness.locating import locate
from harness.specs import SpecError

DOTTED = re.compile(r"([\w.]+):[\w.]+")  # the module is its group


def named(path: str, kind: str = "function") -> Any:
    """Return what a dotted path ``pkg.module:attr`` names; ``kind`` is what a message calls it.

    Its module, and what that imports, are searched for in the working directory first: pytest, ``python -m pytest``
    and the commands have different entries on ``sys.path``, and must find the same.

    Raises:
        SpecError: It is no such path, it cannot be imported, or another module of that name was imported before.
    """
    if not DOTTED.fullmatch(path):
        raise SpecError(f"the {kind} {path!r} is not a dotted path like mymodule:attribute")
    folder, module = str(Path.cwd()), path.partition(":")[0]
    if folder not in sys.path:  # last, for what is imported later; a file of the folder shadows nothing
        sys.path.append(folder)
    _refuse_another(folder, module, f"the {kind} {path!r}")
    with first_in(folder):
        return imported(path, kind, path)


def _refuse_another(folder: str, module: str, who: str) -> None:
    """Raise an error if a name means a file of the folder, but another one was or would be imported for it."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        place = locate(top, [folder])
        if place is not None and place.file is not None:
            raise SpecError(
                f"{who} is in {place.file}, but {top!r} is the name of a module of Python's standard library; rename "
                "the file"
            )
        return
    for name in dict.fromkeys((top, module)):
        place = locate(name, [folder, *sys.path])
        before = getattr(sys.modules.get(name), "__file__", None)
        if place is None or place.file is None or before is None or Path(before).resolve() == place.file:
            continue
        raise SpecError(
            f"{who} is in {place.file}, but Python has already imported another module {name!r}, from {before}; rename "
            "one of the two, or run from another directory"
        )


@contextlib.contextmanager
def first_in(folder: str) -> Iterator[None]:
    """Let imports look into a folder before ``sys.path``, except for modules of the standard library."""

    class FolderFirst:
        @staticmethod
        def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
            if path is not None or name in sys.stdlib_module_names:
                return None
            return PathFinder.find_spec(name, [folder, *sys.path])

    at = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
    sys.meta_path.insert(at, FolderFirst)
    try:
        yield
    finally:
        sys.meta_path.remove(FolderFirst)


def imported(value: str, kind: str, target: str, entry: metadata.EntryPoint | None = None) -> Any:
    """Import what ``pkg.module:attr`` names.

    Args:
        value: The path.
        kind: What a message calls it, ...
        target: ... and the name that was given.
        entry: The entry point that registers it.

    Raises:
        SpecError: It cannot be imported, or the module has no such attribute.
    """
    module, _, attributes = value.partition(":")
    of = f" of {distribution_of(entry)[0]}" if entry else ""
    who = f"the {kind} {target!r}"
    try:
        with calling(who), importing(who):
            found: Any = importlib.import_module(module)
    except ContractError as error:
        raise SpecError(str(error)) from None
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and entry is not None and (lacking := _lacking(entry, error)):
            raise SpecError(f"{who}{of} {lacking}") from error
        raise SpecError(f"{who}{of} cannot be imported: {raised(error)}") from cause(error)
    for attribute in attributes.split("."):
        try:
            with calling(who):
                found = getattr(found, attribute)
        except AttributeError:
            near = get_close_matches(attribute, dir(found), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise SpecError(f"{who}{of}: {module} has no attribute {attribute!r}{hint}") from None
        except Exception as error:
            raise SpecError(f"{who}{of} cannot be imported: {raised(error)}") from cause(error)
    return found


def cause(error: BaseException) -> BaseException:
    """Return what a plugin raised: where it tried to end the test, the exception by which it did."""
    return error.__cause__ if isinstance(error, PluginExit) and error.__cause__ is not None else error


def raised(error: BaseException) -> str:
    """Return in one line what a plugin raised, and in which file and line."""
    first = cause(error)
    frames = _own_frames(first)
    inside = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    name = "" if isinstance(first, PluginExit) else f"{type(first).__name__}: "
    return (name + " ".join(str(first).split())).removesuffix(": ") + inside


def trace(error: BaseException | None) -> list[str]:
    """Return the traceback of what a plugin raised while it was imported, without the frames that led there."""
    if error is None or not (own := _own_frames(error)):
        return []
    return ["Traceback (most recent call last):", *"".join(traceback.format_list(own)).splitlines()] + [
        line.rstrip() for line in traceback.format_exception_only(error)
    ]


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of an error but for those of the import, of the calling harness, and of pytest's outcomes."""
    ours = (__file__, calls.__file__, contextlib.__file__, str(Path(__file__).with_name("registry.py")))
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in ours and not re.search(r"importlib|[/\\]_pytest[/\\]", frame.filename)
    ]


def _lacking(entry: metadata.EntryPoint, error: ModuleNotFoundError) -> str:
    """Say which module a plugin lacks that is no part of it, and which of its extras brings it; else ``""``."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    module = (error.name or "").partition(".")[0]
    if not module or module == entry.module.partition(".")[0] or entry.dist is None:
        return ""
    name, extras = entry.dist.name, entry.dist.metadata.get_all("Provides-Extra") or []
    sentence = f"needs the module {module!r}, which is not installed"
    for requirement in map(Requirement, entry.dist.requires or []):
        # A module and the distribution that brings it mostly have one name; where not, the extras are listed.
        if canonicalize_name(requirement.name) != canonicalize_name(module):
            continue
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            return f"{sentence} although {name} requires it: pip install {name}"
        for extra in extras:
            if marker.evaluate({"extra": extra}):
                return f"{sentence}; the extra {extra!r} brings it: pip install '{name}[{extra}]'"
    return f"{sentence}; one of its extras may bring it: {', '.join(extras)}" if extras else sentence


@functools.cache
def distribution_of(entry: metadata.EntryPoint) -> tuple[str, str]:
    """Return the name and the version of the distribution that registers an entry point."""
    if entry.dist is None:
        return "pytest-unlearning", "(checkout)"
    said = entry.dist.metadata  # parsed at every look
    return said["Name"], said["Version"]
