"""The data that canaries are planted into: rows of a CSV or JSONL file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from harness.api import UnlearningError

#: One example: a value for each column.
Row = dict[str, Any]
#: A canary that is in, and the row of the data that it follows.
Placed = tuple[int, Row]
#: Where a canary stands in what was written: a row, counted from 0, or the path of a picture.
Place = int | str

#: What the value of a column is in rows that lack it.
MISSING = object()
DELIMITERS = ",;\t|"


class Rows(Protocol):
    """Labelled or unlabelled examples, one a row.

    Attributes:
        kind: ``"csv"``, ``"jsonl"``, ``"pictures"`` or ``"datasets"``.
        columns: Names of the columns.
        pictures: Those that hold pictures.
        details: What else it takes to write such data, in JSON's types.
    """

    kind: str
    columns: Sequence[str]
    pictures: Sequence[str]
    details: Mapping[str, Any]

    def __len__(self) -> int: ...

    @property
    def naming(self) -> Sequence[str]:
        """Columns by which a source can be named."""
        return self.columns

    def values(self, column: str) -> Sequence[Any]:
        """Return the value of a column in every row, `MISSING` if a row lacks it; not for columns of pictures."""
        ...

    def value(self, row: int, column: str) -> Any:
        """Return one value; a picture as one of Pillow's."""
        ...

    def named(self, column: str, value: Any) -> Any:
        """Return what people call a value of a column: the name of a class, and other values as they are."""
        return value

    def write(self, target: Path, placed: Sequence[Placed], source: str | None = None) -> list[Place]:
        """Write all rows, with the canaries between them, to a path where nothing is; return each canary's place.

        Args:
            target: The path.
            placed: The canaries.
            source: The column that names their source, if one does; it may have to name where they stand.
        """
        ...


class CSVRows(Rows):
    """A CSV file with a header. Whatever is not a canary is written byte for byte as it was read.

    Args:
        path: The file, UTF-8, with or without a byte order mark.

    Raises:
        UnlearningError: It is not such a file.
    """

    kind = "csv"
    pictures = ()

    def __init__(self, path: Path) -> None:
        text = text_of(path)
        self._mark, text = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
        lines = list(io.StringIO(text, newline=""))
        if not lines:
            raise UnlearningError(f"{path} is empty; it needs a header and rows")
        self._end = "\r\n" if lines[0].endswith("\r\n") else "\n"
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=lines[0].count)
        self.details = {"delimiter": self._delimiter}
        records = list(self._records(path, lines))
        self._raw = [raw for raw, _ in records]
        self.columns, *self._rows = [fields for _, fields in records]
        _check_header(path, self.columns)
        for number, row in enumerate(self._rows, start=1):
            if len(row) != len(self.columns):
                raise UnlearningError(
                    f"row {number} of {path} has {len(row)} fields and the header {len(self.columns)}; mend the row"
                )
        self._at = {column: i for i, column in enumerate(self.columns)}

    def _records(self, path: Path, lines: list[str]) -> Iterator[tuple[str, list[str]]]:
        """Yield each record as it stands in the file, with blank lines after it, and its fields."""
        reader = csv.reader(iter(lines), delimiter=self._delimiter, strict=True)
        raw, start = "", 0
        fields: list[str] = []
        try:
            for found in reader:
                if found and fields:
                    yield raw, fields
                    raw = ""
                raw += "".join(lines[start : reader.line_num])
                fields, start = found or fields, reader.line_num
        except csv.Error as error:
            raise UnlearningError(f"line {reader.line_num} of {path} is not CSV: {error}") from None
        yield raw, fields

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, column: str) -> list[str]:
        return [row[self._at[column]] for row in self._rows]

    def value(self, row: int, column: str) -> str:
        return self._rows[row][self._at[column]]

    def write(self, target: Path, placed: Sequence[Placed], source: str | None = None) -> list[Place]:
        raw = [self._ended(each) for each in self._raw]
        lines = [self._line([row[column] for column in self.columns]) for _, row in placed]
        order, places = ordered(len(self), [after for after, _ in placed])
        body = [raw[1 + i] if i < len(self) else lines[i - len(self)] for i in order]
        target.write_bytes((self._mark + raw[0] + "".join(body)).encode())
        return places

    def _line(self, fields: Sequence[str]) -> str:
        line = io.StringIO(newline="")
        csv.writer(line, delimiter=self._delimiter, lineterminator=self._end).writerow(fields)
        return line.getvalue()

    def _ended(self, raw: str) -> str:
        return raw if raw.endswith(("\n", "\r")) else raw + self._end


class JSONLRows(Rows):
    """A file with one JSON object a line, UTF-8. Whatever is not a canary is written as it was read.

    Args:
        path: The file.

    Raises:
        UnlearningError: It is not such a file.
    """

    kind = "jsonl"
    pictures = ()
    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self._lines = [line for line in text_of(path).removeprefix("\ufeff").split("\n") if line.strip()]
        self._rows: list[Row] = []
        for number, line in enumerate(self._lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise UnlearningError(f"row {number} of {path} is not a JSON object; write one object a line")
            self._rows.append(row)
        if not self._rows:
            raise UnlearningError(f"{path} is empty; it needs one JSON object a line")
        self.columns = list(dict.fromkeys(column for row in self._rows for column in row))

    def __len__(self) -> int:
        return len(self._rows)

    def values(self, column: str) -> list[Any]:
        return [row.get(column, MISSING) for row in self._rows]

    def value(self, row: int, column: str) -> Any:
        return self._rows[row].get(column, MISSING)

    def write(self, target: Path, placed: Sequence[Placed], source: str | None = None) -> list[Place]:
        lines = [*self._lines, *(json.dumps(row, ensure_ascii=False) for _, row in placed)]
        order, places = ordered(len(self), [after for after, _ in placed])
        target.write_bytes("".join(lines[i] + "\n" for i in order).encode())
        return places


def ordered(rows: int, after: Sequence[int]) -> tuple[list[int], list[Place]]:
    """Return the order in which rows and canaries stand, and the place of each canary.

    Args:
        rows: Number of rows; they keep their order. Canaries are counted on from there.
        after: For each canary the row that it follows, in [0, rows).
    """
    following: dict[int, list[int]] = {}
    for canary, row in enumerate(after):
        following.setdefault(row, []).append(rows + canary)
    order = [i for row in range(rows) for i in (row, *following.get(row, ()))]
    at = {i: place for place, i in enumerate(order)}
    return order, [at[rows + canary] for canary in range(len(after))]


def is_missing(value: Any) -> bool:
    """Return whether a row has no value in a column."""
    return value is MISSING or value is None or (isinstance(value, str) and not value.strip())


def text_of(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UnlearningError: It is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UnlearningError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8 first") from None


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Refuse a first line of data: a number, an empty name but for an index column, or a name twice."""

    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    if any(map(is_number, header)) or not all(name.strip() for name in header[1:]) or len({*header}) < len(header):
        raise UnlearningError(
            f"the first line of {path} is not a header of distinct column names; add one as its first line"
        )
