"""The one way in which code of a plugin is run: nothing that it leaves behind reaches what runs after it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.api import ContractError
from harness.calling import calling
from harness.guards.clock import limited
from harness.guards.events import Notes, noting, unheard
from harness.guards.patches import SEAL
from harness.guards.running import left, running
from harness.guards.settings import Setting, put_back, settings, values


@dataclass
class _Guard:
    """One call that is going on.

    Attributes:
        who: The plugin, in words.
        notes: What Python reports of it.
        settings, values: The settings as they were.
        modules: Modules that were imported then.
    """

    who: str
    notes: Notes
    settings: tuple[Setting, ...] = field(default_factory=settings)
    values: list[Any] = field(default_factory=list)
    modules: int = 0

    def begin(self) -> None:
        self.values = values(self.settings)
        self.modules = len(sys.modules)

    def check(self) -> ContractError | None:
        """Put back what differs, and return an error that says what it was."""
        changed = put_back(self.settings, self.values, len(sys.modules) != self.modules)
        patched = [f"{f.__module__}.{f.__qualname__}" for f in self._rewritten()] + SEAL.broken()
        if patched:
            names = ", ".join(dict.fromkeys(patched))
            return ContractError(f"{self.who} replaced {names}; it must leave them as they are", "patches")
        if self.notes.files:
            return ContractError(
                f"{self.who} touched {self.notes.files[0]}; it must leave the store's and the harness's files alone"
            )
        lines = {setting.line for setting in changed}
        if lines == {"no-hooks"}:
            return ContractError(
                f"{self.who} left global hooks on torch, which would act on every later model; it must remove them",
                "no-hooks",
            )
        if changed:
            names = " and ".join(setting.name for setting in changed)
            return ContractError(f"{self.who} left {names} changed; it must put back what it sets", "settings")
        return None

    def _rewritten(self) -> list[Any]:
        """Return the functions of what is watched that were rewritten, as they were again."""
        found = []
        for function, name, before in reversed(self.notes.functions):
            if SEAL.watches(str(function.__module__)):
                setattr(function, name, before)
                found.append(function)
        self.notes.functions.clear()
        return found


_active: list[_Guard] = []


@contextmanager
def guarded(
    who: str,
    *,
    passing: tuple[type[BaseException], ...] = (),
    closed: tuple[str, ...] = (),
    seconds: float | None = None,
    longer: str = "",
) -> Iterator[None]:
    """Run code of a plugin.

    What it leaves changed is put back: settings of Python, torch and numpy, functions of theirs and of the harness.
    Threads are asked to end and processes killed. If the plugin raised an error, that error is the one raised.

    Args:
        who: The plugin, in words, such as ``"the unlearner 'scrub'"``.
        passing: Exceptions by which the harness talks to itself, and which pass because the plugin calls it back.
        closed: Folders of which it must neither read nor write anything.
        seconds: The time it has, or None.
        longer: What the error that it took longer says, beside who and how long: how to give it longer.

    Raises:
        ContractError: It left something changed or running, or touched files that it must not.
        PluginExit: It tried to end its own test or the process.
        TimedOut: It took longer than it may.
    """
    sentence = f"{who} did not end within {seconds or 0:.0f} seconds{longer}"
    with ExitStack() as stack:
        notes = stack.enter_context(noting(closed))
        guard = _Guard(who, notes)
        SEAL.renew()
        started = running()
        guard.begin()
        _active.append(guard)
        try:
            with calling(who, passing), limited(seconds, sentence):
                yield
        except PermissionError:
            if not notes.files:  # of a file that was out of bounds the error below says more
                raise
        finally:
            _active.pop()
            error = guard.check()
            behind = left(started)
    if error is not None:
        raise error
    if behind:
        raise ContractError(
            f"{who} left {' and '.join(behind)} running; it must end what it starts", "leaves-nothing-running"
        )


@contextmanager
def called_back() -> Iterator[None]:
    """Run what a plugin called of the harness as if nobody watched the plugin, under settings that it has not changed.

    Raises:
        ContractError: It changed something that others will be made with.
    """
    active, _active[:] = _active[:], []
    if active and (error := active[-1].check()) is not None:
        raise error
    try:
        with unheard():
            yield
    finally:
        _active[:] = active


@contextmanager
def importing(who: str) -> Iterator[None]:
    """Import a module of a plugin. What it sets of Python, as libraries do when they are imported, may stay.

    Raises:
        ContractError: It replaced functions of torch, numpy or the harness, or changed settings of theirs; all is put
            back.
    """
    with noting() as notes:
        guard = _Guard(who, notes, tuple(each for each in settings() if not each.imports))
        SEAL.renew()
        guard.begin()
        try:
            yield
        finally:
            error = guard.check()
    if error is not None:
        raise error
