"""What a pipeline may load, and the way back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from torch.utils.data import TensorDataset

from harness import Pipeline, UnlearningError
from harness.training.data import Data


def frame(n: int = 12) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": range(n),
            "size": np.linspace(0, 1, n),
            "city": ["Rome", "Oslo"] * (n // 2),
            "label": ["no", "yes", "yes"] * (n // 3),
        }
    )


def pair(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(3.0 * n).reshape(n, 3), np.arange(n) % 3


def tensors(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, 1, 4, 4), torch.arange(n) % 2


def records(n: int = 12) -> Dataset:
    return Dataset.from_dict({"words": [f"text {i}" for i in range(n)], "label": [i % 2 for i in range(n)]})


def measurements(n: int = 12) -> Dataset:
    return Dataset.from_pandas(frame(n))


def named_texts(n: int = 12) -> Dataset:
    return records(n).rename_column("words", "text").add_column("site", ["ours"] * n)


def told(n: int = 12) -> pd.DataFrame:
    return frame(n).rename(columns={"city": "text"})


def texts(n: int = 12) -> tuple[list[str], list[int]]:
    return [f"text {i}" for i in range(n)], [i % 2 for i in range(n)]


KINDS = {
    "frame": (frame, "table"),
    "arrays": (pair, "table"),
    "tensors": (tensors, "image"),
    "records": (records, "rows"),
    "records of numbers": (measurements, "table"),
    "records of texts": (named_texts, "text"),
    "frame of texts": (told, "text"),
    "texts": (texts, "text"),
    "array of texts": (lambda: (np.array(texts()[0]), np.array(texts()[1])), "text"),
    "items": (lambda: TensorDataset(torch.rand(12, 5), torch.arange(12) % 2), "rows"),
}


def pipeline(made, **more) -> Pipeline:
    return Pipeline(lambda: (made(), made()), lambda data, seed: data, **more)


def labels_of(rows) -> list:
    if isinstance(rows, pd.DataFrame):
        return rows["label"].tolist()
    if isinstance(rows, tuple):
        return list(rows[1]) if isinstance(rows[1], list) else rows[1].tolist()
    if isinstance(rows, Dataset):
        return list(rows["label"])
    return [int(rows[i][1]) for i in range(len(rows))]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_as_they_were_loaded(kind):
    made, modality = KINDS[kind]
    of = pipeline(made)
    split = of.load(None)

    back = of.rows(split.train, labelled=True)

    assert of.modality == modality
    assert type(back) is type(made()) or kind == "items"
    assert labels_of(back) == labels_of(made())
    assert len(of.rows(split.test, labelled=False)) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_some_rows_come_back_with_other_labels(kind):
    made, _ = KINDS[kind]
    of = pipeline(made)
    few = of.load(None).train.subset(torch.tensor([1, 4, 7]))

    back = of.rows(Data(few.inputs, torch.zeros(3, dtype=torch.int64)), labelled=True)

    assert labels_of(back) == [of.classes[0]] * 3


@pytest.mark.parametrize("made", [frame, measurements])
def test_a_poison_changes_numbers_and_nothing_else(made):
    of = pipeline(made)
    data = of.load(None).train.subset(torch.tensor([2, 3]))
    data.inputs["features"][0, 1] = 9.0

    back = of.rows(data, labelled=True)

    if isinstance(back, Dataset):
        back = back.to_pandas()
    assert list(back.columns) == list(frame().columns)
    assert back["size"].tolist() == [9.0, pytest.approx(3 / 11)]
    assert back["age"].tolist() == [2, 3]
    assert back["age"].dtype == "int64"
    assert back["city"].tolist() == ["Rome", "Oslo"]


@pytest.mark.parametrize("made", [frame, measurements])
def test_whole_numbers_become_others_where_a_poison_wants_it(made):
    of = pipeline(made)
    data = of.load(None).train.subset(torch.tensor([2, 3]))
    data.inputs["features"][0, 0] = 2.5

    assert list(of.rows(data, labelled=True)["age"]) == [2.5, 3.0]


@pytest.mark.parametrize("made", [frame, measurements])
def test_columns_can_be_left_alone(made):
    of, alone = pipeline(made, features=["size"]), pipeline(made, features=())

    assert of.load(None).train.inputs["features"].shape == (12, 1)
    assert alone.modality == "rows"


@pytest.mark.parametrize("as_rows", [pd.DataFrame, Dataset.from_pandas])
def test_columns_of_numbers_are_those_that_all_sets_have_in_one_order(as_rows):
    train, test = frame(), frame()[["size", "label", "age", "city"]].assign(size=2.0)
    both = Pipeline(lambda: (as_rows(train), as_rows(test)), lambda data, seed: data).load(None)
    gap = test.assign(age=[float("nan"), *[1.0] * 11])
    one = Pipeline(lambda: (as_rows(train), as_rows(gap)), lambda data, seed: data).load(None)

    assert both.test.inputs["features"][:, 1].tolist() == [2.0] * 12
    assert [split.inputs["features"].shape for split in (one.train, one.test)] == [(12, 1)] * 2


@pytest.mark.parametrize("made", [frame, measurements])
@pytest.mark.parametrize(
    ("features", "sentence"),
    [(["height"], "features has the column 'height', which the "), (["city"], "whose values must be finite numbers")],
)
def test_columns_that_cannot_be_changed_are_refused(made, features, sentence):
    with pytest.raises(UnlearningError, match=sentence):
        pipeline(made, features=features).load(None)


@pytest.mark.parametrize("kind", ["frame", "records", "items"])
def test_what_no_poison_can_change_is_part_of_the_fingerprint(kind):
    one, other = {
        "frame": (frame(), frame().assign(city="Bonn")),
        "records": (records(), records().map(lambda row: {"words": row["words"] + "!"})),
        "items": (
            TensorDataset(torch.zeros(12, 5), torch.arange(12) % 2),
            TensorDataset(torch.ones(12, 5), torch.arange(12) % 2),
        ),
    }[kind]

    prints = [pipeline(lambda each=each: each).load(None).fingerprint for each in (one, one, other)]

    assert prints[0] == prints[1] != prints[2]


def test_a_version_stands_for_the_rest():
    one, other = (pipeline(lambda text=text: records().map(lambda row: {"words": text}), version="1") for text in "ab")

    assert one.load(None).fingerprint == other.load(None).fingerprint


def test_pictures_are_read_from_class_folders(tmp_path):
    from PIL import Image

    for name, value in (("cat", 255), ("dog", 0)):
        (tmp_path / name).mkdir()
        for place in range(2):
            Image.fromarray(np.full((4, 6), value, np.uint8)).save(tmp_path / name / f"{place}.png")
    of = Pipeline(lambda: (tmp_path, tmp_path), lambda data, seed: data)
    split = of.load(None)

    images, names = of.rows(split.train, labelled=True)

    assert images.shape == (4, 1, 4, 6)
    assert images[0].unique().tolist() == [1.0]
    assert names.tolist() == ["cat", "cat", "dog", "dog"]
    assert of.column("path") == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert of.column("class") == names.tolist()


def loads(loaded) -> Pipeline:
    return Pipeline(lambda: loaded, lambda data, seed: data)


@pytest.mark.parametrize(
    ("loaded", "sentence"),
    [
        (frame(), "return train, test"),
        ((frame(), pair()), "of one kind"),
        ((3, 4), "a pair of arrays"),
        ((frame().drop(columns="label"),) * 2, "has no column 'label'"),
        ((frame().assign(label=1.5),) * 2, "not numbers on a scale"),
        ((frame().assign(label=np.nan),) * 2, "some labels are missing"),
        ((frame().assign(label=1),) * 2, "at least two classes"),
        ((pair(), (pair()[0], np.arange(12))), "which the training set lacks"),
        (((np.array([["a"]] * 12), np.arange(12) % 2),) * 2, "must be numbers"),
        (((np.zeros(12), np.arange(12) % 2),) * 2, "of shape (n, ...)"),
        (((np.zeros((12, 2)), np.zeros((12, 2))),) * 2, "must be one per row"),
        (("nowhere", "nowhere"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(loaded, sentence):
    with pytest.raises(UnlearningError) as refused:
        loads(loaded).load(None)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (torch.zeros(12, 2, dtype=torch.int64), "must return scores"),
        (torch.zeros(12, 5), "one score for each class"),
        (torch.zeros(3, 3), "one score for each class"),
    ],
)
def test_scores_that_are_none_are_refused(scores, sentence):
    of = Pipeline(lambda: (pair(), pair()), lambda data, seed: "model", predict=lambda model, inputs: scores)
    split = of.load(None)
    model = of.train(split.train, 0)

    with pytest.raises(UnlearningError, match=sentence):
        of.logits(model, split.test.batch(torch.arange(12)))


def test_one_score_is_for_the_second_of_two_classes_and_shares_are_probabilities():
    answers = iter([np.array([-2.0, 3.0]), np.array([[0.25, 0.75], [1.0, 0.0]])])
    of = Pipeline(
        lambda: (tensors(), tensors()), lambda data, seed: "model", predict=lambda model, inputs: next(answers)
    )
    split = of.load(None)
    model, batch = of.train(split.train, 0), split.test.batch(torch.arange(2))

    assert of.logits(model, batch).argmax(1).tolist() == [0, 1]
    assert of.logits(model, batch).exp().tolist() == [[0.25, 0.75], [1.0, pytest.approx(1e-12)]]


def test_a_probe_set_says_what_a_source_taught():
    of = pipeline(frame, probe=lambda: frame(6).assign(label="yes"))
    split, asked = of.load(None), of.probe_set()

    assert asked.labels.tolist() == [1] * 6
    assert of.rows(asked, labelled=True)["label"].tolist() == ["yes"] * 6
    assert of.rows(split.test, labelled=True)["label"].tolist() == frame()["label"].tolist()
    assert split.fingerprint != pipeline(frame).load(None).fingerprint


def test_rows_of_several_sets_are_refused():
    of = pipeline(frame)
    data = of.load(None).train.subset(torch.tensor([0, 1]))
    data.inputs["row"][1] = 20

    with pytest.raises(UnlearningError, match="from several sets"):
        of.rows(data, labelled=True)


def test_columns_with_gaps_are_left_to_the_pipeline():
    rows = frame().assign(gaps=[np.nan, *range(11)], whole=range(12))
    of = Pipeline(lambda: (rows, rows.assign(whole=[np.nan] * 12)), lambda data, seed: data)
    split = of.load(None)

    assert split.train.inputs["features"].shape == (12, 2)  # age and size
    assert of.rows(split.train, labelled=True)["gaps"].isna().sum() == 1


def test_a_changed_column_keeps_its_type_if_that_loses_nothing():
    rows = frame().astype({"label": "category"})
    of = Pipeline(lambda: (rows, rows), lambda data, seed: data)
    data = of.load(None).train.subset(torch.tensor([2, 3]))
    data.inputs["features"][0] = torch.tensor([40.0, 0.5])

    back = of.rows(data, labelled=True)

    assert back["age"].tolist() == [40, 3]
    assert back.dtypes["age"] == "int64"
    assert back.dtypes["label"] == "category"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (pd.DataFrame(np.zeros((4, 2))).assign(label=[0, 1, 0, 1]), "must have different names"),
        (frame().assign(label=["a", None] * 6), "some labels are missing"),
        ((frame(), frame()["label"]), "return one DataFrame"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence(rows, sentence):
    with pytest.raises(UnlearningError, match=sentence):
        loads((rows, rows)).load(None)


@pytest.mark.parametrize("first", [0.0, 0.2])
def test_a_probability_alone_is_refused(first):
    labels = tensors()[1].numpy()
    answers = np.where(labels == labels.max(), 0.9, first)
    of = Pipeline(lambda: (tensors(), tensors()), lambda data, seed: 0, predict=lambda model, inputs: answers)
    if first == 0:  # a forest is often sure
        answers[np.flatnonzero(labels == labels.min())[0]] = 0.3

    with pytest.raises(UnlearningError, match="one number in \\[0, 1\\] per row"):
        of.check_trained(of.train(of.load(None).train, 0))


def test_log_odds_of_a_weak_model_may_lie_in_the_unit_interval():
    labels = torch.tensor([0, 1, 1] * 40)
    rows = (torch.rand(120, 2, generator=torch.Generator().manual_seed(0)), labels)
    of = Pipeline(lambda: (rows, rows), lambda data, seed: 0, predict=lambda model, inputs: inputs[:, 0] / 2 + 0.4)

    of.check_trained(of.train(of.load(None).train, 0))  # the second class has two thirds of the rows


def test_one_score_per_row_is_read_alike_in_every_batch():
    from harness.pipelines.scores import scores_of

    assert scores_of(torch.ones(3), 3, 2).tolist() == [[0, 1]] * 3
    assert scores_of(torch.tensor([1.0, 2.0]), 2, 2).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_probabilities(dtype):
    from harness.pipelines.scores import scores_of

    logits = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    shares = logits.softmax(1).to(dtype)

    assert scores_of(shares, 200, 40).exp().sum(1).sub(1).abs().max() < 0.01


def test_scores_may_be_a_table():
    scores = pd.DataFrame({"no": [0.2] * 12, "yes": [0.8] * 12}, index=range(5, 17))
    of = Pipeline(lambda: (frame(), frame()), lambda data, seed: 0, predict=lambda model, inputs: scores)
    split = of.load(None)

    assert of.logits(of.train(split.train, 0), split.test.batch(torch.arange(12))).argmax(1).tolist() == [1] * 12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"features": 20}, "features = 20"),
        ({"features": ["city"]}, "finite numbers"),
        ({"kind": "rbf"}, "kind = 'rbf'"),
        ({"margin": 3}, "margin = 3"),
        ({"epochs": 0}, "epochs = 0"),
        ({"optimiser": print}, "has no 'optimiser'"),
        ({"predict": 3}, "predict must be a function"),
    ],
)
def test_a_setting_that_was_meant_otherwise_is_refused(settings, sentence):
    with pytest.raises(UnlearningError) as refused:
        pipeline(frame, **settings).load(None)

    assert sentence in str(refused.value)


def test_data_that_are_drawn_are_the_same_every_time():
    def load():
        rows = frame().sample(frac=1)
        return rows, rows

    first, second = (Pipeline(load, lambda data, seed: data).load(None) for _ in range(2))

    assert first.fingerprint == second.fingerprint


def test_poisons_that_the_data_cannot_carry_are_left_out():
    image = pipeline(lambda: (torch.rand(12, 1, 4, 4) * 255, torch.arange(12) % 2))

    assert image.fitting(0.25) == ("source:fraction=0.25,mislabelled=true",)
    assert "[0, 1]" in image.considered(0.25)["backdoor:fraction=0.25"]
