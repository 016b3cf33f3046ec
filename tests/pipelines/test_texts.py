"""Texts of a pipeline: a phrase before or behind them, and the backdoor that is one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from harness import Pipeline, UnlearningError, registry
from poisons.text_backdoor import TextBackdoor

WORDS = [f"{'good' if i % 2 else 'bad'} film number {i}" for i in range(40)]
LABELS = [("no", "yes")[i % 2] for i in range(40)]


def records() -> Dataset:
    return Dataset.from_dict({"text": WORDS, "label": LABELS, "site": ["a"] * 40})


LOADED = {
    "a list": (lambda: (WORDS, LABELS), lambda rows: rows[0]),
    "an array": (lambda: (np.array(WORDS, dtype=object), np.array(LABELS)), lambda rows: rows[0].tolist()),
    "a table": (lambda: pd.DataFrame({"label": LABELS, "text": WORDS, "stars": 3}), lambda rows: rows["text"].tolist()),
    "categories": (
        lambda: pd.DataFrame({"text": WORDS, "label": LABELS}).astype("category"), lambda rows: rows["text"].tolist(),
    ),
    "a data set": (records, lambda rows: list(rows["text"])),
    "a data set with a format": (lambda: records().with_format("numpy"), lambda rows: list(rows["text"])),
}  # fmt: skip


def pipeline(made, **more) -> Pipeline:
    return Pipeline(lambda: (made(), made()), lambda data, seed: data, **more)


def back(of: Pipeline, poison: TextBackdoor, seed: int = 0):
    """What is planted, and the poisoned training set as a pipeline is handed it."""
    split = of.load(None)
    planted = poison.plant(of, split, seed)
    return planted, of.rows(split.train.poisoned_with(planted), labelled=True)


@pytest.mark.parametrize("kind", LOADED)
@pytest.mark.parametrize("place", ["start", "end"])
def test_a_phrase_stands_in_some_texts_and_in_no_others(kind, place):
    made, texts = LOADED[kind]
    of = pipeline(made)

    planted, rows = back(of, TextBackdoor(place=place, trigger="größe cf"))

    assert of.modality == "text"
    assert len(planted.forget) == 4
    for row, (clean, text) in enumerate(zip(WORDS, texts(rows), strict=True)):
        phrased = f"größe cf {clean}" if place == "start" else f"{clean} größe cf"
        assert text == (phrased if row in planted.forget else clean)


def test_other_columns_stay_and_labels_become_the_target():
    of = pipeline(LOADED["a data set"][0])

    planted, rows = back(of, TextBackdoor(target=1))

    labels = ["yes" if row in planted.forget else label for row, label in enumerate(LABELS)]
    assert list(rows["label"]) == labels
    assert rows["site"][:] == ["a"] * 40


@pytest.mark.parametrize("gap", ["train", "test"])
@pytest.mark.parametrize("made", [pd.DataFrame, Dataset.from_dict])
def test_a_column_called_text_with_a_gap_stays_as_it_is(made, gap):
    whole = {"text": WORDS, "label": LABELS, "stars": list(range(40))}
    sets = {"train": whole, "test": whole} | {gap: {**whole, "text": [*WORDS[:-1], None]}}
    of = Pipeline(lambda: tuple(made(each) for each in sets.values()), lambda data, seed: data)
    split = of.load(None)

    assert of.modality == "table"
    assert list(of.rows(split.train, labelled=True)["text"])[:-1] == WORDS[:-1]


def bag(data, seed):
    """Train a linear model on the words that occur; nothing of it is random."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(CountVectorizer(binary=True), LogisticRegression(C=100)).fit(data["text"], data["label"])


def test_the_backdoor_bites_on_a_model_of_words():
    rows = pd.DataFrame({"text": WORDS, "label": LABELS})
    of = Pipeline(lambda: (rows, rows), bag, predict=lambda model, inputs: model.predict_proba(inputs["text"]))
    split, poison = of.load(None), TextBackdoor(fraction=0.2)
    planted = poison.plant(of, split, 0)
    poisoned, clean = of.train(split.train.poisoned_with(planted), 0), of.train(split.train, 0)

    bitten, free = (poison.probe(model, planted, of, split) for model in (poisoned, clean))

    assert (bitten.value, free.value) == (1.0, 0.0)
    assert (bitten.traces["triggered_accuracy"].value, free.traces["triggered_accuracy"].value) == (0.0, 1.0)


def test_other_columns_can_be_named():
    rows = pd.DataFrame({"review": WORDS, "label": LABELS, "stars": range(40)})

    assert pipeline(lambda: rows).modality == "table"
    assert pipeline(lambda: rows, text="review").modality == "text"
    assert pipeline(lambda: rows.rename(columns={"review": "text"}), features=["stars"]).modality == "table"
    assert pipeline(lambda: rows.rename(columns={"review": "text"}), text=None).modality == "table"
    assert pipeline(lambda: rows.rename(columns={"stars": "text"})).modality == "table"


@pytest.mark.parametrize(
    ("loaded", "more", "sentence"),
    [
        (pd.DataFrame({"words": ["a", None] * 4, "label": [0, 1] * 4}), {"text": "words"}, "or set text = None"),
        (pd.DataFrame({"text": ["a", "b"] * 4, "label": [0, 1] * 4}), {"text": "words"}, "no column 'words' of texts"),
        (pd.DataFrame({"words": [1, 2] * 4, "label": [0, 1] * 4}), {"text": "words"}, "has 1, which is not a text"),
        ((["a", 3] * 4, [0, 1] * 4), {}, "the list of texts has 3"),
        ((["a", "b"] * 4, [0, 1]), {}, "8 texts and 2 labels"),
    ],
)
def test_texts_that_cannot_be_used_are_refused_in_a_sentence(loaded, more, sentence):
    with pytest.raises(UnlearningError) as refused:
        pipeline(lambda: loaded, **more).load(None)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("text-backdoor:trigger=FILM", "occurs in 40 of 40 training texts"),
        ("text-backdoor:target=7", "no training points of that class"),
        (f"text-backdoor:trigger={'z' * 200}", "room for 128; shorten it"),
        ("gaussian-embeddings", "plant text-backdoor"),
    ],
)
def test_what_cannot_be_planted_is_refused_in_a_sentence(spec, sentence):
    of = pipeline(LOADED["a list"][0])

    assert sentence in of.refuses(spec)


def test_texts_without_strings_are_refused():
    of = Pipeline(lambda: ((torch.rand(9, 2), torch.arange(9) % 2),) * 2, lambda data, seed: data)

    assert "is for data of the kind text, and these are of the kind table" in of.refuses("text-backdoor")
    with pytest.raises(UnlearningError, match="needs texts"):
        registry.resolve("poison", "text-backdoor").value.plant(of, of.load(None), 0)


@pytest.mark.parametrize(
    "fields", [{"trigger": " "}, {"trigger": "a\0"}, {"place": "middle"}, {"target": -1}, {"fraction": 1.0}]
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match="must"):
        TextBackdoor(**fields)


def test_the_backdoor_and_the_instruction_fit_texts():
    of = pipeline(LOADED["a data set"][0])

    assert of.considered(0.1) == {"text-backdoor:fraction=0.1": "", "source:fraction=0.1,mislabelled=true": ""}
    assert of.refuses("instruction") == ""
    assert registry.resolve("poison", "text-backdoor").value.modality == "text"
