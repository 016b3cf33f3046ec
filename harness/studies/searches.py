"""What is known of a search: a journal of Optuna's beside the store, which any number of processes may share.

What a process is at is locked (`harness.store.artefacts.Lock`), and the system frees the lock if the process dies. So
a setting that a killed process was at is found, and tried by another, or by the next run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.store.artefacts import Busy, Lock, Store, patiently

#: Where journals are, below the directory of the store that is on this machine.
FOLDER = "searches"


class Journal:
    """The settings of a search, what was found of each, and who is at it.

    Args:
        store: Its journal is beside this store; behind a URL, with what is kept of it on this machine.
        key: Of the search: a hash of all that it depends on.
    """

    def __init__(self, store: Store, key: str) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        self._store = store
        self._key = key
        path = store.files.scratch / FOLDER / f"{key}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _Writing(self._lock("journal"))
        lock.acquire()
        mend(path)
        lock.release()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = JournalStorage(JournalFileBackend(str(path), lock))  # type: ignore[arg-type]
        self._study: Any = optuna.create_study(
            storage=storage, study_name=key, directions=["minimize"] * 2, load_if_exists=True
        )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from taking anything up.

        Raises:
            Busy: Another one does so right now.
        """
        with self._lock("next") as lock:
            if not lock.take():
                raise Busy(self._key)
            yield

    def take(self, what: str, number: int) -> Lock | None:
        """Return the right to work on a setting, until it is given back or the process dies.

        None if another has it, or has finished it since it was looked for.
        """
        lock = self._lock(f"{what} {number}")
        if not lock.take():
            return None
        if self._done(what, number):
            lock.__exit__()
            return None
        return lock

    def _done(self, what: str, number: int) -> bool:
        if what == "setting":  # what the sampler learns is written last
            return any(each.number == number and each.state.is_finished() for each in self.settings())
        return f"{what} {number}" in self.notes()

    def begin(self, what: str, number: int) -> int:
        """Write that a setting is begun, and return how often it was begun before and never ended."""
        earlier: int = self.notes().get(f"begun {what} {number}", 0)
        self._study.set_user_attr(f"begun {what} {number}", earlier + 1)
        return earlier

    def put_back(self, what: str, number: int) -> None:
        """Write that a setting which was begun is stopped through no fault of its own."""
        name = f"begun {what} {number}"
        self._study.set_user_attr(name, self.notes()[name] - 1)

    def settings(self) -> list[Any]:
        """Return the settings that were suggested, in order, as Optuna's frozen trials: complete or running."""
        import optuna

        asked = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
        return list(self._study.get_trials(deepcopy=False, states=asked))

    def suggest(self, sampler: Any, ranges: Mapping[str, Any], begin: Mapping[str, Any] | None) -> Any:
        """Let a sampler suggest a setting; begin with one that is given."""
        import optuna

        waiting = (optuna.trial.TrialState.WAITING,)  # a process was killed between the next two calls
        if begin is not None and not self._study.get_trials(deepcopy=False, states=waiting):
            self._study.enqueue_trial(dict(begin))
        self._study.sampler = sampler
        return self._study.ask(fixed_distributions=dict(ranges))

    def drop(self, number: int) -> None:
        """Forget a setting whose suggestion was cut off."""
        import optuna

        self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def note(self, what: str, number: int, found: Mapping[str, Any], goals: tuple[float, float] | None = None) -> None:
        """Write what was found of a setting; with what is minimised, the sampler learns from it, too."""
        self._study.set_user_attr(f"{what} {number}", dict(found))
        if goals is not None:
            self._study.tell(number, list(goals))

    def notes(self) -> dict[str, Any]:
        """Return all that was found, by what and number."""
        return dict(self._study.user_attrs)

    def _lock(self, of: str) -> Lock:
        return self._store.lock(hashlib.sha256(f"{self._key} {of}".encode()).hexdigest())


class _Writing:
    """A lock of ours, as Optuna asks for one: its own outlives a process that is killed."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def acquire(self) -> bool:
        """Wait until nobody else writes."""

        def take() -> bool:
            if not self._lock.take():
                raise Busy
            return True

        return patiently(take)

    def release(self) -> None:
        """Let others write."""
        self._lock.__exit__()


def mend(path: Path) -> None:
    """Cut off the last line of a journal if it is not whole: its writer was stopped, or the disk was full."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)
