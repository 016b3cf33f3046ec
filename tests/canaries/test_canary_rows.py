"""What is not a canary is written as it was read."""

from __future__ import annotations

import csv
import io
import random
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.api import UnlearningError
from harness.canaries.making import Columns, make
from harness.canaries.tables import CSVRows, JSONLRows, ordered

CELLS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)


@given(st.integers(1, 20), st.data())
def test_rows_keep_their_order_and_canaries_follow_theirs(rows, data):
    after = data.draw(st.lists(st.integers(0, rows - 1), max_size=10))
    order, places = ordered(rows, after)
    assert sorted(order) == list(range(rows + len(after)))
    assert [i for i in order if i < rows] == list(range(rows))
    for canary, (row, place) in enumerate(zip(after, places, strict=True)):
        assert order[place] == rows + canary
        assert [i for i in order[:place] if i < rows][-1] == row


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_a_csv_file_comes_back_byte_for_byte(tmp_path_factory, cells, delimiter, end, mark, cut, quoting):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("first", "second"), *cells])
    body = text.getvalue().removesuffix(end) if cut else text.getvalue()
    folder = tmp_path_factory.mktemp("csv")
    path = folder / "data.csv"
    path.write_bytes(("\ufeff" * mark + body).encode())
    rows = CSVRows(path)
    assert [(rows.value(i, "first"), rows.value(i, "second")) for i in range(len(rows))] == cells
    rows.write(folder / "same.csv", [])
    assert (folder / "same.csv").read_bytes() == path.read_bytes() + end.encode() * cut
    (place,) = rows.write(folder / "more.csv", [(0, {"first": 'a "b"', "second": f"c{delimiter}\nd"})])
    more = CSVRows(folder / "more.csv")
    assert place == 1
    assert (more.value(1, "first"), more.value(1, "second")) == ('a "b"', f"c{delimiter}\nd")
    assert len(more) == len(rows) + 1


def test_blank_lines_and_cells_of_several_lines_stay(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b'a,b\n\n1,"x\ny"\n\n2,z')
    rows = CSVRows(path)
    assert rows.values("b") == ["x\ny", "z"]
    rows.write(tmp_path / "out.csv", [(1, {"a": "3", "b": "w"})])
    assert (tmp_path / "out.csv").read_bytes() == b'a,b\n\n1,"x\ny"\n\n2,z\n3,w\n'


def test_a_json_file_keeps_its_lines(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes('{"b": 1,   "a": "ü"}\n\n{"a": [1, {"c": null}]}'.encode())
    rows = JSONLRows(path)
    assert list(rows.columns) == ["b", "a"]
    assert rows.write(tmp_path / "out.jsonl", [(0, {"a": "ö"})]) == [1]
    assert (tmp_path / "out.jsonl").read_text() == '{"b": 1,   "a": "ü"}\n{"a": "ö"}\n{"a": [1, {"c": null}]}\n'


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("d.csv", b"", "is empty; it needs a header and rows"),
        ("d.csv", b"1.5,2\n3,4\n", "is not a header of distinct column names"),
        ("d.csv", b"a,a\n3,4\n", "is not a header of distinct column names"),
        ("d.csv", b"a,\n3,4\n", "is not a header of distinct column names"),
        ("d.csv", b"a,b\n3,4\n5\n", "row 2 of .* has 1 fields and the header 2; mend the row"),
        ("d.csv", b'a,b\n3,"4\n', "line 2 of .* is not CSV: unexpected end of data"),
        ("d.csv", b"a,b\n3,\xff\n", r"is not UTF-8 \(byte 6\); save it as UTF-8 first"),
        ("d.jsonl", b"\n", "is empty; it needs one JSON object a line"),
        ("d.jsonl", b'{"a": 1}\n[1]\n', "row 2 of .* is not a JSON object"),
        ("d.jsonl", b'{"a": 1}\n{"a": \n', "row 2 of .* is not a JSON object"),
    ],
)
def test_what_is_not_such_a_file_is_refused(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnlearningError, match=sentence):
        (CSVRows if name.endswith("csv") else JSONLRows)(path)


def test_an_index_column_of_pandas_is_a_header(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(",a\n0,x\n")
    assert CSVRows(path).columns == ["", "a"]


@given(st.lists(st.tuples(*[st.sampled_from("abcdef")] * 3), min_size=8, max_size=30, unique=True), st.integers(0, 99))
def test_canaries_are_new_and_made_of_the_sources_values(tmp_path_factory, cells, seed):
    path = tmp_path_factory.mktemp("made") / "d.csv"
    path.write_text("x,y,z,label\n" + "".join(",".join(row) + f",{i % 3}\n" for i, row in enumerate(cells)))
    rows, source = CSVRows(path), range(4)
    possible = {*product(*({rows.value(row, column) for row in source} for column in "xyz"))} - {*cells}
    if len(possible) < 5:
        with pytest.raises(UnlearningError, match="the source has too few different values"):
            make(rows, source, Columns(label="label"), 5, random.Random(seed))
        return
    assume(len(possible) >= 10)  # else chance may miss the last one
    canaries = make(rows, source, Columns(label="label"), 5, random.Random(seed))
    for column in "xyz":
        assert {canary[column] for canary in canaries} <= {rows.value(row, column) for row in source}
    made = [(canary["x"], canary["y"], canary["z"]) for canary in canaries]
    assert len({*made, *cells}) == len(made) + len(cells)
    assert {canary["label"] for canary in canaries} <= {"0", "1", "2"}
