"""A limit on the time of a call."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from harness.calling import PluginError
from harness.guards.running import raise_in, spare

#: Seconds after which a call that caught the first interruption is interrupted again.
AGAIN = 1.0


class TimedOut(PluginError):  # noqa: N818 - said of the call
    """A call took longer than it may."""


@contextmanager
def limited(seconds: float | None, sentence: str) -> Iterator[None]:
    """Interrupt a block that takes too long, again and again until it ends.

    In the main thread a signal does it, elsewhere Python's own way to raise in a thread. Neither interrupts a call of C
    that does not return, and Windows has no such signal: there the second way serves everywhere.

    Args:
        seconds: The limit, or None for no limit.
        sentence: What the error says.

    Raises:
        TimedOut: It took longer.
    """
    if seconds is None:
        yield
    elif hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        with _by_signal(seconds, sentence):
            yield
    else:
        with _from_beside(seconds, sentence):
            yield


@contextmanager
def _by_signal(seconds: float, sentence: str) -> Iterator[None]:
    over = False

    def interrupt(*_: object) -> None:
        if not over:
            raise TimedOut(sentence)

    handler = signal.signal(signal.SIGALRM, interrupt)
    others = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    started = time.monotonic()
    try:
        try:
            yield
        finally:
            over = True
    finally:  # even if the interruption came just then
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if others[0]:  # somebody else's limit, as pytest-timeout's, goes on; if it is past, it acts at once
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, others[0] - (time.monotonic() - started)), others[1])


@contextmanager
def _from_beside(seconds: float, sentence: str) -> Iterator[None]:
    caller, over, interrupting = threading.get_ident(), threading.Event(), threading.Lock()

    def watch() -> None:
        wait = seconds
        while not over.wait(wait):
            with interrupting:
                if not over.is_set():
                    raise_in(caller, TimedOut)
            wait = AGAIN

    def stop() -> None:
        """End the clock. An interruption that comes just now is none any more: the block has ended."""
        while watcher.is_alive():
            with suppress(TimedOut):
                with interrupting:
                    over.set()
                spare(caller)
                watcher.join()

    watcher = threading.Thread(target=watch, name="the clock of a call", daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            stop()
    except TimedOut:  # even if it came before `stop` could keep it off
        stop()
        raise TimedOut(sentence) from None
