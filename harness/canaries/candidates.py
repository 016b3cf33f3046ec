"""What whoever computes losses gets: all canaries, without their coins."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.canaries.pictures import decoded, save, unpacked
from harness.canaries.planting import check_free
from harness.canaries.secret import Secret
from harness.canaries.tables import Row
from harness.store.files import whole


def candidates(secret: Secret, out: str | Path) -> None:
    """Write all canaries, in and out, in random order and without their coins, with their ids in a column ``canary``.

    They are written as the data are: a CSV or JSONL file, a directory of ``datasets``, or a folder of pictures in class
    folders, where the id is the name. So whoever computes losses need not know which canaries were in.

    Raises:
        UnlearningError: Something is at ``out`` already, or its directory is missing.
    """
    out = Path(out).absolute()
    check_free(out)
    with whole(out) as temporary:
        WRITERS[secret.kind](secret, secret.shuffled(), temporary)


def _csv(secret: Secret, rows: Mapping[str, Row], target: Path) -> None:
    columns = list(next(iter(rows.values())))
    with target.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=secret.details["delimiter"], lineterminator="\n")
        writer.writerow(["canary", *columns])
        writer.writerows([id, *(row[column] for column in columns)] for id, row in rows.items())


def _jsonl(secret: Secret, rows: Mapping[str, Row], target: Path) -> None:
    lines = [json.dumps({"canary": id, **row}, ensure_ascii=False) + "\n" for id, row in rows.items()]
    target.write_text("".join(lines), encoding="utf-8", newline="\n")


def _pictures(secret: Secret, rows: Mapping[str, Row], target: Path) -> None:
    for id, row in rows.items():
        content, suffix = unpacked(row["picture"])
        (target / row["class"]).mkdir(parents=True, exist_ok=True)
        (target / row["class"] / f"{id}{suffix}").write_bytes(content)


def _datasets(secret: Secret, rows: Mapping[str, Row], target: Path) -> None:
    import datasets

    features = datasets.Features.from_dict(
        {"canary": {"dtype": "string", "_type": "Value"}, **secret.details["features"]}
    )
    save(
        datasets.Dataset.from_list(
            [{"canary": id, **decoded(row, list(secret.details["features"]))} for id, row in rows.items()],
            features=features,
        ),
        target,
    )


WRITERS: Mapping[str, Callable[[Secret, Mapping[str, Row], Path], None]] = {
    "csv": _csv, "jsonl": _jsonl, "pictures": _pictures, "datasets": _datasets,
}  # fmt: skip
