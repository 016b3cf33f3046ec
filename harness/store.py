"""Artefacts on disk: written once, by one process, and checked when read.

Layout under the root, safetensors and JSON only::

    records/ab/<key>.json            what was made, from what, by which run; names its blob
    blobs/cd/<sha256>.safetensors    tensors, named by their content, so equal weights are stored once
    locks/<key>.lock                 held while an artefact is being made; the system frees it if the process dies
    progress/<run>/<worker>.json     what a worker is at, for the controller to show; gone when the run ends

A key is the SHA-256 of everything that determines the bytes. Files are written beside their place and moved there
with ``os.replace``, blobs before the records that name them, so a record that can be read is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from harness.api import UnlearningError

if TYPE_CHECKING:
    from torch import Tensor


class Busy(Exception):  # noqa: N818 - not an error: somebody else is at work
    """The artefact is being made by another process; come back later."""


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
    return hashlib.sha256(canonical({"kind": kind, **determinants}).encode()).hexdigest()


@dataclass(frozen=True)
class Artefact:
    """One stored thing.

    Attributes:
        key: Its key.
        kind: ``"planted"``, ``"model"``, ``"value"`` or ``"operations"``.
        info: Plain values (costs, measures, shapes).
        blob: SHA-256 of its tensors' file, or None if it has none.
        made: ``{"run": ..., "trial": ..., "seconds": ...}``: by which run, for which trial, in what time.
    """

    key: str
    kind: str
    info: Mapping[str, Any]
    blob: str | None
    made: Mapping[str, Any]


#: Makes an artefact: its info and its tensors, if it has any.
Make = Callable[[], tuple[Mapping[str, Any], "Mapping[str, Tensor] | None"]]


class Store:
    """The artefacts under one directory; any number of processes may share it.

    Args:
        root: The directory; it is created.
        run: Id of this run, recorded with what it makes.

    Raises:
        UnlearningError: The directory cannot be created or written.
    """

    def __init__(self, root: Path, run: str) -> None:
        self.root = root
        self.run = run
        self._unsaved: dict[str, tuple[Artefact, bytes | None]] = {}
        check_writable(root)

    def get(self, key: str) -> Artefact | None:
        """Return a finished artefact, or None if there is none or what is there is damaged."""
        if key in self._unsaved:
            return self._unsaved[key][0]
        path = self._record_path(key)
        try:
            envelope = json.loads(path.read_bytes())
            record = envelope["record"]
            if envelope["sha256"] != hashlib.sha256(canonical(record).encode()).hexdigest() or record["key"] != key:
                raise ValueError("checksum")
            artefact = Artefact(key, record["kind"], record["info"], record["blob"], record["made"])
        except OSError:
            return None
        except (ValueError, KeyError, TypeError):
            self._damaged(path)
            return None
        if artefact.blob is not None and not self._blob_path(artefact.blob).exists():
            self._damaged(path)
            return None
        return artefact

    def tensors(self, artefact: Artefact) -> dict[str, Tensor] | None:
        """Return an artefact's tensors on the CPU, or None if their file is damaged (it is then removed)."""
        from safetensors.torch import load

        if artefact.key in self._unsaved:
            return load(self._unsaved[artefact.key][1] or b"")
        assert artefact.blob is not None, "only artefacts with tensors are asked for them"
        path = self._blob_path(artefact.blob)
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != artefact.blob:
                raise ValueError("checksum")
            return load(content)
        except (OSError, ValueError, SafetensorError):
            self._damaged(path)
            self._record_path(artefact.key).unlink(missing_ok=True)
            return None

    def obtain(
        self,
        kind: str,
        determinants: Mapping[str, Any],
        make: Make,
        trial: str,
    ) -> Artefact:
        """Return the artefact, making it if nobody has.

        Args:
            kind: What it is.
            determinants: Everything that determines its bytes, as plain values.
            make: Returns its info and tensors; called at most once, under the artefact's lock.
            trial: Id of the trial on whose behalf it would be made.

        Raises:
            Busy: Another process is making it.
        """
        key = key_of(kind, determinants)
        artefact = self.get(key)
        if artefact is not None:
            return artefact
        lock = FileLock(self.root / "locks" / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(key) from None
        except OSError as error:  # a full disk has no room for locks either
            warnings.warn(f"could not lock an artefact in {self.root}: {error}; it is made unlocked", stacklevel=2)
        try:
            artefact = self.get(key)  # somebody may have finished it before we held the lock
            if artefact is None:
                started = time.perf_counter()
                info, tensors = make()
                made = {"run": self.run, "trial": trial, "seconds": round(time.perf_counter() - started, 4)}
                artefact = self._put(key, kind, determinants, info, tensors, made)
            return artefact
        finally:
            lock.release()

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
            # safetensors refuses views and shared storage; a copy of each tensor has neither.
            content = save({name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())})
            blob = hashlib.sha256(content).hexdigest()
        artefact = Artefact(key, kind, info, blob, made)
        record = {"key": key, "kind": kind, "info": info, "blob": blob, "made": made, "of": determinants}
        envelope = {"sha256": hashlib.sha256(canonical(record).encode()).hexdigest(), "record": record}
        try:
            if blob is not None and content is not None and not self._blob_path(blob).exists():
                _write(self._blob_path(blob), content)
            _write(self._record_path(key), json.dumps(envelope, allow_nan=False).encode())
        except OSError as error:
            # Full disk: what was trained stays good for this process, and the run can finish.
            warnings.warn(f"could not store an artefact in {self.root}: {error}; it is kept in memory", stacklevel=2)
            self._unsaved[key] = (artefact, content)
        return artefact

    def _record_path(self, key: str) -> Path:
        return self.root / "records" / key[:2] / f"{key}.json"

    def _blob_path(self, blob: str) -> Path:
        return self.root / "blobs" / blob[:2] / f"{blob}.safetensors"

    def _damaged(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # first, because a warning may be an error
        warnings.warn(f"damaged artefact {path.name}: it is made again", DamagedArtefact, stacklevel=3)


def default_root() -> Path:
    """Return the user's cache directory for artefacts."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytest-unlearning", appauthor=False))


def check_writable(root: Path) -> None:
    """Create the store's directories.

    Raises:
        UnlearningError: They cannot be created or written.
    """
    try:
        for folder in ("records", "blobs", "locks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UnlearningError(
            f"the store {root} cannot be written ({error.strerror or error}); name another with --audit-store"
        ) from None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
