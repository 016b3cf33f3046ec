"""Calls of plugins: what would end a test or the process from inside of one becomes an error of that plugin."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.api import UnlearningError

#: What a plugin called, by the exception that it raises.
CALLS = {
    "Skipped": "pytest.skip",
    "XFailed": "pytest.xfail",
    "Failed": "pytest.fail",
    "Exit": "pytest.exit",
    "SkipTest": "unittest's skipTest",
    "SystemExit": "sys.exit",
}

#: Attribute of an error that a plugin raised: which plugin, in words.
MARK = "raised_by_plugin"


class PluginError(Exception):
    """What a plugin did wrong, in a sentence of ours; no refusal of its own."""


class PluginExit(PluginError):  # noqa: N818 - it reads as what it is
    """A plugin tried to end the test or the process that runs it."""


@contextmanager
def calling(who: str, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Run code of a plugin. Errors pass as they are, and so does Ctrl-C.

    Args:
        who: The plugin, in words, such as ``"the unlearner 'scrub'"``.
        passing: Further exceptions that pass, because the plugin calls back what raises them.

    Raises:
        PluginExit: It called ``pytest.skip`` or the like, ended the process, or raised an exception by which the
            harness talks to itself.
    """
    process, thread, leave = os.getpid(), threading.get_ident(), os._exit

    def refuse(code: int) -> None:
        if (os.getpid(), threading.get_ident()) == (process, thread):
            raise PluginExit(_sentence(who, f"os._exit({code})"))
        leave(code)  # a child of the plugin, or the end of a worker of xdist

    os._exit = refuse  # type: ignore[assignment]
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, PluginError, *passing)) or _is_error(error):
            if not isinstance(error, passing):
                setattr(error, MARK, who)
            raise
        name = type(error).__name__
        said = " ".join(str(error).split())
        raise PluginExit(
            _sentence(who, CALLS.get(name, f"raising {name}") + (f" ({said[:200]})" if said else ""))
        ) from error
    finally:
        os._exit = leave


def of_plugin(error: BaseException) -> bool:
    """Return whether an error was raised inside of a plugin, or says what a plugin did wrong."""
    return isinstance(error, (UnlearningError, PluginError)) or hasattr(error, MARK)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the machine or of a GPU; torch has no class for both."""
    text = str(error)
    return isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text


def _is_error(error: BaseException) -> bool:
    """Return whether an exception says that something went wrong, and nothing else."""
    # Exceptions like any other, by their class, that end a test or all of them. Nobody can raise what nobody imported.
    for module, name in (("unittest.case", "SkipTest"), ("_pytest.outcomes", "Exit")):
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return False
    if not isinstance(error, Exception):
        return False
    return isinstance(error, UnlearningError) or type(error).__module__.partition(".")[0] != "harness"


def _sentence(who: str, call: str) -> str:
    return f"{who} tried to end its own test by {call}; if it cannot do its work, it must raise an error that says why"
