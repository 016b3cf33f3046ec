"""Where the files of a store are: a directory, or a place behind a URL that fsspec can open.

A store asks for little: read a file, write it whole or not at all, see whether it is there, remove it, list them. A
directory does this with ``os.replace``, an object store with one request. Locks and progress need a directory on this
machine in both cases, `Files.scratch`.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from harness.api import UnlearningError

FOLDERS = ("records", "blobs", "locks")
#: Seconds after which a file that could not be read is read again: a network may fail for a moment.
AGAIN = (0.1, 0.5)


@dataclass(frozen=True)
class Entry:
    """A file in a store: its name below the root, its size in bytes, when it was written (seconds since 1970)."""

    name: str
    size: int
    written: float


class Files(Protocol):
    """Files under one root; names are relative to it, with slashes. Errors are ``OSError``.

    Attributes:
        scratch: A directory on this machine, the root itself where that is one: for locks and progress.
        refusal: Why nothing can be written, in a sentence that says what to do; ``""`` where it can, or before `check`.
    """

    scratch: Path
    refusal: str

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: nobody reads a part of it, or else sees so by its checksum."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def entries(self) -> Iterator[Entry]:
        """Yield every file below the root, foreign ones too."""
        ...

    def in_words(self) -> str:
        """Return where it is, and what is in it or where what comes from a URL is kept."""
        ...

    def check(self) -> None:
        """Make what folders there must be, and write and remove a file; set `refusal` if there is only reading.

        Raises:
            UnlearningError: Nothing can be written, and there is nothing to read, in one sentence.
        """
        ...


def read_patiently(files: Files, name: str) -> bytes:
    """Return the content of a file, which is read again if that fails.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read. Whether it is sound, nobody knows.
    """
    for pause in AGAIN:
        try:
            return files.read(name)
        except (FileNotFoundError, PermissionError, IsADirectoryError):  # an answer, and no failure
            raise
        except OSError:
            time.sleep(pause)
    return files.read(name)


def files_at(where: str | Path | Files) -> Files:
    """Return the files at a path or a URL; ``file://`` is a path.

    Raises:
        UnlearningError: The URL is none that can be opened here.
    """
    if isinstance(where, Local | Remote):
        return where
    text = str(where)
    if not text.strip():
        raise UnlearningError("the path of the store is empty; write a path or a URL, or leave it out")
    if isinstance(where, Path) or not ("://" in text or "::" in text):
        return Local(Path(text))
    if text.startswith("file://"):
        if urlsplit(text).netloc:
            raise UnlearningError(f"the store {text} names a machine; write a path as file:///absolute/path")
        return Local(Path(url2pathname(urlsplit(text).path)))  # on Windows without the slash before the drive
    return Remote(text)


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Give a path beside a file or a folder, to write that to: it is there whole at the end, or not at all.

    Args:
        target: What is written; a file that is there is replaced.

    Yields:
        A path in the same folder, at which nothing is. It is renamed at the end of the block, and removed if the block
        raises or it cannot be renamed.

    Raises:
        OSError: It cannot be renamed.
    """
    # Not the process id alone: machines that share a disk do not share process ids.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
        raise


class Local:
    """A directory, shared by any number of processes.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = self.scratch = root.expanduser().absolute()
        self.refusal = ""

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        with whole(path) as temporary:
            try:
                temporary.write_bytes(content)
            except FileNotFoundError:  # the first file of its folder
                path.parent.mkdir(exist_ok=True)
                temporary.write_bytes(content)

    def exists(self, name: str) -> bool:
        try:
            (self.root / name).stat()  # Path.exists of some versions of Python says False whatever the error is
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        for folder, folders, names in os.walk(self.root, onerror=self._unless_foreign):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # a run may be at work here
                    status = path.lstat()
                    yield Entry(path.relative_to(self.root).as_posix(), status.st_size, status.st_mtime)

    def _unless_foreign(self, error: OSError) -> None:
        """Raise that a folder of ours cannot be listed: what is in it would seem to be missing."""
        folder = Path(os.fsdecode(error.filename)).relative_to(self.root)
        if not isinstance(error, FileNotFoundError) and (folder.parts[:1] or FOLDERS)[0] in FOLDERS:
            raise error

    def in_words(self) -> str:
        records = list(self.root.glob("records/*/*.json"))
        size = 0
        for path in [*records, *self.root.glob("blobs/*/*.safetensors")]:
            with contextlib.suppress(FileNotFoundError):  # a run may be at work here
                size += path.stat().st_size
        only = ", can only be read" if self.refusal else ""
        return f"{_short(self.root)} ({len(records)} artefacts, {size / 1e6:.1f} MB{only})"

    def check(self) -> None:
        try:
            for folder in FOLDERS:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{uuid.uuid4().hex[:12]}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            refusal = (
                f"the store {self.root} cannot be written ({error.strerror or error}); name another with --audit-store"
            )
            if not (self.root / "records").is_dir():
                raise UnlearningError(refusal) from None
            # What is there can be read. On a full disk, what is made is kept in memory.
            self.refusal = "" if error.errno in (errno.ENOSPC, errno.EDQUOT) else refusal


class Remote:
    """A place behind a URL that fsspec opens, such as ``s3://bucket/prefix``.

    No locks there: processes of one machine lock in `scratch`, Ray hands each trial to one worker, and what two
    machines make at the same time is the same. What was read or written once of the blobs, which are named by their
    content, is kept in `scratch` and not fetched again.

    Args:
        url: The URL; credentials and endpoints are fsspec's business and come from the environment.

    Raises:
        UnlearningError: fsspec or what it needs for this kind of URL is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.refusal = ""
        try:
            import fsspec
        except ImportError:
            raise UnlearningError(f"the store {url} needs fsspec: pip install 'pytest-unlearning[remote]'") from None
        import platformdirs

        try:
            # Listings are not kept: others write while we look.
            filesystem, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # "Install s3fs to access S3", "Protocol not known: ..."
            raise UnlearningError(f"the store {url} cannot be opened: {error}") from None
        self._filesystem: Any = filesystem
        cache = Path(platformdirs.user_cache_dir("pytest-unlearning-remote", appauthor=False))
        self.scratch = cache / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._kept = Local(self.scratch)

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes:
        blob = name.startswith("blobs/")
        if blob:
            with contextlib.suppress(OSError):
                content = self._kept.read(name)
                if hashlib.sha256(content).hexdigest() == Path(name).stem:
                    return content
        with _only_os_errors():
            content = bytes(self._filesystem.cat_file(self._path(name)))
        if blob:
            self._keep(name, content)
        return content

    def write(self, name: str, content: bytes) -> None:
        with _only_os_errors():
            self._filesystem.pipe_file(self._path(name), content)
        if name.startswith("blobs/"):
            self._keep(name, content)

    def exists(self, name: str) -> bool:
        try:
            with _only_os_errors():
                self._filesystem.info(self._path(name))
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self._kept.remove(name)
        with _only_os_errors(), contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(self._path(name))

    def entries(self) -> Iterator[Entry]:
        with _only_os_errors():
            found = self._filesystem.find(self._root, detail=True)
        for path, info in sorted(found.items()):
            written = next((info[key] for key in ("LastModified", "mtime", "created") if key in info), 0.0)
            if isinstance(written, datetime.datetime):
                written = written.timestamp()
            name = path.removeprefix(self._root).lstrip("/")
            yield Entry(name, int(info["size"] or 0), float(written))

    def in_words(self) -> str:  # and not how much is there: a listing of a large bucket takes its time
        only = ", can only be read" if self.refusal else ""
        return f"{self} (cache {_short(self.scratch)}{only})"

    def check(self) -> None:
        self._kept.check()
        probe = f".probe-{uuid.uuid4().hex[:12]}"
        try:
            self.write(probe, b"probe")
            self.remove(probe)
        except OSError as error:
            said = " ".join(str(error).split()) or type(error).__name__
            if not self._has_records():
                raise UnlearningError(
                    f"the store {self} cannot be reached or written ({said}); check its address and credentials, or "
                    "name another with --audit-store"
                ) from None
            self.refusal = f"the store {self} cannot be written ({said}); name another with --audit-store"

    def _has_records(self) -> bool:
        try:
            with _only_os_errors():
                return bool(self._filesystem.ls(self._path("records"), detail=False))
        except OSError:
            return False

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _keep(self, name: str, content: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk costs another download
            self._kept.write(name, content)


def _short(path: Path) -> str:
    return str(path).replace(str(Path.home()), "~", 1)


@contextlib.contextmanager
def _only_os_errors() -> Iterator[None]:
    """Clients of object stores raise what they like where a server cannot be reached."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
