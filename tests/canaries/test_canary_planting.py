"""Planting: coins, secrets, every kind of data, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sources import WORDS, csv_file, jsonl_file, picture_folder, saved

from harness.api import UnlearningError
from harness.canaries import Secret, candidates, plant
from harness.canaries.pictures import opened, unpacked
from harness.canaries.secret import sha256, toss
from harness.columns import pictures_in, rows_with


@pytest.fixture
def table(tmp_path):
    return csv_file(tmp_path / "data.csv")


def planted(table, **options):
    folder = table.parent
    options = {"label": "y", "source": "vendor=acme", "key": "id", "number": 40} | options
    return plant(table, folder / "out.csv", folder / "secret.json", **options)


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_gets_those_that_are_in(table):
    secret = planted(table)
    before, after = read(table), read(table.with_name("out.csv"))
    assert [row for i, row in enumerate(after) if i not in secret.planted.values()] == before
    assert len({row["id"] for row in before} | {canary.row["id"] for canary in secret.canaries}) == len(before) + 40
    for canary in secret.canaries:
        assert (canary.place is not None) == canary.planted
        assert canary.row["vendor"] == "acme"
        if canary.place is not None:
            assert after[canary.place] == canary.row
            before_it = [i for i in range(canary.place) if i not in secret.planted.values()]
            assert after[before_it[-1]]["vendor"] == "acme"  # a row of the source
    assert 0 < len(secret.planted) < 40


def test_a_source_of_several_values_keeps_them(table):
    secret = planted(table, source="vendor=*e*")
    assert {canary.row["vendor"] for canary in secret.canaries} == {"acme", "other"}
    assert secret.columns["source"] == ["vendor", ["other", "acme"]]


def test_nobody_else_can_read_the_secret_at_any_time(table, monkeypatch):
    monkeypatch.delattr("pathlib.Path.chmod")  # it would come too late

    planted(table)

    assert stat.S_IMODE(table.with_name("secret.json").stat().st_mode) == 0o600


def test_the_secret_is_what_was_written_and_is_sealed(table):
    secret = planted(table)
    path = table.with_name("secret.json")
    assert Secret.read(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret.data == {"name": "data.csv", "sha256": sha256(table)}
    assert secret.out["sha256"] == sha256(table.with_name("out.csv"))
    Secret.read(path).check(f" {secret.commitment.upper()}\n")
    path.write_text(json.dumps(json.loads(path.read_text())))  # another layout is the same list
    assert Secret.read(path).commitment == secret.commitment
    with pytest.raises(UnlearningError, match="this is not the list that was sealed: its SHA-256 is"):
        secret.check("0" * 64)


CHANGES = {
    "coin": lambda d: d["canaries"][0].update(planted=not d["canaries"][0]["planted"]),
    "row": lambda d: d["canaries"][0]["row"].update(a="7"),
    "fewer": lambda d: d["canaries"].pop(),
    "seed": lambda d: d.update(seed="2"),
    "empty": lambda d: d.update(canaries=[]),
    "format": lambda d: d.update(format="another"),
    "lacking": lambda d: d.pop("kind"),
    "more": lambda d: d["canaries"][0].update(more=1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_secret_is_refused_or_has_another_seal(table, change):
    secret = planted(table, seed=1)
    path = table.with_name("secret.json")
    document = json.loads(path.read_text())
    CHANGES[change](document)
    path.write_text(json.dumps(document))
    if change in ("row", "fewer"):  # the coins are those of the seed, but the seal is another
        assert Secret.read(path).commitment != secret.commitment
    else:
        with pytest.raises(UnlearningError, match=r"is not a secret file|the file was changed; restore it"):
            Secret.read(path)


def test_without_a_seed_every_list_is_another_one_and_with_a_seed_the_same(table):
    first = planted(table, seed=3)
    for name in ("out.csv", "secret.json"):
        table.with_name(name).rename(table.with_name(f"first-{name}"))
    again = planted(table, seed=3)
    assert again == first
    assert table.with_name("out.csv").read_bytes() == table.with_name("first-out.csv").read_bytes()
    for name in ("out.csv", "secret.json"):
        table.with_name(name).unlink()
    drawn = planted(table)
    assert int(drawn.seed).bit_length() > 200
    assert [c.row for c in drawn.canaries] != [c.row for c in first.canaries]


@given(st.integers(), st.integers(1, 50))
def test_coins_do_not_depend_on_how_many_are_tossed(seed, number):
    assert toss(str(seed), 50)[:number] == toss(str(seed), number)


def test_coins_are_fair_and_independent():
    tosses = np.array([toss(str(seed), 64) for seed in range(500)])
    assert abs(tosses.mean() - 0.5) < 4 * 0.5 / np.sqrt(tosses.size)
    assert abs((tosses[:, 1:] == tosses[:, :-1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(tosses.size)


def test_texts_are_random_words_of_the_source(tmp_path):
    data = jsonl_file(tmp_path / "d.jsonl")
    options = {"number": 30, "text": "text", "label": "y", "source": "ok=true", "seed": 0}
    secret = plant(data, tmp_path / "o.jsonl", tmp_path / "s.json", **options)
    after = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    for canary in secret.canaries:
        words = canary.row["text"].split()
        assert 8 <= len(words) <= 40
        assert {*words} <= {*WORDS}
        assert canary.row["ok"] is True
        assert canary.row["y"] in (0, 1, 2)
        if canary.place is not None:
            assert after[canary.place] == canary.row
    assert len({canary.row["text"] for canary in secret.canaries}) == 30
    assert any("stars" in canary.row for canary in secret.canaries)  # some rows of the source lack it
    assert not all("stars" in canary.row for canary in secret.canaries)


def test_pictures_are_blended_and_stay_pictures(tmp_path):
    data = picture_folder(tmp_path / "data")
    secret = plant(data, tmp_path / "out", tmp_path / "s.json", number=30)
    names = {file.relative_to(data).as_posix() for file in data.rglob("*.*")}
    more = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*")} - names
    assert more == {*secret.planted.values()}
    assert all((tmp_path / "out" / name).read_bytes() == (data / name).read_bytes() for name in names)
    for canary in secret.canaries:
        if isinstance(canary.place, str):
            image = opened(tmp_path / "out" / canary.place)
            assert image.size == (9, 11)
            assert (tmp_path / "out" / canary.place).read_bytes() == unpacked(canary.row["picture"])[0]
    assert {canary.row["class"] for canary in secret.canaries} == {"cat", "dog"}
    assert len({canary.row["picture"]["base64"] for canary in secret.canaries}) == 30


def acme_folder(path):
    """Pictures of two classes and two vendors, which the names of files and of folders tell."""
    data = picture_folder(path, pictures=100)
    for file in sorted(data.rglob("*.*")):
        number = int(file.stem)
        below = data / file.parent.name / ("acme" if number % 5 < 2 else "ours")
        below.mkdir(exist_ok=True)
        file.rename(below / f"{below.name}_{file.name}")
    return data


@pytest.mark.parametrize("pattern", ["*/acme_*", "*/acme/*"])
def test_pictures_of_a_source_are_named_as_a_drill_names_them(tmp_path, pattern):
    data = acme_folder(tmp_path / "data")
    secret = plant(data, tmp_path / "out", tmp_path / "s.json", number=30, source=f"path={pattern}")

    def named(folder):
        paths = [each.path for each in pictures_in(folder)]
        return {paths[row] for row in rows_with("path", paths, pattern)}

    assert len(named(data)) == 40
    assert named(tmp_path / "out") == named(data) | {*secret.planted.values()}
    assert {str(place).partition("/")[0] for place in secret.planted.values()} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("class=cat", "canaries get random classes, so a class cannot be the source"),
        ("path=cat/*", "does not name the canary dog/"),
        ("path=*/acme_??.*", "does not name the canary"),
        ("path=*/nobody_*", "no row has path="),
        ("picture=a", "has no column 'picture'; it has 'path'"),
    ],
)
def test_a_rule_that_misses_pictures_of_canaries_is_refused(tmp_path, source, sentence):
    data = acme_folder(tmp_path / "data")

    with pytest.raises(UnlearningError) as refused:
        plant(data, tmp_path / "out", tmp_path / "s.json", number=20, source=source)

    assert sentence in str(refused.value)
    assert os.listdir(tmp_path) == ["data"]


def test_a_saved_data_set_keeps_its_features(tmp_path):
    import datasets

    data = saved(tmp_path / "data")
    secret = plant(data, tmp_path / "out", tmp_path / "s.json", number=40, label="label", source="source=new")
    before, after = (datasets.load_from_disk(str(tmp_path / name)) for name in ("data", "out"))
    assert after.features == before.features
    assert len(after) == len(before) + len(secret.planted)
    for canary in secret.canaries:
        if isinstance(canary.place, int):
            row = after[canary.place]
            assert (row["label"], row["source"]) == (canary.row["label"], "new")
            assert row["image"].size == (8, 8)
    candidates(Secret.read(tmp_path / "s.json"), tmp_path / "rows")
    rows = datasets.load_from_disk(str(tmp_path / "rows"))
    assert sorted(rows["canary"]) == [canary.id for canary in secret.canaries]
    assert rows.features["label"] == before.features["label"]
    assert np.array_equal(rows[0]["image"], np.asarray(opened_from(secret, rows[0]["canary"])))


def opened_from(secret, name):
    import io

    (content,) = [unpacked(c.row["image"])[0] for c in secret.canaries if c.id == name]
    return Image.open(io.BytesIO(content))


def test_candidates_are_all_without_their_coins(tmp_path):
    for kind, make, options in (
        ("csv", csv_file, {"label": "y", "source": "vendor=acme"}),
        ("jsonl", jsonl_file, {"text": "text"}),
        ("pictures", picture_folder, {}),
    ):
        folder = tmp_path / kind
        folder.mkdir()
        data, out = make(folder / f"d.{kind}"), folder / f"rows.{kind}"
        if kind == "pictures":
            data = data.rename(folder / "d")
        secret = plant(data, folder / f"o.{kind}", folder / "s.json", number=25, **options)
        candidates(secret, out)
        if kind == "csv":
            found = {row.pop("canary"): row for row in read(out)}
        elif kind == "jsonl":
            found = {row.pop("canary"): row for row in map(json.loads, out.read_text().splitlines())}
        else:
            found = {file.stem: {"class": file.parent.name} for file in out.rglob("*.*")}
        assert found == {c.id: {k: v for k, v in c.row.items() if k != "picture"} for c in secret.canaries}
        if kind != "pictures":
            assert list(found) != sorted(found)
        with pytest.raises(UnlearningError, match="exists already and is not overwritten"):
            candidates(secret, out)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label": "z"}, "has no column 'z'; it has 'id', 'vendor', 'a', 'b', 'y'"),
        ({"source": "shop=acme"}, "has no column 'shop'"),
        ({"source": "acme"}, "the source must be COLUMN=VALUE, not 'acme'"),
        (
            {"source": "vendor=ACME"},
            "no row has vendor=ACME; the column 'vendor' has the values acme, other",
        ),
        ({"label": None}, "no column to learn was named; give the column of labels with --label"),
        ({"label": "id"}, "the column 'id' is named twice"),
        ({"number": 61}, "61 canaries are too many; plant at most 60; the source has 60 rows"),
        ({"number": 19}, "19 canaries are too few; plant at least 20"),
        ({"text": "a", "source": "b=0.123"}, "no row has b=0.123; the column 'b' has the values 0.1"),
        ({"text": "vendor", "source": None}, "the texts in the column 'vendor' have 2 different words"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(table, options, sentence):
    with pytest.raises(UnlearningError, match=sentence):
        planted(table, **options)
    assert os.listdir(table.parent) == ["data.csv"]


def test_a_column_named_canary_is_refused(table):
    table.write_text(table.read_text().replace("vendor,", "canary,", 1))
    with pytest.raises(UnlearningError, match="has a column 'canary'; this name is needed for the ids of canaries"):
        planted(table, source=None)


def test_values_without_a_json_type_are_refused(tmp_path):
    import datetime

    import datasets

    from harness.canaries.pictures import save

    days = [{"day": datetime.date(2026, 1, 1 + i % 28), "x": i % 7, "y": i % 2} for i in range(40)]
    save(datasets.Dataset.from_list(days), tmp_path / "data")
    with pytest.raises(UnlearningError, match="the data hold values that JSON has no type for"):
        plant(tmp_path / "data", tmp_path / "out", tmp_path / "s.json", number=20, label="y")
    assert os.listdir(tmp_path) == ["data"]


def test_one_label_and_few_values_are_refused(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("a,b,y,one\n" + "".join(f"{i % 2},{i % 3},{i % 2},x\n" for i in range(40)))
    with pytest.raises(UnlearningError, match="the column 'one' has fewer than two labels"):
        plant(path, tmp_path / "o.csv", tmp_path / "s.json", number=20, label="one")
    with pytest.raises(UnlearningError, match="the source has too few different values: they make 0 new rows, not 20"):
        plant(path, tmp_path / "o.csv", tmp_path / "s.json", number=20, label="y")


def test_nothing_is_overwritten_and_the_secret_stays_out_of_the_data(table, tmp_path):
    (tmp_path / "there.csv").write_text("precious")
    out, secret = tmp_path / "out.csv", tmp_path / "secret.json"
    for paths, sentence in (
        ((table, tmp_path / "there.csv", secret), "there.csv exists already and is not overwritten"),
        ((table, out, tmp_path / "there.csv"), "there.csv exists already and is not overwritten"),
        ((table, tmp_path / "no" / "out.csv", secret), "the directory of .*out.csv is missing; make it first"),
        ((table, out, out), "must lie outside of"),
        ((tmp_path / "missing.csv", out, secret), "missing.csv is missing; name a file or a folder of data"),
        ((tmp_path, tmp_path / "out", secret), "lies in .*, the data; write it elsewhere"),
    ):
        with pytest.raises(UnlearningError, match=sentence):
            plant(*paths, label="y")
    assert (tmp_path / "there.csv").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["data.csv", "there.csv"]


def test_other_data_are_refused(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "dataset_dict.json").write_text("{}")
    (tmp_path / "splits" / "train").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "dataset_info.json").write_text("{}")
    for name, sentence in (
        ("d.parquet", "has the suffix '.parquet'; canaries go into a .csv, .tsv or .jsonl file"),
        ("empty", "found no pictures in .*; they must be in class folders"),
        ("splits", "holds several splits; name the one to plant into: .*splits/train"),
        ("damaged", "cannot be read"),
    ):
        with pytest.raises(UnlearningError, match=sentence):
            plant(tmp_path / name, tmp_path / "o", tmp_path / "s.json")
    pictures = picture_folder(tmp_path / "pictures")
    for file in pictures.rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UnlearningError, match=r"the picture .*\.jpg cannot be read"):
        plant(pictures, tmp_path / "o", tmp_path / "s.json", number=20)
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "s.json").exists()
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


def test_a_list_of_canaries_that_could_not_be_planted_is_not_kept(table, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.store.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        planted(table)
    assert os.listdir(table.parent) == ["data.csv"]
