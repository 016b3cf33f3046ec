"""Artefacts in a directory or behind a URL: written once, by one process, and checked when read.

Layout under the root, safetensors and JSON only::

    records/ab/<key>.json            what was made, from what, by which run; names its blob
    blobs/cd/<sha256>.safetensors    tensors, named by their content, so equal weights are stored once
    locks/<key or blob>.lock         held while an artefact is being made; the system frees it if the process dies
    searches/<key>.jsonl             what a search for settings has tried
    progress/<run>/<worker>.json     what a worker is at, for the controller to show; gone when the run ends

A key is the SHA-256 of what determines the bytes. Files are written whole (`harness.store.files`), blobs before the
records that name them, so a record that can be read is complete. If the root is a URL, locks, searches and progress
are in a directory of this machine.

Nothing that is read is believed: a file that is not what was written, or not what could have been, is removed, with a
warning, and made again. A file that cannot be read is not known to be damaged. It is read again, and stays in any case;
if it still cannot be read, what it holds is made again, with a warning, and written in its place, whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from harness.api import UnlearningError
from harness.store.files import Files, files_at, read_patiently
from harness.store.tensors import copied, decoded, encoded

if TYPE_CHECKING:
    from torch import Tensor


Answer = TypeVar("Answer")


class Busy(Exception):  # noqa: N818 - not an error: somebody else is at work
    """Another process is making it, or what it is made of; come back later."""


class Gone(Busy):
    """It was damaged, and is removed: who asks again at once has it made again."""


#: Seconds before a busy artefact is asked for again: the first pause, which doubles up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.2


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask until nobody else is making what is asked for, and return the answer: the one way to wait for `Busy`."""
    pause = FIRST_PAUSE
    while True:
        try:
            return ask()
        except Busy:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def ask_all(asks: Iterable[Callable[[], Answer]]) -> list[Answer]:
    """Ask for several things, for all of them even if one is busy, and return the answers in order.

    ``patiently(lambda: ask_all(asks))`` waits only if nothing else is left to do. What was answered is asked for again
    after a pause, so an answer that is dear to have twice must be kept by whoever gives it.

    Raises:
        Busy: At least one is being made by another process.
    """
    answers: list[Answer] = []
    busy: Busy | None = None
    for ask in asks:
        try:
            answers.append(ask())
        except Busy as error:
            busy = busy or error
    if busy is not None:
        raise busy
    return answers


class DamagedArtefact(UserWarning):
    """A stored file was not what was written; it is made again."""


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values.

    Raises:
        TypeError: The value is not made of plain Python values.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(kind: str, determinants: Mapping[str, Any]) -> str:
    """Return the key of an artefact: the SHA-256 of its kind and all that determines it."""
    return hashlib.sha256(canonical({**determinants, "kind": kind}).encode()).hexdigest()


@dataclass(frozen=True)
class Artefact:
    """One stored thing.

    Attributes:
        key: Its key.
        kind: ``"data"``, ``"planted"``, ``"told"``, ``"model"``, ``"value"`` or ``"contract"``.
        info: Plain values (costs, measures, shapes).
        blob: SHA-256 of its tensors' file, or None if it has none.
        made: ``{"run": ..., "trial": ..., "seconds": ...}``: by which run, for which trial, in what time.
    """

    key: str
    kind: str
    info: Mapping[str, Any]
    blob: str | None
    made: Mapping[str, Any]


def has_tensors(artefact: Artefact) -> None:
    """Refuse an artefact without tensors.

    Raises:
        ValueError: It has none.
    """
    if artefact.blob is None:
        raise ValueError("an artefact of this kind has tensors")


class Lock:
    """The right to make artefacts, against the other processes of this machine.

    Taken with the first thing that is made under it, and given back at the end of a ``with``. Several small artefacts
    are best made under one, because a file for each takes as long as writing it.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileLock | None = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.release()
            self._file = None

    def take(self) -> bool:
        """Take it, unless it is held already; say whether nobody else has it.

        Raises:
            OSError: There can be no such file: the disk is full, or knows no locks.
        """
        if self._file is None:
            # Where the file system has no locks we do without: a stand-in could outlive us.
            file = FileLock(self._path, fallback_to_soft=False)
            try:
                file.acquire(timeout=0)
            except Timeout:
                return False
            self._file = file
        return True


#: Makes an artefact: its info and its tensors, if it has any.
Make = Callable[[], tuple[Mapping[str, Any], "Mapping[str, Tensor] | None"]]


class Store:
    """The artefacts under one root; any number of processes may share it.

    Args:
        root: A directory, which is created, or a URL.
        run: Id of this run, recorded with what it makes.

    Raises:
        UnlearningError: The root cannot be created or reached, or it can neither be written nor read.
    """

    def __init__(self, root: Path | str | Files, run: str) -> None:
        self.root = root
        self.run = run
        self.files = files_at(root)
        self._unsaved: dict[str, tuple[Artefact, bytes | None]] = {}
        self._ignored: set[str] = set()  # what could not be read, or is damaged and could not be removed
        self._written: tuple[str, dict[str, Tensor]] | None = None  # the last blob: as a rule it is used at once
        self.files.check()

    def get(self, key: str, check: Callable[[Artefact], object] = lambda found: None) -> Artefact | None:
        """Return a finished artefact, or None if there is none, or what is there is damaged or cannot be read.

        Args:
            key: Its key.
            check: Uses what is found, to see whether it can be used; what it raises (``KeyError``, ``TypeError``,
                ``ValueError``) says that it is damaged.
        """
        artefact = self._get(key)
        if artefact is None:
            return None
        try:
            check(artefact)
        except (KeyError, TypeError, ValueError):
            if artefact.made["run"] == self.run:  # our own: an error of ours, and no damage
                raise
            self.discard(artefact)
            return None
        return artefact

    def _get(self, key: str) -> Artefact | None:
        if key in self._unsaved:
            return self._unsaved[key][0]
        name = record_name(key)
        if name in self._ignored:
            return None
        try:
            artefact = artefact_of(key, read_patiently(self.files, name))
            if artefact.blob is not None and blob_name(artefact.blob) in self._ignored:
                return None
            if artefact.blob is not None and not self.files.exists(blob_name(artefact.blob)):
                raise ValueError("its blob is missing")
        except OSError:
            return None
        except ValueError:
            self._damaged(name)
            return None
        return artefact

    def tensors(self, artefact: Artefact) -> dict[str, Tensor] | None:
        """Return an artefact's tensors on the CPU, or None if it must be made again.

        If their file is damaged or gone, it is removed, and the record with it. If it cannot be read, it stays, and the
        record, too, for others may be able to read it. This process does not ask for it again.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        if artefact.key in self._unsaved:
            return decoded(load(self._unsaved[artefact.key][1] or b""))
        written, self._written = self._written, None
        if written is not None and written[0] == artefact.blob:
            return written[1]
        assert artefact.blob is not None, "only artefacts with tensors are asked for them"
        name = blob_name(artefact.blob)
        try:
            content = read_patiently(self.files, name)
            if hashlib.sha256(content).hexdigest() != artefact.blob:
                raise ValueError("wrong checksum")
            return decoded(load(content))
        except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError):  # TypeError: a type torch lacks
            self.discard(artefact)
        except OSError as error:
            self._ignored.add(name)  # first, because a warning may be an error
            warnings.warn(
                f"could not read {Path(name).name} in {self.files}: {error}; it stays there, and what it holds is made "
                "again",
                stacklevel=2,
            )
        return None

    def discard(self, artefact: Artefact) -> None:
        """Remove an artefact that turned out to be none, with a warning; who wants it makes it again."""
        self._remove(record_name(artefact.key))
        self._damaged(record_name(artefact.key) if artefact.blob is None else blob_name(artefact.blob))

    def obtain(
        self,
        kind: str,
        determinants: Mapping[str, Any],
        make: Make,
        trial: str,
        check: Callable[[Artefact], object] = lambda found: None,
        lock: Lock | None = None,
    ) -> Artefact:
        """Return the artefact, making it if nobody has.

        Args:
            kind: What it is.
            determinants: Everything that determines its bytes, as plain values.
            make: Returns its info and tensors; called at most once, under the lock.
            trial: Id of the trial on whose behalf it would be made.
            check: As for `get`.
            lock: What it is made under, and who gave it gives it back; its own by default.

        Raises:
            Busy: Another process of this machine is making it, or something else under the same lock.
            UnlearningError: It is missing, and the store can only be read.
        """
        key = key_of(kind, determinants)
        artefact = self.get(key, check)
        if artefact is not None:
            return artefact
        if self.files.refusal:
            raise UnlearningError(f"not all that this run needs is stored, and {self.files.refusal}")
        with contextlib.nullcontext(lock) if lock is not None else self.lock(key) as held:
            try:
                if not held.take():
                    raise Busy(key)
            except OSError as error:  # a full disk has no room for locks either
                warnings.warn(f"could not lock an artefact in {self.files}: {error}; it is made unlocked", stacklevel=2)
            artefact = self.get(key, check)  # somebody may have finished it before we held the lock
            if artefact is None:
                started = time.perf_counter()
                info, tensors = make()
                made = {"run": self.run, "trial": trial, "seconds": round(time.perf_counter() - started, 4)}
                artefact = self._put(key, kind, determinants, info, tensors, made)
            return artefact

    def lock(self, key: str) -> Lock:
        """Return the lock of a key; it is not taken yet."""
        return Lock(self.files.scratch / "locks" / f"{key}.lock")

    def _put(
        self,
        key: str,
        kind: str,
        determinants: Mapping[str, Any],
        info: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None,
        made: Mapping[str, Any],
    ) -> Artefact:
        from safetensors.torch import save

        content = blob = None
        if tensors is not None:
            copies = {name: copied(name, tensor) for name, tensor in sorted(tensors.items())}
            content = save(encoded(copies))
            blob = hashlib.sha256(content).hexdigest()
            self._written = blob, copies
        artefact = Artefact(key, kind, info, blob, made)
        record = {"key": key, "kind": kind, "info": info, "blob": blob, "made": made, "of": determinants}
        text = canonical(record)
        envelope = f'{{"sha256":"{hashlib.sha256(text.encode()).hexdigest()}","record":{text}}}'
        try:
            if blob is not None and content is not None and not self._has(blob_name(blob)):
                self._write(blob_name(blob), content)
            self._write(record_name(key), envelope.encode())
        except OSError as error:
            # Full disk: what was trained stays good for this process, and the run can finish.
            self._unsaved[key] = (artefact, content)  # first, because a warning may be an error
            warnings.warn(f"could not store an artefact in {self.files}: {error}; it is kept in memory", stacklevel=2)
        return artefact

    def _has(self, name: str) -> bool:
        return name not in self._ignored and self.files.exists(name)

    def _write(self, name: str, content: bytes) -> None:
        self.files.write(name, content)
        self._ignored.discard(name)

    def _remove(self, name: str) -> None:
        try:
            self.files.remove(name)
        except OSError:  # a disk that cannot be written any more
            self._ignored.add(name)

    def _damaged(self, name: str) -> None:
        self._remove(name)  # first, because a warning may be an error
        warnings.warn(f"damaged artefact {name.rpartition('/')[2]}: it is made again", DamagedArtefact, stacklevel=3)


def record_name(key: str) -> str:
    """Return where the record of a key is, below the root."""
    return f"records/{key[:2]}/{key}.json"


def blob_name(blob: str) -> str:
    """Return where the tensors of a SHA-256 are, below the root."""
    return f"blobs/{blob[:2]}/{blob}.safetensors"


def artefact_of(key: str, content: bytes) -> Artefact:
    """Return the artefact of a record. Whoever wrote it, `Store` could have, for this key.

    Raises:
        ValueError: It is not.
    """
    try:
        envelope = json.loads(content)
        record = envelope["record"]
        if envelope["sha256"] != hashlib.sha256(canonical(record).encode()).hexdigest() or record["key"] != key:
            raise ValueError("wrong checksum")
        kind, info, blob, made = (record[name] for name in ("kind", "info", "blob", "made"))
        types = {"run": str, "trial": str, "seconds": int | float}
        plain = isinstance(kind, str) and isinstance(info, dict)
        if not plain or not all(isinstance(made[name], type_) for name, type_ in types.items()):
            raise ValueError("unexpected types")
        if blob is not None and not re.fullmatch("[0-9a-f]{64}", blob):  # it becomes part of a path
            raise ValueError("invalid name of a blob")
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("not a record") from error
    return Artefact(key, kind, info, blob, made)


def default_root() -> Path:
    """Return the user's cache directory for artefacts."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytest-unlearning", appauthor=False))
