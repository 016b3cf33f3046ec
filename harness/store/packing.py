"""A store in one file, to seed another with: a zip of its records and of the blobs that they name.

What is unpacked is held against what its name promises: a record against its own checksum and against its key, a blob
against its SHA-256. That finds damage, not deceit: whoever made the file chose what is in it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.api import UnlearningError
from harness.store.artefacts import artefact_of, blob_name, key_of
from harness.store.files import Files, whole
from harness.store.inventory import KINDS, Inventory

#: What reading a file may raise that is no zip, or a damaged one.
NO_ZIP = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError)
ADVICE = "name what pytest-unlearning store pack wrote"
#: What is unpacked is no more than so many times as large as the file; JSON becomes smaller by about ten times.
GROWS = 100
#: The time of every file in a zip, so that equal stores give equal files.
EPOCH = (1980, 1, 1, 0, 0, 0)


@contextmanager
def new_zip(target: Path) -> Iterator[zipfile.ZipFile]:
    """Yield a zip to be filled, which stands at its place once it is complete, or not at all.

    Raises:
        UnlearningError: It cannot be written.
    """
    try:
        with whole(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            yield archive
    except OSError as error:
        if error.filename not in (None, str(temporary)):  # what goes into it could not be read
            raise
        raise UnlearningError(f"{target} cannot be written: {error.strerror}") from None


def pack(files: Files, target: Path) -> int:
    """Write every record and its blob to a zip, completely or not at all, and return how many records there are.

    Args:
        files: The store.
        target: The zip.

    Raises:
        UnlearningError: The store is empty, something in it is damaged or cannot be read, or the zip cannot be written.
    """
    inventory = Inventory.of(files)
    damaged = [*inventory.damaged, *(record.entry.name for record in inventory.without_blob)]
    damaged += [entry.name for entry, _ in inventory.unsound_blobs()]
    if inventory.unreadable:
        name, why = next(iter(inventory.unreadable.items()))
        raise UnlearningError(f"{len(inventory.unreadable)} files of the store {files} cannot be read: {name} ({why})")
    if damaged:
        raise UnlearningError(
            f"{len(damaged)} files of the store {files} are damaged, such as {damaged[0]}; remove them with "
            "pytest-unlearning store prune --damaged, and run again"
        )
    if not inventory.records:
        raise UnlearningError(f"the store {files} is empty, so there is nothing to pack")
    blobs = sorted({blob_name(record.blob) for record in inventory.records if record.blob is not None})
    with new_zip(target) as archive:
        for name in [*blobs, *sorted(record.entry.name for record in inventory.records)]:
            how = zipfile.ZIP_STORED if name in blobs else zipfile.ZIP_DEFLATED  # weights hardly become smaller
            archive.writestr(zipfile.ZipInfo(name, EPOCH), files.read(name), how)
    return len(inventory.records)


def unpack(source: Path, files: Files) -> tuple[int, int]:
    """Write what a zip holds and a store lacks into the store, once all of it has been checked.

    Args:
        source: The zip.
        files: The store.

    Returns:
        How many records are new, and how many were there.

    Raises:
        UnlearningError: The file is no packed store, or a part of it is not what its name promises. Nothing is written
            then.
        OSError: The file cannot be read, or the store not written.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            if name := swollen(archive, source.stat().st_size):
                raise UnlearningError(
                    f"the packed store was changed: its parts, such as {name[:120]!r}, claim to be more than {GROWS} "
                    "times as large as the file"
                )
            names = archive.namelist()
            if not any(pattern.fullmatch(name) for name in names for pattern in (KINDS["blob"], KINDS["record"])):
                raise UnlearningError(f"{source} is no packed store; {ADVICE}")
            wanted = {name: _checked(name, archive.read(name)) for name in names}
            for name, blob in wanted.items():
                if blob is not None and blob_name(blob) not in wanted:
                    raise UnlearningError(f"{source} lacks the weights that {name} names")
            missing = [name for name in names if not files.exists(name)]
            for name in sorted(missing, key=_is_record):  # a record that can be read is complete
                content = archive.read(name)
                _checked(name, content)  # the file may be another one by now
                files.write(name, content)
    except NO_ZIP:
        raise UnlearningError(f"{source} is no packed store; {ADVICE}") from None
    records = sum(map(_is_record, names))
    new = sum(map(_is_record, missing))
    return new, records - new


def swollen(archive: zipfile.ZipFile, size: int) -> str:
    """Return the largest part of a zip of so many bytes if all parts would fill the memory or the disk, else ``""``.

    What a part claims is enough: zipfile reads no more of it.
    """
    parts = archive.infolist()
    largest = max(parts, key=lambda part: part.file_size, default=None)
    return largest.filename if largest and sum(part.file_size for part in parts) > GROWS * size else ""


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        UnlearningError: The file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UnlearningError(f"{file} cannot be read: {error.strerror}") from None


def _is_record(name: str) -> bool:
    return name.startswith("records/")


def _checked(name: str, content: bytes) -> str | None:
    """Return the blob that a record names, None if it names none or if this is a blob itself.

    Raises:
        UnlearningError: The content is not what its name promises.
    """
    try:
        if match := KINDS["blob"].fullmatch(name):
            if hashlib.sha256(content).hexdigest() != match["key"]:
                raise ValueError("wrong checksum")
            return None
        if not (match := KINDS["record"].fullmatch(name)):
            raise ValueError("no part of a store")
        artefact = artefact_of(match["key"], content)
        if key_of(artefact.kind, json.loads(content)["record"]["of"]) != match["key"]:
            raise ValueError("its content does not match its key")
    except (ValueError, KeyError, TypeError) as error:
        raise UnlearningError(f"the packed store was changed: {name[:120]!r} is damaged ({error})") from None
    return artefact.blob
