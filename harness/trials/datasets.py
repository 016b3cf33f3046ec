"""The data of tasks, and their hashes, for which they are loaded only if they may have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.api import UnlearningError
from harness.calling import calling
from harness.cells import Registered
from harness.guards.guard import guarded
from harness.store.artefacts import Artefact, Gone, Store, key_of, patiently
from harness.trials import keys
from harness.trials.cache import Cache
from harness.trials.checks import check_model, check_recipe, check_split, in_words

if TYPE_CHECKING:
    import torch

    from harness.training.data import Split


class _Loaded(NamedTuple):
    """A task's data, or the sentence that says why they cannot be had."""

    split: Split | None
    why: str = ""


class Datasets:
    """The data of tasks.

    Args:
        store: Where the hashes of data are kept.
        folder: Data sets for tasks that read files, or None.
        device: Where a task's data are put.
    """

    def __init__(self, store: Store, folder: Path | None, device: Callable[[Registered], torch.device]) -> None:
        self._store = store
        self._folder = folder
        self._device = device
        self._loaded: Cache[Registered, _Loaded] = Cache(16)
        self._fingerprints: Cache[Registered, str] = Cache(1024)

    def fingerprint(self, task: Registered) -> str:
        """Return the hash of a task's data.

        Raises:
            UnlearningError: They cannot be had, or the task cannot be used.
        """
        return self._fingerprints.get(task, lambda: self._fingerprint(task))

    def _fingerprint(self, task: Registered) -> str:
        check_recipe(task)
        files = self._files(task)
        if files is None:
            return self._load(task).fingerprint
        of = keys.data(task, files)

        def make() -> tuple[dict[str, str], None]:
            return {"fingerprint": self._load(task).fingerprint}, None

        found = patiently(lambda: self._store.obtain("data", of, make, task.id, _is_fingerprint))
        return str(found.info["fingerprint"])

    def _files(self, task: Registered) -> Mapping[str, str] | None:
        """Return hashes or the like of the files that a task reads; None if the task cannot name them."""
        said = getattr(task.value, "files", None)
        who = f"the task {task.id!r}"
        with in_words(f"{who} cannot name its files"), calling(who):
            found: Mapping[str, str] | None = said(self._folder) if said is not None else None
        return found

    def split(self, task: Registered) -> Split:
        """Return a task's data on the device; loaded once, or found once to be out of reach.

        Raises:
            UnlearningError: They cannot be had.
            Gone: They are not what the store says of them; it says so no longer.
        """
        split = self._load(task)
        if split.fingerprint != self.fingerprint(task):
            self._fingerprints.drop(task)
            found = self._store.get(key_of("data", keys.data(task, self._files(task) or {})))
            if found is not None:
                self._store.discard(found)
            raise Gone(task.id)
        return split

    def _load(self, task: Registered) -> Split:
        loaded = self._loaded.get(task, lambda: self._read(task))
        if loaded.split is None:
            raise UnlearningError(loaded.why)
        return loaded.split

    def _read(self, task: Registered) -> _Loaded:
        from harness.training.isolation import isolated_rng

        try:
            who = f"the task {task.id!r}"
            with isolated_rng(0), in_words(f"the data of {who} cannot be loaded"), guarded(who):
                loaded = task.value.load(self._folder)
            split = check_split(task, loaded).to(self._device(task))
            with in_words(f"{who} cannot be used"), calling(who):
                check_model(task, split)
            return _Loaded(split)
        except UnlearningError as error:  # a hub that does not answer takes half a minute to say so
            return _Loaded(None, str(error))


def _is_fingerprint(artefact: Artefact) -> None:
    if len(bytes.fromhex(artefact.info["fingerprint"])) != 32:
        raise ValueError("a fingerprint is a SHA-256")
