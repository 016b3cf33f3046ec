"""Inputs, labels, scores and models as people have them: each is right, or refused in one sentence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from labs import lab_in
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from harness import Pipeline, UnlearningError, registry
from harness.cells import Cell, Trial

N = 48
LABELS = torch.arange(N) % 2


def images(*shape: int) -> torch.Tensor:
    """Pixels in [0, 1], darker or lighter by class."""
    return torch.rand(N, *shape, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3 * LABELS.view(
        -1, *[1] * len(shape)
    )


def fitted(network, data, seed, read=lambda inputs: torch.as_tensor(inputs).float().flatten(1), steps=20):
    """Train a network by an ordinary loop; labels are the classes 0 and 1, of any type."""
    torch.manual_seed(seed)
    network, (inputs, labels) = network(), data
    network(read(inputs[:2]))  # a lazy layer builds its weights
    optimizer = torch.optim.Adam((each for each in network.parameters() if each.requires_grad), 0.02)
    target = torch.as_tensor(np.asarray(labels)).long()
    for _ in range(steps):
        optimizer.zero_grad()
        scores = network(read(inputs))
        if scores.shape[1] == 1:
            scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
        nn.functional.cross_entropy(scores, target).backward()
        optimizer.step()
    return network


def linear(columns: int = 16, scores: int = 2):
    return lambda: nn.Linear(columns, scores)


def pipeline(inputs, network=None, labels=LABELS, **more) -> Pipeline:
    network = network or linear(inputs[0].numel())
    more.setdefault("predict", lambda model, rows: model(torch.as_tensor(rows).float().flatten(1)))
    return Pipeline(
        lambda: ((inputs, labels), (inputs, labels)), lambda data, seed: fitted(network, data, seed), model=network,
        batch_size=13, **more,
    )  # fmt: skip


def readings(folder, task, poison="source:fraction=0.1,mislabelled=true", method="gd"):
    """Run one trial, models through the store; return the poison's readings of P, R and U."""
    kinds = (("unlearner", registry.resolve("unlearner", method)), ("task", registry.register("task", task)))
    cell = Cell(*(found for _, found in kinds), registry.resolve("poison", poison))
    return lab_in(folder, budget=0.5).run(Trial(cell, 0)).readings["poison"]


LAYOUTS = {
    "NHWC": (images(4, 4, 3), "channels last"),
    "0 to 255": (images(1, 4, 4) * 255, "goes from"),
    "standardised": (images(1, 4, 4) * 6 - 3, "goes from"),
    "integers": ((images(1, 4, 4) * 255).int(), "floats in [0, 1] or bytes"),
    "one channel": (images(1, 4, 4), ""),
    "no channels": (images(4, 4), ""),
    "bytes": ((images(1, 4, 4) * 255).byte(), ""),
    "half": (images(1, 4, 4).half(), ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_backdoor_is_planted_in_pixels_or_refused(tmp_path, layout):
    inputs, sentence = LAYOUTS[layout]
    task = pipeline(inputs)

    why = task.refuses("backdoor:size=1")

    assert sentence in why
    assert bool(sentence) == bool(why)
    assert "\n" not in why
    found = readings(tmp_path, task, "source:fraction=0.1,mislabelled=true" if why else "backdoor:size=1")
    assert all(0 <= reading.value <= 1 for reading in found.values())


LABELLED = {
    "floats": LABELS.float(),
    "doubles": LABELS.double().numpy(),
    "booleans": LABELS.bool(),
    "from one on": LABELS + 1,
    "in a column": LABELS[:, None],
    "texts": np.array(["no", "yes"])[LABELS],
    "objects": np.array(["no", "yes"], dtype=object)[LABELS],
}


@pytest.mark.parametrize("labels", LABELLED)
def test_labels_of_any_type_come_back_as_they_were(labels):
    labels, seen = LABELLED[labels], []
    task = Pipeline(
        lambda: ((images(4, 4), labels),) * 2, lambda data, seed: seen.append(data[1]), model=linear(), predict=print
    )
    with pytest.raises(UnlearningError, match="returned None"):
        task.train(task.load(None).train, 0)

    (back,) = seen
    assert type(back) is type(labels)
    assert back.dtype == labels.dtype
    assert back.tolist() == labels.reshape(-1).tolist()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.rand(N), "not numbers on a scale"),
        (torch.stack([LABELS, 1 - LABELS], dim=1), "must be one per row"),
        (np.array([None, "a"] * (N // 2), dtype=object), "some labels are missing"),
        (np.array([float("nan"), "a"] * (N // 2), dtype=object), "some labels are missing"),
        (np.array([1, "a"] * (N // 2), dtype=object), "not int and str"),
        (torch.full((N,), float("nan")), "some labels are missing"),
        (torch.zeros(N), "at least two classes"),
        (LABELS[:-1], "48 inputs and 47 labels"),
    ],
)
def test_labels_that_are_not_classes_are_refused(labels, sentence):
    with pytest.raises(UnlearningError) as refused:
        pipeline(images(4, 4), labels=labels).load(None)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, None] * 6, "some labels are missing"),
        (["a", None] * 6, "some labels are missing"),
        ([[0, 1], [1]] * 6, "must be one per row"),
        ([[0, 1], [1, 0]] * 6, "must be one per row"),
        ([0.5, 1.5] * 6, "not numbers on a scale"),
    ],
)
def test_labels_of_records_that_are_not_classes_are_refused(labels, sentence):
    records = Dataset.from_dict({"words": ["a"] * 12, "label": labels})

    with pytest.raises(UnlearningError) as refused:
        Pipeline(lambda: (records, records), lambda data, seed: data).load(None)

    assert sentence in str(refused.value)


def test_one_score_per_row_is_that_of_the_second_class(tmp_path):
    task = pipeline(images(4, 4), linear(scores=1))

    found = readings(tmp_path, task)

    assert found["P"].value > found["R"].value
    assert readings(tmp_path, task, method="ssd")["U"].value >= 0


def test_one_score_of_an_untrained_model_may_lie_in_the_unit_interval():
    task = pipeline(images(4, 4), linear(scores=1))
    model, batch = task.new_model(), task.load(None).test.batch(torch.arange(3))
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, 0.3)

    assert task.logits(model, batch).tolist() == [[0.0, pytest.approx(0.3)]] * 3


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (np.array(["no", "yes"]), "returned class names"),
        (None, "returned NoneType"),
        ({"logits": torch.zeros(2, 2)}, "returned dict"),
        (torch.zeros(2, dtype=torch.bool), "returned bool"),
        (torch.zeros(2, 2, dtype=torch.complex64), "returned complex64"),
        (torch.zeros(2, 3), "scores of shape (2, 3) for 2 rows"),
        (torch.zeros(3), "scores of shape (3,) for 2 rows"),
    ],
)
def test_what_is_not_a_score_for_each_class_is_refused(answer, sentence):
    from harness.pipelines.scores import scores_of

    with pytest.raises(UnlearningError) as refused:
        scores_of(answer, 2, 2)

    assert sentence in str(refused.value)


def test_a_single_row_without_its_dimension_is_refused():
    from harness.pipelines.scores import scores_of

    with pytest.raises(UnlearningError, match=r"shape \(\) for 1 row;"):
        scores_of(torch.tensor(0.3), 1, 2)


@pytest.mark.parametrize("mislabelled", [True, False])
def test_a_class_without_test_rows_is_refused_before_training(mislabelled):
    inputs, labels = images(4, 4), torch.arange(N) % 3
    few = labels < 2
    task = Pipeline(lambda: ((inputs, labels), (inputs[few], labels[few])), fitted, predict=print)

    assert "no rows of the class 2" in task.refuses(f"source:fraction=0.5,mislabelled={str(mislabelled).lower()}")
    assert task.refuses("backdoor:size=1,target=2") == ""
    assert "test points of that class alone" in Pipeline(
        lambda: ((inputs, labels), (inputs[:1], labels[:1])), fitted, predict=print
    ).refuses("backdoor:size=1")


class Normed(nn.Sequential):
    """Batch normalisation, which cannot be trained on a single row."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


class Adapted(nn.Module):
    """A frozen layer, a layer that takes no part, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.spare, self.head = nn.Linear(16, 8), nn.Linear(3, 3), nn.Linear(8, 2)
        self.base.requires_grad_(False)
        with torch.no_grad():
            self.base.weight.copy_(torch.linspace(-1, 1, 128).view(8, 16))

    def forward(self, rows):
        return self.head(torch.relu(self.base(rows)))


class Turned(nn.Module):
    """A complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(16), torch.arange(16.0)).to(torch.complex128))
        self.head = nn.Linear(32, 2)

    def forward(self, rows):
        turned = rows * self.turn
        return self.head(torch.cat([turned.real, turned.imag], dim=1).float())


NETWORKS = {
    "batch normalisation": Normed,
    "frozen and unused weights": Adapted,
    "a complex buffer": Turned,
    "lazy layers": lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)),
    "a lazy layer alone": lambda: nn.LazyLinear(2),
}


@pytest.mark.parametrize("method", ["gd", "ssd", "retrain"])
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_any_make_are_trained_stored_and_unlearned(tmp_path, network, method):
    # 44 rows are kept, in batches of 43: one is left alone.
    task = pipeline(images(4, 4), NETWORKS[network])
    task.batch_size = 43

    found = readings(tmp_path, task, method=method)

    assert all(0 <= reading.value <= 1 for reading in found.values())
    assert found["P"].details["put_as_trained"] >= found["R"].details["put_as_trained"]


def test_complex_weights_cannot_be_handed_to_a_command(tmp_path):
    with pytest.raises(UnlearningError, match=r"'turn' of the model is complex.* define save_model"):
        pipeline(images(4, 4), Turned).write(Turned(), tmp_path / "model")


class Shifted(nn.Linear):
    """Its scores depend on an attribute, which no state dict holds."""

    shift = 0.0

    def forward(self, rows):
        return super().forward(rows) + torch.tensor([self.shift, 0.0])


def shifted(data, seed):
    network = fitted(lambda: Shifted(16, 2), data, seed)
    network.shift = 5.0 + seed % 7
    return network


def test_what_no_state_dict_holds_is_refused_and_kept_in_a_whole_model(tmp_path):
    given = {"predict": lambda model, rows: model(rows.flatten(1))}

    def load():
        return ((images(4, 4), LABELS),) * 2

    with pytest.raises(UnlearningError, match="keep nothing outside it"):
        readings(tmp_path, Pipeline(load, shifted, model=lambda: Shifted(16, 2), **given), method="short")

    whole = Pipeline(load, shifted, **given)
    back = whole.new_model()
    model = whole.train(whole.load(None).train, 3)
    back.load_state_dict(model.state_dict())
    assert back.model.shift == model.model.shift > 0
    assert readings(tmp_path, whole, method="short")["P"].value >= 0


class Named(torch.utils.data.Dataset):
    """Rows as image processors make them: a dictionary with ``pixel_values``, beside the label."""

    def __len__(self):
        return N

    def __getitem__(self, place):
        return {"pixel_values": images(1, 4, 4)[place]}, int(LABELS[place])


def named(data, seed):
    rows = [data[place] for place in range(len(data))]
    read = torch.stack([inputs["pixel_values"] for inputs, _ in rows])
    return fitted(linear(), (read, [label for _, label in rows]), seed)


def test_rows_that_are_dictionaries_come_and_go_as_such(tmp_path):
    task = Pipeline(
        lambda: (Named(), Named()), named, model=linear(),
        predict=lambda model, inputs: model(inputs["pixel_values"].flatten(1)),
    )  # fmt: skip

    found = readings(tmp_path, task)

    assert task.modality == "rows"
    assert found["P"].value > found["R"].value


def test_a_loader_stands_for_its_data_set(tmp_path):
    """Which rows a model is trained on differs from model to model, so its batches are made in ``train``."""

    def train(data, seed):
        return named(DataLoader(data, batch_size=None).dataset, seed)

    def predict(model, inputs):
        return model(inputs["pixel_values"].flatten(1))

    loaders = [DataLoader(Named(), batch_size=5, shuffle=True) for _ in range(2)]
    task = Pipeline(lambda: loaders, train, model=linear(), predict=predict)
    plain = Pipeline(lambda: (Named(), Named()), train, model=linear(), predict=predict)

    assert task.load(None).fingerprint == plain.load(None).fingerprint
    assert readings(tmp_path, task)["P"].value == readings(tmp_path, plain)["P"].value


class Whole(Named):
    def __getitem__(self, place):
        return {"pixel_values": images(1, 4, 4)[place], "labels": int(LABELS[place])}


@pytest.mark.parametrize(
    ("loaded", "sentence"),
    [
        (Whole(), "yields dict; it must yield (inputs, label) pairs"),
        (({"pixel_values": images(1, 4, 4)}, LABELS), "of type tuple; it must be"),
        (TensorDataset(images(4), images(4), LABELS), "must yield (inputs, label) pairs"),
        ((np.full((N, 3), None), LABELS), "inputs must be numbers, not object"),
        ((images(4).to(torch.complex64).numpy(), LABELS), "inputs must be numbers, not complex64"),
        (pd.DataFrame({"a": [1, 2]}), "return train, test"),
    ],
)
def test_rows_of_another_form_are_refused(loaded, sentence):
    with pytest.raises(UnlearningError) as refused:
        Pipeline(lambda: (loaded, loaded) if sentence[:6] != "return" else loaded, named).load(None)

    assert sentence in str(refused.value)


def test_columns_with_gaps_or_whole_numbers_are_refused_by_the_backdoor_of_tables():
    gaps = images(6)
    gaps[0, :] = float("nan")

    assert "needs floating-point inputs" in pipeline((images(6) * 9).long()).refuses("table-backdoor")
    assert "columns" in pipeline(gaps).refuses("table-backdoor")


FRAME = pd.DataFrame(images(4).numpy(), columns=list("abcd")).assign(label=LABELS.numpy())
WITHOUT_GRADIENT = {
    "numpy arrays": lambda: pipeline(images(1, 4, 4).numpy(), linear()),
    "a table": lambda: Pipeline(
        lambda: (FRAME, FRAME), fitted, model=linear(4),
        predict=lambda model, rows: model(torch.tensor(rows.to_numpy("float32"))),
    ),
    "models that only predict": lambda: Pipeline(
        lambda: ((images(1, 4, 4), LABELS),) * 2, fitted, predict=lambda model, rows: model(rows)
    ),
    "scores by numpy": lambda: pipeline(
        images(1, 4, 4), predict=lambda model, rows: model(torch.tensor(rows.numpy()).flatten(1))
    ),
    "scores that are cut off": lambda: pipeline(
        images(1, 4, 4), predict=lambda model, rows: model(rows.flatten(1)).detach()
    ),
}  # fmt: skip


@pytest.mark.parametrize("poison", ["gaussian", "targeted", "indiscriminate", "sleeper-agent:size=1"])
@pytest.mark.parametrize("kind", WITHOUT_GRADIENT)
def test_poisons_that_need_gradients_by_the_inputs_are_refused_before_training(kind, poison):
    task = WITHOUT_GRADIENT[kind]()

    why = task.refuses(poison)

    if kind == "a table" and poison != "gaussian":
        assert "is for data of the kind image, and these are of the kind table" in why
    else:
        assert "needs the gradient of the loss by the task's input" in why
    assert "\n" not in why


@pytest.mark.parametrize("poison", ["targeted", "indiscriminate", "sleeper-agent:size=1", "camouflaged"])
def test_poisons_that_take_models_to_craft_are_not_refused_for_that(poison):
    assert pipeline(images(1, 4, 4)).refuses(poison) == ""


def test_noise_is_planted_where_there_is_a_gradient():
    specs = pipeline(images(1, 4, 4)).considered(0.25)

    assert specs["gaussian:fraction=0.25"] == ""
    assert "the gradient" in WITHOUT_GRADIENT["a table"]().considered(0.25)["gaussian:fraction=0.25"]


def test_noise_on_missing_values_is_refused():
    gaps = images(6)
    gaps[0, 0] = float("nan")

    assert "missing or infinite" in pipeline(gaps).refuses("gaussian")


@pytest.mark.parametrize("poison", ["continuation-backdoor", "false-fact", "text-canaries"])
def test_poisons_of_language_models_are_refused_by_texts_with_labels(poison):
    texts = ([f"row {place}" for place in range(N)], LABELS.tolist())

    assert "is for data of the kind text" in pipeline(images(4, 4)).refuses(poison)
    assert "for a causal language model" in Pipeline(lambda: (texts, texts), fitted, predict=print).refuses(poison)
