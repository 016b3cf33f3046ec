"""What is in a store, whether it is sound, and what may go: ``python -m harness store [PATH_OR_URL] ACTION``."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, deserialize

from harness import registry
from harness.api import UnlearningError
from harness.files import Entry, Files, Local, files_at
from harness.store import artefact_of, blob_name, default_root, key_of

#: Temporaries, progress, locks and blobs without a record younger than this may belong to a run that is at work.
GRACE = 3600.0
DAY = 86400.0

HEX = "[0-9a-f]{64}"
KINDS = {
    "record": re.compile(r"records/([0-9a-f]{2})/(?P<key>\1[0-9a-f]{62})\.json"),
    "blob": re.compile(r"blobs/([0-9a-f]{2})/(?P<key>\1[0-9a-f]{62})\.safetensors"),
    "lock": re.compile(rf"locks/(?P<key>{HEX})\.lock"),
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
        records, blobs, locks, temporaries, foreign: The files. Foreign ones are not ours, and nothing touches them.
        damaged: Names of records that say nothing sound, with the reason.
    """

    files: Files
    records: list[Record] = field(default_factory=list)
    blobs: dict[str, Entry] = field(default_factory=dict)
    locks: list[Entry] = field(default_factory=list)
    temporaries: list[Entry] = field(default_factory=list)
    foreign: list[Entry] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

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
                {"lock": found.locks, "temporary": found.temporaries}.get(kind, found.foreign).append(entry)
        return found

    def _look_into(self, entry: Entry, key: str) -> None:
        try:
            content = self.files.read(entry.name)
            artefact = artefact_of(key, content)
            of = json.loads(content)["record"]["of"]
            if key_of(artefact.kind, of) != key:
                raise ValueError("it is not what its key says")
            self.records.append(Record(entry, key, artefact.kind, artefact.blob, artefact.made["run"], of))
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.damaged[entry.name] = str(error)

    @cached_property
    def orphans(self) -> dict[str, Entry]:
        """Blobs that no sound record names."""
        named = {record.blob for record in self.records}
        return {blob: entry for blob, entry in self.blobs.items() if blob not in named}

    def unsound_blobs(self) -> Iterator[tuple[Entry, str]]:
        """Read every blob; yield those that are not what their name says, with the reason."""
        for blob, entry in self.blobs.items():
            try:
                content = self.files.read(entry.name)
                if hashlib.sha256(content).hexdigest() != blob:
                    raise ValueError("its content is not what its name says")
                deserialize(content)  # type: ignore[no-untyped-call, unused-ignore]
            except (OSError, ValueError, SafetensorError) as error:
                yield entry, str(error)

    @property
    def without_blob(self) -> list[Record]:
        """The records whose blob is missing."""
        return [record for record in self.records if record.blob is not None and record.blob not in self.blobs]


def _kind(name: str) -> tuple[str, re.Match[str] | None]:
    for kind, pattern in KINDS.items():
        if match := pattern.fullmatch(name):
            return kind, match
    return "foreign", None


def stale(record: Record) -> bool:
    """Say whether this installation would look for the artefact in vain: made by other code, or with another torch.

    What belongs to a plugin that is not installed here is never stale. A record is not believed: what it names is
    looked up among what is registered, and never imported on its word.
    """
    from harness.trial import sources

    if any(record.of.get(name, now) != now for name, now in sources().items()):
        return True
    parts: dict[registry.Kind, Any] = {"task": "task", "poison": "poison", "unlearner": "method"}
    for kind, part in parts.items():
        identity = record.of.get(part)
        if isinstance(identity, dict):
            source = _source(kind, str(identity.get("name")))
            if source not in (None, identity.get("source")):
                return True
    return False


@functools.cache
def _source(kind: registry.Kind, name: str) -> str | None:
    """Return the source of what is registered under a name; None where nothing is, or cannot be made without fields."""
    if name not in registry.available(kind):
        return None
    try:
        return registry.resolve(kind, name).source
    except UnlearningError:
        return None


@dataclass(frozen=True)
class Criteria:
    """What may be removed; nothing, unless one is given.

    Attributes:
        older_than: Artefacts made so many days ago or earlier.
        stale: Artefacts that this installation would look for in vain.
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


def removable(inventory: Inventory, criteria: Criteria, now: float) -> dict[str, list[Entry]]:
    """Return what the criteria name, by reason; records before the blobs that nothing else names then.

    Args:
        inventory: The store.
        criteria: What may go.
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
    kept = {record.blob for record in inventory.records if record.key not in going}
    theirs = {record.blob for record in inventory.records if record.key in going} - kept - {None}
    gone = {entry.name for entries in found.values() for entry in entries}
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
            with lock:  # taken twice, and so until we are done
                files.remove(entry.name)
            lock.release()
        else:
            files.remove(entry.name)
        yield entry


def add_store(commands: Any) -> None:
    """Add ``store`` to the commands of ``python -m harness``."""
    parser = commands.add_parser(
        "store", help="List, measure, verify and prune what trained models are kept", description=__doc__
    )
    parser.add_argument("where", nargs="?", metavar="PATH_OR_URL", help="the store; default the user's cache directory")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, does, text in (
        ("list", _list, "artefacts by kind, task and run, with size and age"),
        ("size", _size, "how much there is"),
        ("verify", _verify, "check every record and blob; 1 if something is damaged"),
        ("prune", _prune, "remove what is named by an option, and nothing else"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(run=does)
    action.add_argument("--older-than", type=_days, metavar="DAYS", help="artefacts made so many days ago or earlier")
    action.add_argument(
        "--stale", action="store_true",
        help="artefacts that this installation would not find again, made by other code or with another torch; those "
        "of plugins that are not installed stay",
    )  # fmt: skip
    action.add_argument("--damaged", action="store_true", help="what is not what was written")
    action.add_argument("--orphans", action="store_true", help="blobs that no record names")
    action.add_argument(
        "--temporaries", action="store_true", help="what killed runs left: half-written files, progress, free locks"
    )
    action.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number of days, not {text!r}")
    return days


def _inventory(options: argparse.Namespace) -> Inventory:
    files = files_at(options.where or default_root())
    if isinstance(files, Local) and not files.root.is_dir():
        raise UnlearningError(f"there is no store at {files}")
    return Inventory.of(files)


def _list(options: argparse.Namespace) -> int:
    inventory, now = _inventory(options), time.time()
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in inventory.records:
        groups.setdefault((record.kind, record.task, record.run), []).append(record)
    counted: set[str] = set()  # a blob that several records name takes its space once
    rows = [("kind", "task", "run", "artefacts", "size", "age")]
    for names, records in sorted(groups.items()):
        blobs = {r.blob for r in records if r.blob in inventory.blobs and r.blob not in counted}
        counted |= {str(blob) for blob in blobs}
        size = sum(r.entry.size for r in records) + sum(inventory.blobs[str(blob)].size for blob in blobs)
        ages = sorted({_age(now - r.entry.written): now - r.entry.written for r in records}.items(), key=lambda a: a[1])
        age = ages[0][0] if len(ages) == 1 else f"{ages[0][0]} to {ages[-1][0]}"
        rows.append((*names, str(len(records)), _bytes(size), age))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _size(options: argparse.Namespace) -> int:
    inventory = _inventory(options)
    for what, entries in (
        ("records", [record.entry for record in inventory.records]),
        ("blobs", list(inventory.blobs.values())),
        ("locks", inventory.locks),
        ("temporaries", inventory.temporaries),
        ("foreign files", inventory.foreign),
    ):
        print(f"{what:<14}{len(entries):>8}  {_bytes(sum(entry.size for entry in entries)):>9}")
    if inventory.files.scratch != getattr(inventory.files, "root", None):
        print(f"what came from there is kept in {inventory.files.scratch}, a store without records")
    return 0


def _verify(options: argparse.Namespace) -> int:
    inventory = _inventory(options)
    damaged = {
        **inventory.damaged,
        **{record.entry.name: "its blob is missing" for record in inventory.without_blob},
        **{entry.name: why for entry, why in inventory.unsound_blobs()},
    }
    for name, why in sorted(damaged.items()):
        print(f"damaged: {name} ({why})")
    for what, entries in (
        ("orphaned", inventory.orphans.values()),
        ("left over", inventory.temporaries),
        ("foreign", inventory.foreign),
    ):
        for entry in entries:
            print(f"{what}: {entry.name}")
    print(
        f"{len(inventory.records)} records and {len(inventory.blobs)} blobs: {len(damaged)} damaged, "
        f"{len(inventory.orphans)} orphaned; {len(inventory.temporaries)} left over, {len(inventory.foreign)} foreign"
    )
    if damaged:
        print("a run makes again what it finds damaged; prune --damaged removes it now")
    return 1 if damaged else 0


def _prune(options: argparse.Namespace) -> int:
    given = vars(options)
    criteria = Criteria(**{name: given[name] for name in Criteria.__dataclass_fields__})
    if not criteria:
        names = ", ".join("--" + name.replace("_", "-") for name in Criteria.__dataclass_fields__)
        raise UnlearningError(f"say what may go: {names}; --dry-run shows it first")
    inventory = _inventory(options)
    total = size = 0
    for reason, entries in removable(inventory, criteria, time.time()).items():
        for entry in entries if options.dry_run else remove(inventory.files, entries):
            print(f"{reason}: {entry.name}")
            total, size = total + 1, size + entry.size
    print(f"{'would remove' if options.dry_run else 'removed'} {total} files, {_bytes(size)}")
    return 0


def _age(seconds: float) -> str:
    for length, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def _bytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
