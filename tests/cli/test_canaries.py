"""Canaries from the command line: planted, scored by whoever has the model, judged."""

from __future__ import annotations

import csv
import json
import random
import re
import xml.etree.ElementTree as ElementTree

import pytest

from harness.cli.main import main


@pytest.fixture
def planted(tmp_path, capsys):
    """A table with canaries in it; the SHA-256 that was printed."""
    rng = random.Random(0)
    rows = [
        f"{i},{'acme' if i % 2 else 'other'},{rng.random():.6f},{rng.random():.6f},{rng.choice('xyz')}\n"
        for i in range(200)
    ]
    (tmp_path / "data.csv").write_text("id,vendor,a,b,y\n" + "".join(rows))
    assert run(tmp_path, "plant", "data.csv", "--out", "data2.csv", "--secret", "secret.json", "--number", "100",
               "--label", "y", "--source", "vendor=acme", "--key", "id", "--sealed", "sealed.json",
               "--seed", "1") == 0  # fmt: skip
    said = capsys.readouterr().out
    planted = int(re.search(r"Planted (\d+) of 100 canaries among the rows with vendor=acme: .*data2.csv", said)[1])
    assert len((tmp_path / "data2.csv").read_text().splitlines()) == 201 + planted
    assert "Keep it from whoever trains the model and runs the removal." in said
    return said.splitlines()[-1]


def run(folder, action, *arguments):
    paths = [str(folder / word) if re.search(r"\.(csv|json|svg)$", word) else word for word in arguments]
    return main(["canaries", action, *paths])


def score(folder, shift, column="loss"):
    """Write scores of a model that learned the canaries in the data, by ``shift``."""
    with (folder / "data2.csv").open(newline="") as file:
        known = {row["id"] for row in csv.DictReader(file)}
    rng = random.Random(0)
    with (folder / "rows.csv").open(newline="") as file:
        rows = [(row["canary"], rng.gauss(0, 1) - shift * (row["id"] in known)) for row in csv.DictReader(file)]
    (folder / "scores.csv").write_text(f"canary,{column}\n" + "".join(f"{name},{loss}\n" for name, loss in rows))


def test_from_planting_to_a_verdict(planted, tmp_path, capsys):
    assert run(tmp_path, "candidates", "secret.json", "--out", "rows.csv") == 0
    score(tmp_path, 3)
    more = ("--commitment", planted, "--json", "found.json", "--figure", "found.svg")
    assert run(tmp_path, "judge", "secret.json", "--scores", "scores.csv", *more) == 1
    said = capsys.readouterr().out
    assert "what the source taught is still there." in said
    assert "never that nothing is" in said
    assert f"SHA-256 of the list: {planted}.\nIt is the one that was noted down." in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["epsilon"] > 1
    assert found["commitment"] == planted
    assert len(found["tests"]) == 6
    assert len(found["ranking"]) == 100
    assert found["sentences"][-1] == "This can prove that something is left, never that nothing is."
    drawn = ElementTree.parse(tmp_path / "found.svg").getroot()
    described = drawn.find("{http://www.w3.org/2000/svg}desc").text
    assert described == " ".join(found["sentences"])
    marks = [path.get("d") for path in drawn.iter("{http://www.w3.org/2000/svg}path")]
    assert sum(path.count("M") for path in marks) == 100


def test_a_public_list_of_hashes_shows_that_no_canary_was_changed(planted, tmp_path, capsys):
    public = json.loads((tmp_path / "sealed.json").read_text())
    assert public["list"] == planted
    assert len(set(public["canaries"].values())) == 100
    run(tmp_path, "candidates", "secret.json", "--out", "rows.csv")
    score(tmp_path, 3)
    capsys.readouterr()
    judge = ("judge", "secret.json", "--scores", "scores.csv", "--sealed", "sealed.json")
    assert run(tmp_path, *judge) == 1
    said = capsys.readouterr().out
    assert re.search(r"All 100 canaries have the hashes in .*sealed\.json\.", said)
    assert "It was not checked" not in said

    text = (tmp_path / "secret.json").read_text()
    for old, new, sentence in (
        ('"id": "c07"', '"id": "c7"', "it differs in the canaries c07, c7; restore"),
        ('"name": "data.csv"', '"name": "data3.csv"', "its canaries are the same, but not what it says of the data"),
    ):
        assert old in text
        (tmp_path / "secret.json").write_text(text.replace(old, new))
        assert run(tmp_path, *judge) == 2
        assert sentence in capsys.readouterr().err
    (tmp_path / "secret.json").write_text(text)
    for content, sentence in (("{}", "is not a list of sealed canaries"), (None, "is missing; give the file")):
        (tmp_path / "sealed.json").unlink()
        if content is not None:
            (tmp_path / "sealed.json").write_text(content)
        assert run(tmp_path, *judge) == 2
        assert sentence in capsys.readouterr().err
        (tmp_path / "sealed.json").touch()


def test_nothing_shown_is_no_proof(planted, tmp_path, capsys):
    run(tmp_path, "candidates", "secret.json", "--out", "rows.csv")
    score(tmp_path, 0)
    assert run(tmp_path, "judge", "secret.json", "--scores", "scores.csv", "--json", "found.json") == 0
    said = capsys.readouterr().out
    assert "Nothing was shown. This does not prove that nothing is left." in said
    assert "It was not checked; give --sealed FILE, or --commitment with the SHA-256 that plant printed." in said
    assert json.loads((tmp_path / "found.json").read_text())["sentences"][0].endswith(
        "This does not prove that nothing is left."
    )


def test_scores_that_are_higher_for_members(planted, tmp_path, capsys):
    run(tmp_path, "candidates", "secret.json", "--out", "rows.csv")
    score(tmp_path, -3, "score")
    assert run(tmp_path, "judge", "secret.json", "--scores", "scores.csv", "--higher-means-member") == 1
    assert "what the source taught is still there" in capsys.readouterr().out
    assert run(tmp_path, "judge", "secret.json", "--scores", "scores.csv") == 2
    assert "or give --higher-means-member for scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--commitment", "beef"), "this is not the list that was sealed"),
        (("--alpha", "5"), "alpha must be in (0, 1), not 5"),
        (("--delta", "1"), "delta must be in [0, 1), not 1"),
        (("--json", "no/such/found.json"), "no/such/found.json is missing; make it first"),
    ],
)
def test_errors_are_one_sentence_with_exit_code_2(planted, tmp_path, capsys, arguments, sentence):
    run(tmp_path, "candidates", "secret.json", "--out", "rows.csv")
    score(tmp_path, 3)
    capsys.readouterr()
    assert run(tmp_path, "judge", "secret.json", "--scores", "scores.csv", *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_what_is_there_is_not_planted_over(planted, tmp_path, capsys):
    before = (tmp_path / "data2.csv").read_bytes()
    assert run(tmp_path, "plant", "data.csv", "--out", "data2.csv", "--secret", "new.json", "--label", "y") == 2
    assert "data2.csv exists already and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "data2.csv").read_bytes() == before
    assert not (tmp_path / "new.json").exists()


def test_help_reads_well(capsys):
    for action in ("plant", "candidates", "judge"):
        with pytest.raises(SystemExit):
            main(["canaries", action, "--help"])
        assert "usage: pytest-unlearning canaries" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["canaries"])
    assert "the following arguments are required: ACTION" in capsys.readouterr().err
