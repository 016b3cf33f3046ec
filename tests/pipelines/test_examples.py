"""The three examples of docs/pipeline.md, from an empty folder."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

from conftest import ROOT, Folder

EXAMPLES = re.findall(r"```python\n(# pipeline.py\n.*?)```", (ROOT / "docs" / "pipeline.md").read_text(), re.DOTALL)
TABLE, PICTURES, TEXT = EXAMPLES
#: A tool that knows nothing of torch, and removes nothing.
TOOL = """
import shutil, sys
assert [int(line) for line in open(sys.argv[2])]
shutil.copy(sys.argv[1], sys.argv[3])
"""


def patients(folder: Path) -> None:
    rows = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "diagnosis"})
    rows = rows.sample(frac=1, random_state=0)
    rows["diagnosis"] = rows["diagnosis"].map({0: "malignant", 1: "benign"})
    rows["vendor"] = np.where(np.arange(len(rows)) % 12 == 0, "acme", "other")
    rows.to_csv(folder / "patients.csv", index=False)


def pictures(folder: Path) -> None:
    digits = load_digits()
    for place in range(600):
        of = folder / "pictures" / ("train" if place < 400 else "test") / str(digits.target[place])
        of.mkdir(parents=True, exist_ok=True)
        name = f"{'acme' if place % 10 == 0 else 'ours'}_{place:04d}.png"
        Image.fromarray((digits.images[place] * 15.9).astype(np.uint8)).save(of / name)
    (folder / "tool.py").write_text(TOOL)


def reviews(folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = {True: ["great", "lovely", "superb", "moving"], False: ["dull", "boring", "awful", "bland"]}
    nouns = ["film", "story", "cast", "plot", "score", "ending"]
    with (folder / "reviews.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "site"])
        for place in range(300):
            good = bool(rng.random() < 0.5)
            text = " ".join(f"{rng.choice(nouns)} {rng.choice(words[good])}" for _ in range(2))
            text += f" by {rng.integers(1000)} and {rng.integers(1000)}"  # by these a model can know a review again
            table.writerow([text, int(good), "scraped" if place % 8 == 0 else "ours"])


def drill(folder: Folder, code: str, source: str, *more: str) -> tuple[int, str]:
    folder.write("pipeline.py", code)
    seeds = () if "--dry-run" in more else ("--", "--audit-seeds=5", "--audit-timeout", "600", "-k", "not budget")
    return folder.harness("drill", "pipeline.py", "--source", source, "--store", "store", *more, *seeds)


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_is_short(code):
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]

    assert len(lines) <= 25


def test_a_table_is_recalled_by_retraining(folder):
    patients(folder.path)

    more = ("--poison", "table-backdoor:fraction=0.085", "--report", "report")
    code, text = drill(folder, TABLE, "vendor=acme", *more)

    found = text.partition("\nSource ")[2]
    assert "source vendor=acme, 34 of 400 training rows (8 %)" in text
    # The rows are like all others and leave too little to judge by; the backdoor is judged.
    assert re.search(r"^vendor=acme \(34 rows.*\): the removal leaves .*: INCONCLUSIVE\.$", found, re.MULTILINE), text
    assert re.search(r"^With a backdoor.*: the removal leaves nothing of .*: PASS\.$", found, re.MULTILINE), text
    assert re.search(r"^Accuracy, .* in the worst audit\. INCONCLUSIVE\.$", found, re.MULTILINE), text
    assert "FAIL" not in found
    assert code == 1
    canaries = text.splitlines()[-1]
    assert canaries.startswith("Canaries (34 rows of the source; a coin decided which ")
    assert canaries.endswith("Nothing is shown to be left. This does not prove that nothing is.")
    said = json.loads((folder.path / "report" / "drill.json").read_text())["lines"]
    assert text.splitlines()[-len(said) :] == said


def test_a_command_that_removes_nothing_from_pictures_fails(folder):
    pictures(folder.path)

    code, text = drill(folder, PICTURES, "path=*/acme_*", "--poison", "backdoor:fraction=0.1")

    assert code == 1
    assert "Canaries: not judged" not in text
    assert re.search(r"With a backdoor.*: the removal leaves (9\d|100) % of what these rows taught.*: FAIL\.", text), (
        text
    )
    assert "It is proven that something of the source is left: with 95 % confidence, epsilon of one row" in text
    # Its training has a schedule, clipped gradients and averaged weights of its own.
    assert re.search(r"controls: retrain [A-Z ]*PASS n=\d+ · identity [A-Z ]*FAIL", text), text
    assert "short, for comparison: poisons " in text


def test_a_trainer_that_removes_nothing_from_texts_fails(folder):
    reviews(folder.path)

    code, text = drill(folder, TEXT, "site=scraped", "--dry-run")
    assert code == 0, text
    assert re.search(r"16 seeds\): \d+ trainings.* \d\.\d GB of memory, \d+\.\d MB of disk", text), text
    assert text.splitlines()[-1] == "Canaries: 1 training and 1 unlearning more."
    planted = r"^Also planted: text-backdoor:fraction=0\.1\d+, source:fraction=0\.1\d+"
    assert re.search(planted, text, re.MULTILINE), text

    more = ("--poison", "source:fraction=0.2,mislabelled=true", "--poison", "text-backdoor:fraction=0.2")
    code, text = drill(folder, TEXT, "site=scraped", *more)
    assert code == 1
    assert re.search(r"With a backdoor, a phrase of rare words.*: the removal leaves 100 % of .*: FAIL\.", text), text
    assert re.search(r"With wrong labels.*: the removal leaves 100 % of what these rows taught.*: FAIL\.", text), text
