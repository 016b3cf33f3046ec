"""List, measure, verify, prune, pack and unpack what a store holds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.store.artefacts import Store, default_root
from harness.store.files import Files, Local, files_at
from harness.store.inventory import DAY, Criteria, Inventory, Record, removable, remove
from harness.store.packing import digest_of, pack, unpack


def add_store(commands: Any) -> None:
    """Add ``store`` to the commands."""
    parser = commands.add_parser(
        "store", help="List, measure, verify, prune, pack and unpack the stored models", description=__doc__
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, run, text in (
        ("list", _list, "artefacts by kind, task and run, with size and age"),
        ("size", _size, "number and size of records, blobs and other files"),
        ("verify", _verify, "check every record and blob; exit code 1 if one is damaged or cannot be read"),
        ("pack", _pack, "write all that a store holds to one file, which another store can take in"),
        ("unpack", _unpack, "add what such a file holds; take it only from people from whom you would take a model"),
        ("prune", _prune, "remove only what the options name"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(run=run)
        action.add_argument("--store", metavar="PATH_OR_URL", help="the store; default the user's cache directory")
        if name in ("pack", "unpack"):
            action.add_argument("file", type=Path, metavar="FILE.zip")
        if name == "unpack":
            action.add_argument("--sha256", metavar="HEX", help="refuse the file if its SHA-256 is another")
    action.add_argument(
        "--older-than",
        type=_days,
        metavar="DAYS",
        help="artefacts, and journals of searches, that are older than DAYS days",
    )
    action.add_argument(
        "--stale", action="store_true",
        help="artefacts that this installation would not find again, because its code or its torch is another; those "
        "of plugins that are not installed stay",
    )  # fmt: skip
    action.add_argument("--damaged", action="store_true", help="files whose content is not what was written")
    action.add_argument("--orphans", action="store_true", help="blobs that no record names")
    action.add_argument(
        "--temporaries", action="store_true", help="what killed runs left: half-written files, progress, free locks"
    )
    action.add_argument("--dry-run", action="store_true", help="print what would be removed; remove nothing")


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number of days, not {text!r}")
    return days


def _existing(options: argparse.Namespace) -> Files:
    files = files_at(options.store or default_root())
    if isinstance(files, Local) and not files.root.is_dir():
        raise UnlearningError(f"found no store at {files}")
    return files


def _inventory(options: argparse.Namespace) -> Inventory:
    return Inventory.of(_existing(options))


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
        rows.append((*names, str(len(records)), in_bytes(size), age))
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
        ("searches", inventory.searches),
        ("temporaries", inventory.temporaries),
        ("foreign files", inventory.foreign),
    ):
        print(f"{what:<14}{len(entries):>8}  {in_bytes(sum(entry.size for entry in entries)):>9}")
    if inventory.files.scratch != getattr(inventory.files, "root", None):
        print(f"copies of its blobs are kept in {inventory.files.scratch}, a store without records")
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
    for name, why in sorted(inventory.unreadable.items()):
        print(f"unreadable: {name} ({why})")
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
        + (f"; {len(inventory.unreadable)} unreadable" if inventory.unreadable else "")
    )
    if damaged:
        print("a run makes again what it finds damaged; prune --damaged removes it now")
    if inventory.unreadable:
        print("what cannot be read may be sound, so that no command removes it; run again when it can be read")
    return 1 if damaged or inventory.unreadable else 0


def _prune(options: argparse.Namespace) -> int:
    given = vars(options)
    criteria = Criteria(**{name: given[name] for name in Criteria.__dataclass_fields__})
    if not criteria:
        names = ", ".join("--" + name.replace("_", "-") for name in Criteria.__dataclass_fields__)
        raise UnlearningError(f"name what to remove: {names}; --dry-run shows it first")
    inventory = _inventory(options)
    total = size = 0
    for reason, entries in removable(inventory, criteria, time.time(), _stale).items():
        for entry in entries if options.dry_run else remove(inventory.files, entries):
            print(f"{reason}: {entry.name}")
            total, size = total + 1, size + entry.size
    print(f"{'would remove' if options.dry_run else 'removed'} {total} files, {in_bytes(size)}")
    return 0


def _pack(options: argparse.Namespace) -> int:
    file = options.file.absolute()
    records = pack(_existing(options), file)
    print(f"packed {records} records, {in_bytes(file.stat().st_size)}; SHA-256 {digest_of(file)}")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    if options.sha256 is not None and (found := digest_of(options.file)) != options.sha256.lower():
        raise UnlearningError(f"{options.file} is another file, with SHA-256 {found}; get it again")
    new, known = unpack(options.file, Store(options.store or default_root(), run="").files)
    print(f"added {new} records; {known} were there")
    return 0


def _stale(record: Record) -> bool:
    from harness.trials.keys import stale  # here, because torch is needed for nothing else

    return stale(record)


def _age(seconds: float) -> str:
    for length, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def in_bytes(size: float) -> str:
    """Return a size as people read it, e.g. ``"3.4 MB"``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
