"""Results as data: audits as a list that is a table, for people and for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.judging.verdict import Verdict
from harness.report.collected import plain
from harness.report.document import Entry, methods, read
from harness.report.tables import columns_of, rows_of, table

if TYPE_CHECKING:
    import pandas as pd

#: Columns of `Results.rows`; the numbers are those of the trace that decides.
COLUMNS = (
    "unlearner", "task", "poison", "discovery", "claim", "verdict", "reason", "trace", "estimate", "low", "high",
    "margin", "unit", "p_pass", "p_fail", "p_bite", "level", "seeds", "seconds", "started", "file",
)  # fmt: skip

#: In which unit an estimate is, by the test that was made.
UNITS = {
    "retention": "fraction of the poison's effect",
    "exact-null": "standard deviations",
    "non-inferiority": "difference from retraining",
    "budget": "fraction of retraining",
}

#: What must be escaped in LaTeX.
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


class Results(Sequence[Any]):
    """Audits, as a sequence that can be shown and written as a table.

    `harness.audit` returns `harness.Verdict` objects, `read_results` the audits of JSON results, which are mappings.
    Printed, it is the closing table of a run; a notebook shows it as HTML. A slice is one, too.

    Args:
        audits: The items.
        entries: The same audits as in a JSON result, one for each item.
    """

    def __init__(self, audits: Iterable[Any], entries: Sequence[Entry]) -> None:
        self._audits, self._entries = tuple(audits), tuple(entries)

    @classmethod
    def of(cls, judged: Iterable[tuple[str, Verdict]]) -> Results:
        """Return verdicts, each given after the name of its claim."""
        pairs = list(judged)
        return cls([verdict for _, verdict in pairs], [{**plain(verdict), "claim": claim} for claim, verdict in pairs])

    def __len__(self) -> int:
        return len(self._audits)

    def __getitem__(self, index: Any) -> Any:
        found = self._audits[index]
        return Results(found, self._entries[index]) if isinstance(index, slice) else found

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each audit: its values under `COLUMNS`, None for what it does not have.

        ``low`` and ``high`` are the ends of the interval, and ``seeds`` is how many seeds the verdict rests on.
        ``file`` and ``started`` are those of the JSON result.
        """
        return [_row(each) for each in self._entries]

    def to_frame(self) -> pd.DataFrame:
        """Return `rows` as a pandas DataFrame.

        Raises:
            UnlearningError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise UnlearningError("a DataFrame needs pandas: pip install pandas") from None
        return pd.DataFrame(self.rows(), columns=list(COLUMNS))

    def to_csv(self) -> str:
        """Return `rows` as comma-separated values, with a head."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()

    def to_markdown(self) -> str:
        """Return the closing table in Markdown, a row for each method and poison."""
        head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in self._table())
        lines = [head, ["---"] * len(head), *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def to_latex(self) -> str:
        """Return the closing table as a LaTeX ``tabular``, for the package booktabs."""
        head, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in self._table())
        columns = "l" * len(self._table()[0])
        return "\n".join(
            [
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )

    def _table(self) -> list[list[str]]:
        """Return the closing table as texts, its head first; the first column is the file if there are several."""
        found: list[list[str]] = []
        for file, own in self._by_file().items():
            head, *rows = rows_of(methods({"audits": own}), columns_of(self._entries))
            found += [] if found else [["file", *head]]
            found += [[file, *row] for row in rows]
        several = len(self._by_file()) > 1
        return [row if several else row[1:] for row in found]

    def _by_file(self) -> dict[str, list[Entry]]:
        files = list(dict.fromkeys(each.get("file", "") for each in self._entries)) or [""]
        return {file: [each for each in self._entries if each.get("file", "") == file] for file in files}

    def __repr__(self) -> str:
        if not self._entries:
            return "no audits"
        tables = {file: "\n".join(table(methods({"audits": own}))) for file, own in self._by_file().items()}
        shown = [f"{file}\n\n{text}" if len(tables) > 1 else text for file, text in tables.items()]
        return "\n\n".join(shown)

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def read_results(*files: str | Path) -> Results:
    """Return the audits of JSON results (``--audit-json``), file by file.

    Raises:
        UnlearningError: A file is missing, or it is not a JSON result.
    """
    entries = []
    for file in files:
        document = read(Path(file))
        of = {"file": str(file), "started": document["run"]["started"]}
        entries += [{**audit, **of} for audit in document["audits"]]
    return Results(entries, entries)


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    low, high = entry["interval"]
    known = {**entry, "low": low, "high": high, "seeds": len(entry["seeds"]), "unit": UNITS.get(entry.get("test", ""))}
    return {name: known.get(name) for name in COLUMNS}


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
