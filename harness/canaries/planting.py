"""Plant canaries, each in or out by a fair coin, into one source of a data set."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.canaries.making import Columns, make
from harness.canaries.pictures import PictureRows, SavedRows
from harness.canaries.sealing import seal
from harness.canaries.secret import Canary, Secret, sha256, stream, toss
from harness.canaries.tables import MISSING, CSVRows, JSONLRows, Place, Rows
from harness.columns import parted, rows_with
from harness.store.files import whole

#: With fewer, hardly anything can be shown.
FEWEST = 20


def plant(
    data: str | Path,
    out: str | Path,
    secret: str | Path,
    *,
    number: int = 200,
    label: str | None = None,
    text: str | None = None,
    source: str | None = None,
    key: str | None = None,
    sealed: str | Path | None = None,
    seed: int | None = None,
) -> Secret:
    """Write the data with those canaries that are in, and the secret list of all canaries.

    Each canary is in with probability 1/2, independently of the others; one that is in stands after a random row of the
    source. `harness.canaries.making` says what canaries are. All other rows stay as they are, in their order.

    Args:
        data: A ``.csv``, ``.tsv`` or ``.jsonl`` file, a folder of pictures in class folders, or a directory that
            ``datasets.Dataset.save_to_disk`` wrote.
        out: Where the data with canaries go; nothing may be there yet.
        secret: Where the secret list goes, likewise; outside of ``data`` and ``out``.
        number: Canaries, in and out together; at least 20, and at most as many as the source has rows.
        label: The column that the model learns to predict. The classes of a folder of pictures need not be named.
        text: The column of texts, if there is one.
        source: ``COLUMN=VALUE``, the rows that belong to the source; None if all do. Of pictures ``path=PATTERN``;
            each canary is then named as a picture of the source, with a random number behind.
        key: A column of keys, if there is one: canaries get new ones.
        sealed: Where a public list of salted hashes goes, one per canary (`harness.canaries.sealing`); None for no such
            file.
        seed: For tests only: whoever knows it knows the coins. None for 256 bits from the operating system.

    Raises:
        UnlearningError: The data, a column, the number or a path cannot be used, in one sentence.
        OSError: A file cannot be read or written.
    """
    data, out, secret = Path(data).absolute(), Path(out).absolute(), Path(secret).absolute()
    sealed = None if sealed is None else Path(sealed).absolute()
    _check_paths(data, out, *((secret,) if sealed is None else (secret, sealed)))
    rows = open_rows(data)
    columns, members = _columns(rows, data, label=label, text=text, source=source, key=key)
    if not FEWEST <= number <= len(members):
        least = (
            f"at least {FEWEST}" if number < FEWEST else f"at most {len(members)}; the source has {len(members)} rows"
        )
        raise UnlearningError(f"{number} canaries are too {'few' if number < FEWEST else 'many'}; plant {least}")
    drawn = str(secrets.randbits(256)) if seed is None else str(seed)
    made = make(rows, members, columns, number, stream(drawn, "rows"))
    coins, after = toss(drawn, number), stream(drawn, "places")
    with contextlib.ExitStack() as undone:
        with whole(out) as temporary:
            placed = {i: (after.choice(members), made[i]) for i in range(number) if coins[i]}
            by = columns.source and columns.source[0]
            places = dict(zip(placed, rows.write(temporary, list(placed.values()), by), strict=True))
            if by == "path" and source is not None:
                _check_named(rows.values(by), list(places.values()), source)
            width = len(str(number - 1))
            canaries = tuple(Canary(f"c{i:0{width}}", coins[i], places.get(i), made[i]) for i in range(number))
            known = asdict(columns) | {"source": columns.source and list(columns.source)}
            found = Secret(
                drawn, rows.kind, dict(rows.details), {"name": data.name, "sha256": sha256(data)},
                {"name": out.name, "sha256": sha256(temporary)}, known, canaries,
            )  # fmt: skip
            _write_lists(found, secret, sealed, undone)
        undone.pop_all()  # all is in its place; until here, a list would be of canaries that were planted nowhere
    return found


def _write_lists(found: Secret, secret: Path, sealed: Path | None, undone: contextlib.ExitStack) -> None:
    """Write the secret and its public hashes, and note how each is removed again."""
    try:
        contents = {secret: json.dumps(found.document, indent=1) + "\n"}
    except TypeError as error:
        raise UnlearningError(f"the data hold values that JSON has no type for ({error}); convert them first") from None
    if sealed is not None:
        contents[sealed] = seal(found)
    for path, content in contents.items():
        mode = 0o600 if path == secret else 0o666  # from the start: nobody else may open it in between
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            undone.callback(path.unlink, missing_ok=True)
            file.write(content.encode())


def open_rows(data: Path) -> Rows:
    """Return the rows of a file or a folder.

    Raises:
        UnlearningError: It is missing, or of no kind that is known.
    """
    if not data.exists():
        raise UnlearningError(f"{data} is missing; name a file or a folder of data")
    if data.is_dir():
        saved = any((data / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
        return SavedRows(data) if saved else PictureRows(data)
    suffix = data.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return CSVRows(data)
    if suffix in (".jsonl", ".ndjson"):
        return JSONLRows(data)
    raise UnlearningError(
        f"{data} has the suffix {suffix!r}; canaries go into a .csv, .tsv or .jsonl file, a folder of pictures, or a "
        "directory that datasets saved"
    )


def _columns(
    rows: Rows, data: Path, *, label: str | None, text: str | None, source: str | None, key: str | None
) -> tuple[Columns, Sequence[int]]:
    """Return what the columns are, and the positions of the source's rows.

    Raises:
        UnlearningError: A column is missing or named twice, none is to be learned, or the source has no rows.
    """
    if "canary" in rows.columns:
        raise UnlearningError(
            f"{data} has a column 'canary'; this name is needed for the ids of canaries, so rename the column"
        )
    label = "class" if label is None and rows.kind == "pictures" else label
    name, wanted = (None, "") if source is None else parted(source)
    named = [column for column in (label, text, key, name) if column is not None]
    if name == "class" and rows.kind == "pictures":
        raise UnlearningError(
            "canaries get random classes, so a class cannot be the source; name pictures by their path, such as "
            "path=*/acme_*"
        )
    if name is not None and name not in rows.naming:
        raise UnlearningError(f"{data} has no column {name!r}; it has {', '.join(map(repr, rows.naming))}")
    for column in named:
        if column not in (*rows.columns, *rows.naming):
            raise UnlearningError(f"{data} has no column {column!r}; it has {', '.join(map(repr, rows.columns))}")
        if named.count(column) > 1:
            raise UnlearningError(
                f"the column {column!r} is named twice; label, text, key and source must be different columns"
            )
        if column in rows.pictures:
            raise UnlearningError(f"the column {column!r} holds pictures; name a column of texts or numbers")
    if label is None and text is None:
        raise UnlearningError(
            "no column to learn was named; give the column of labels with --label, or the column of texts with --text"
        )
    if name is None:
        return Columns(label, text, key), range(len(rows))
    values = rows.values(name)
    members = rows_with(name, [None if value is MISSING else rows.named(name, value) for value in values], wanted)
    distinct = {repr(values[row]): values[row] for row in members} if name in rows.columns else {"": wanted}
    return Columns(label, text, key, (name, list(distinct.values()))), members


def _check_named(paths: Sequence[Any], places: Sequence[Place], source: str) -> None:
    """Refuse a source whose rule does not name the pictures that were planted in it.

    Raises:
        UnlearningError: It is such a rule.
    """
    _, wanted = parted(source)
    found = set(rows_with("path", [*paths, *places], wanted))
    if wrong := next((place for number, place in enumerate(places, start=len(paths)) if number not in found), None):
        raise UnlearningError(
            f"{source} does not name the canary {wrong}, so a removal by it would leave canaries; leave the class and "
            "the end of the name open, as in path=*/acme_*"
        )


def _check_paths(data: Path, out: Path, *lists: Path) -> None:
    """Refuse to overwrite, and to put the secret and its hashes where they would be trained on."""
    for path in (out, *lists):
        check_free(path)
        if data.resolve() in path.resolve().parents:
            raise UnlearningError(f"{path} lies in {data}, the data; write it elsewhere")
    if len(set(lists)) < len(lists):
        raise UnlearningError(f"{lists[0]} is named twice; the secret list and its public hashes must be two files")
    for path in lists:
        if out == path or out.resolve() in path.resolve().parents:
            raise UnlearningError(f"{path} must lie outside of {out}, or the model would be trained on it")


def check_free(path: Path) -> None:
    """Raise an error if something is at a path already, or if its directory is missing."""
    if path.exists():
        raise UnlearningError(f"{path} exists already and is not overwritten; name another file, or remove it first")
    if not path.parent.is_dir():
        raise UnlearningError(f"the directory of {path} is missing; make it first")
