"""What is in a store, whether it is sound, and what may go: ``pytest-unlearning store ACTION``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, deserialize

from harness.api import UnlearningError
from harness.store.artefacts import artefact_of, blob_name, key_of
from harness.store.files import Entry, Files, read_patiently

#: Temporaries, progress, locks and blobs without a record younger than this may belong to a run that is at work.
GRACE = 3600.0


DAY = 86400.0


HEX = "[0-9a-f]{64}"


KINDS = {
    "record": re.compile(r"records/([0-9a-f]{2})/(?P<key>\1[0-9a-f]{62})\.json"),
    "blob": re.compile(r"blobs/([0-9a-f]{2})/(?P<key>\1[0-9a-f]{62})\.safetensors"),
    "lock": re.compile(rf"locks/(?P<key>{HEX})\.lock"),
    "search": re.compile(rf"searches/(?P<key>{HEX})\.jsonl"),
    "temporary": re.compile(
        rf"(?:records|blobs)/[0-9a-f]{{2}}/\.(?:{HEX})\.(?:json|safetensors)\.\w+\.tmp|\.probe-\w+|progress/[^/]+/[^/]+\.json"
    ),
}


@dataclass(frozen=True)
class Record:
    """A sound record: the artefact that it names, and what determined it."""

    entry: Entry
    key: str
    kind: str
    blob: str | None
    run: str
    of: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The task that it belongs to."""
        task = self.of.get("task")
        return str(task.get("name", "?")) if isinstance(task, dict) else "?"


@dataclass
class Inventory:
    """Every file under a root, sorted by what it is.

    Attributes:
        files: Where they are.
        records, blobs, locks, searches, temporaries, foreign: The files. Foreign ones are not ours, and nothing touches
            them.
        damaged: Names of records that say nothing sound, with the reason.
        unreadable: Names of files that cannot be read now, with the reason: records, and the blobs that `unsound_blobs`
            has come to. They may be sound, and nothing removes them.
    """

    files: Files
    records: list[Record] = field(default_factory=list)
    blobs: dict[str, Entry] = field(default_factory=dict)
    locks: list[Entry] = field(default_factory=list)
    searches: list[Entry] = field(default_factory=list)
    temporaries: list[Entry] = field(default_factory=list)
    foreign: list[Entry] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Files) -> Inventory:
        """Look at every file, and into every record.

        Raises:
            UnlearningError: The store cannot be listed.
        """
        found = cls(files)
        try:
            entries = list(files.entries())
        except OSError as error:
            raise UnlearningError(f"the store {files} cannot be listed ({error})") from None
        for entry in entries:
            kind, match = _kind(entry.name)
            if kind == "record" and match is not None:
                found._look_into(entry, match["key"])
            elif kind == "blob" and match is not None:
                found.blobs[match["key"]] = entry
            else:
                of = {"lock": found.locks, "search": found.searches, "temporary": found.temporaries}
                of.get(kind, found.foreign).append(entry)
        return found

    def _look_into(self, entry: Entry, key: str) -> None:
        try:
            content = read_patiently(self.files, entry.name)
            artefact = artefact_of(key, content)
            of = json.loads(content)["record"]["of"]
            if key_of(artefact.kind, of) != key:
                raise ValueError("its content does not match its key")
            self.records.append(Record(entry, key, artefact.kind, artefact.blob, artefact.made["run"], of))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            self.damaged[entry.name] = str(error)
        except OSError as error:
            self.unreadable[entry.name] = str(error)

    @property
    def all_named(self) -> bool:
        """Whether it is known which blobs are named: every record could be read."""
        return not any(_kind(name)[0] == "record" for name in self.unreadable)

    @cached_property
    def orphans(self) -> dict[str, Entry]:
        """Blobs that no sound record names; none as long as a record cannot be read, which may name any."""
        if not self.all_named:
            return {}
        named = {record.blob for record in self.records}
        return {blob: entry for blob, entry in self.blobs.items() if blob not in named}

    def unsound_blobs(self) -> Iterator[tuple[Entry, str]]:
        """Read every blob; yield those that are not what their name says, with the reason.

        Those that cannot be read are noted in `unreadable` instead.
        """
        for blob, entry in self.blobs.items():
            try:
                content = read_patiently(self.files, entry.name)
                if hashlib.sha256(content).hexdigest() != blob:
                    raise ValueError("its content does not match its name")
                deserialize(content)  # type: ignore[no-untyped-call, unused-ignore]
            except (FileNotFoundError, ValueError, SafetensorError) as error:
                yield entry, str(error)
            except OSError as error:
                self.unreadable[entry.name] = str(error)

    @cached_property
    def without_blob(self) -> list[Record]:
        """The records whose blob is missing.

        Raises:
            OSError: Nobody knows whether one is.
        """
        lacking = [record for record in self.records if record.blob is not None and record.blob not in self.blobs]
        # A run may have written it since blobs were listed.
        return [record for record in lacking if not self.files.exists(blob_name(str(record.blob)))]


def _kind(name: str) -> tuple[str, re.Match[str] | None]:
    for kind, pattern in KINDS.items():
        if match := pattern.fullmatch(name):
            return kind, match
    return "foreign", None


@dataclass(frozen=True)
class Criteria:
    """What may be removed; nothing, unless one is given.

    Attributes:
        older_than: Artefacts made so many days ago or earlier, and journals of searches last written then.
        stale: Artefacts that no run of this installation can find.
        damaged: What is not what was written.
        orphans: Blobs that no record names.
        temporaries: What killed runs left: half-written files, progress, locks that nobody holds.
    """

    older_than: float | None = None
    stale: bool = False
    damaged: bool = False
    orphans: bool = False
    temporaries: bool = False

    def __bool__(self) -> bool:
        return self.older_than is not None or self.stale or self.damaged or self.orphans or self.temporaries


def removable(
    inventory: Inventory, criteria: Criteria, now: float, stale: Callable[[Record], bool] = lambda record: False
) -> dict[str, list[Entry]]:
    """Return what the criteria name, by reason; records before the blobs that nothing else names then.

    A record that cannot be read is never named. As long as there is one, neither is a sound blob: it may name that.

    Args:
        inventory: The store.
        criteria: What may go.
        stale: Says that no run of this installation can find an artefact.
        now: The time; blobs without a record, temporaries and locks of the last hour stay, for they may be at work.
    """
    settled: Callable[[Entry], bool] = lambda entry: entry.written < now - GRACE  # noqa: E731
    found: dict[str, list[Entry]] = {}
    going: set[str] = set()  # keys of records
    if criteria.damaged:
        blobs = [entry for entry, _ in inventory.unsound_blobs()]
        lacking = {record.key for record in inventory.without_blob}
        lacking |= {r.key for r in inventory.records if r.blob and any(b.name == blob_name(r.blob) for b in blobs)}
        going |= lacking
        records = [record.entry for record in inventory.records if record.key in lacking]
        damaged = [Entry(name, 0, now) for name in inventory.damaged]
        found["damaged"] = [*damaged, *records, *blobs]
    for reason, applies in (
        ("old", lambda r: criteria.older_than is not None and r.entry.written <= now - criteria.older_than * DAY),
        ("stale", lambda r: criteria.stale and stale(r)),
    ):
        chosen = [record for record in inventory.records if record.key not in going and applies(record)]
        going |= {record.key for record in chosen}
        found[reason] = [record.entry for record in chosen]
    if criteria.older_than is not None:
        found["old"] += [each for each in inventory.searches if each.written <= now - criteria.older_than * DAY]
    kept = {record.blob for record in inventory.records if record.key not in going}
    theirs = {record.blob for record in inventory.records if record.key in going} - kept - {None}
    gone = {entry.name for entries in found.values() for entry in entries}
    if inventory.all_named:
        found["no longer named"] = [
            entry for blob, entry in inventory.blobs.items() if blob in theirs and entry.name not in gone
        ]
    if criteria.orphans:
        orphans = inventory.orphans.values()
        found["orphaned"] = [entry for entry in orphans if settled(entry) and entry.name not in gone]
    if criteria.temporaries:
        found["left over"] = [entry for entry in [*inventory.temporaries, *inventory.locks] if settled(entry)]
    return {reason: entries for reason, entries in found.items() if entries}


def remove(files: Files, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Remove files and yield those that are gone; a lock that somebody holds stays."""
    for entry in entries:
        if entry.name.startswith("locks/"):
            lock = FileLock(files.scratch / entry.name)
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):
                continue
            try:
                files.remove(entry.name)
            finally:
                lock.release()
        else:
            files.remove(entry.name)
        yield entry
