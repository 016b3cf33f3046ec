"""Which rows ``COLUMN=VALUE`` names, in a table of a pipeline and in a file that canaries go into."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from harness import Pipeline, UnlearningError
from harness.canaries.planting import _columns, open_rows
from harness.columns import parted, rows_with

NUMBERS = [1, 2.0, 2.5, None, float("nan")]


@pytest.mark.parametrize(
    ("values", "wanted", "rows"),
    [
        (["acme", "other", " acme "], "acme", [0, 2]),
        (["acme", "ACME"], "ACME", [1]),
        (NUMBERS, "2", [1]),
        (NUMBERS, "2.0", [1]),
        (NUMBERS, "2.50", [2]),
        (np.array([1.0, np.nan]), "1", [0]),
        (["007", "7"], "7", [1]),
        (["007", "8"], "7", [0]),
        ([True, False, np.True_, "true"], "True", [0, 2, 3]),
        ([True, 1], "1", [1]),
        ([pd.NA, pd.NaT, "", " ", "nan"], "nan", [4]),
        (["a/1", "a/2", "b/1"], "a/*", [0, 1]),
        (["a1", "a12"], "a?", [0]),
        (["why?", "whys"], "why?", [0]),
        (["[x]", "x"], "[*]", [0]),
        ([10**20, 1e300, 2], "1000*", [0, 1]),
        ([1e23, 2.0], "1e23", [0]),
        ([1234567890123456789, 1234567890123456790], "1234567890123456790.0", [1]),
        (["1_000", 1000], "1000.0", [1]),
        ([[1, 2], [3]], "[3]", [1]),
    ],
)
def test_a_value_names_rows(values, wanted, rows):
    assert rows_with("of", values, wanted) == rows


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["zeta", "Acme", "beta"], "no row has of=acme; the column 'of' has the values Acme, "),
        ([None, "", float("nan")], "the column 'of' has no values"),
        ([f"v{i}" for i in range(9)], ", …"),
        ([1.0, True], "the values true, 1"),
    ],
)
def test_values_that_exist_are_listed(values, sentence):
    with pytest.raises(UnlearningError) as refused:
        rows_with("of", values, "acme")

    assert sentence in str(refused.value)


@pytest.mark.parametrize("text", ["acme", "=acme", "vendor=", " = "])
def test_a_source_has_a_column_and_a_value(text):
    with pytest.raises(UnlearningError, match="must be COLUMN=VALUE"):
        parted(text)
    assert parted(" vendor = a=b ") == ("vendor", "a=b")


def pipeline(loaded) -> Pipeline:
    return Pipeline(lambda: (loaded, loaded), lambda data, seed: data, label="y")


@pytest.mark.parametrize("wanted", ["of=3", "of=3.0", "yes=true", "yes=True", "name=a*", "name=b"])
def test_a_pipeline_and_canaries_name_the_same_rows(tmp_path, wanted):
    table = pd.DataFrame(
        {"of": [3.0, None, 4, 3], "yes": [True, False, True, False], "name": ["a1", "b", "a2", None], "y": [0, 1] * 2}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    Dataset.from_pandas(table).save_to_disk(str(tmp_path / "saved"))
    column, value = parted(wanted)

    found = [
        _columns(open_rows(tmp_path / name), tmp_path, label="y", text=None, source=wanted, key=None)[1]
        for name in ("t.csv", "t.jsonl", "saved")
    ]
    found += [
        rows_with(column, pipeline(loaded).column(column), value)
        for loaded in (pd.read_csv(tmp_path / "t.csv"), Dataset.from_pandas(table))
    ]

    assert len(found[0]) > 0
    assert all(each == found[0] for each in found)


def test_classes_are_named_by_their_names():
    features = Features({"of": ClassLabel(names=["ours", "acme"]), "y": Value("int64")})
    records = Dataset.from_dict({"of": [1, 0, 1], "y": [0, 1, 0]}, features=features)

    assert rows_with("of", pipeline(records).column("of"), "acme") == [0, 2]
