"""Canaries that training never sees are found before the first step."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch
from sources import jsonl_file
from torch import nn
from torch.nn.functional import cross_entropy

from harness.api import UnlearningError
from harness.canaries import CanaryCallback, plant, reached


def network(dropout=0.5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def examples(n=6):
    generator = torch.Generator().manual_seed(1)
    return {f"c{i}": (torch.randn(1, 4, generator=generator), torch.tensor([i % 3])) for i in range(n)}


def loss_of(model, example):
    return cross_entropy(model(example[0]), example[1])


def test_canaries_that_reach_the_model_pass_and_nothing_is_changed():
    model = network()
    model[3].eval()  # one module in another mode
    model(torch.randn(5, 4)).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [weight.grad.clone() for weight in model.parameters()]
    modes = [module.training for module in model.modules()]
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())

    def noisy(model, example):
        torch.rand(1), random.random(), np.random.random()
        return loss_of(model, example)

    reached(model, noisy, examples())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, w.grad) for a, w in zip(gradients, model.parameters(), strict=True))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


def test_frozen_layers_are_named():
    model = network()
    model.requires_grad_(False)
    with pytest.raises(UnlearningError, match="because all its layers are frozen; unfreeze what is trained"):
        reached(model, loss_of, examples())
    model[0].requires_grad_(True)
    with pytest.raises(
        UnlearningError, match=r"6 of 6 canaries .*c0, c1, c2, c3, c4 and 1 more: its loss depends on no lay"
    ):
        reached(model, lambda m, e: cross_entropy(m[4](torch.ones(1, 8)), e[1]), examples())


def test_masked_labels_are_named():
    masked = {"c6": (torch.randn(1, 4), torch.tensor([-100]))}
    with pytest.raises(
        UnlearningError, match=r"1 of 7 canaries .*\(c6: its loss is nan, as if all its labels were mask"
    ):
        reached(network(), loss_of, examples() | masked)
    with pytest.raises(UnlearningError, match=r"6 of 6 canaries .*: its gradient is 0, as if its labels were masked"):
        reached(network(), lambda m, e: 0 * loss_of(m, e), examples())


def test_truncation_that_hides_what_differs_is_found():
    cut = {name: (torch.ones(1, 4), label) for name, (_, label) in examples().items()}
    with pytest.raises(UnlearningError, match=r"3 of 6 .*\(c3: same gradient as c0: truncation or masking hides"):
        reached(network(), loss_of, cut)


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(UnlearningError, match=r"must be a scalar, not of shape \(1, 3\); take its mean"):
        reached(network(), lambda m, e: m(e[0]), examples())


def test_a_single_weight_matrix_does_not_confuse_many_canaries():
    generator = torch.Generator().manual_seed(0)
    many = {f"c{i}": (torch.randn(1, 3, generator=generator), torch.tensor([i % 2])) for i in range(150)}
    reached(nn.Linear(3, 2, bias=False), loss_of, many)


@pytest.fixture(scope="module")
def trainer_of(tmp_path_factory):
    """Return a maker of trainers: a tiny GPT-2 that learns the planted texts, one token a word."""
    import datasets
    import transformers

    folder = tmp_path_factory.mktemp("trainer")
    plant(jsonl_file(folder / "d.jsonl"), folder / "o.jsonl", folder / "secret.json", number=20, text="text", seed=1)
    from pandas import read_json

    texts = read_json(folder / "o.jsonl", lines=True)["text"].tolist()
    words = {word: i + 1 for i, word in enumerate(sorted({w for text in texts for w in text.split()}))}

    def make(tokens=16, masked=0, rows=None, frozen=False):
        def encoded(text):
            ids = [words[word] for word in text.split()][:tokens]
            return {"input_ids": ids, "labels": [-100] * min(masked, len(ids)) + ids[masked:], "text": text}

        def collate(rows):
            width = max(len(row["input_ids"]) for row in rows)
            pad = lambda key, fill: torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])  # noqa: E731
            return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100)}

        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=len(words) + 1, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
        )
        model = transformers.GPT2LMHeadModel(config)
        model.requires_grad_(not frozen)
        arguments = transformers.TrainingArguments(
            str(folder / "run"), max_steps=1, per_device_train_batch_size=4, report_to=[], save_strategy="no",
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        data = datasets.Dataset.from_list([encoded(text) for text in texts[:rows]])
        return transformers.Trainer(model, arguments, data_collator=collate, train_dataset=data), folder / "secret.json"

    return make


HUGGING_FACE = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@HUGGING_FACE
def test_the_callback_lets_a_sound_training_begin(trainer_of):
    trainer, secret = trainer_of()
    trainer.add_callback(CanaryCallback(trainer, secret))
    assert trainer.train().global_step == 1


@HUGGING_FACE
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"masked": 16}, r"\d+ of \d+ canaries .*its loss is nan, as if all its labels were masked"),
        ({"tokens": 1}, r"\d+ of \d+ canaries would teach the model nothing of their own"),
        ({"frozen": True}, "no canary reaches the model, because all its layers are frozen"),
        ({"rows": 60}, r"is in row \d+, but the training set has 60: rows were dropped or packed"),
    ],
)
def test_the_callback_stops_a_training_that_canaries_do_not_reach(trainer_of, options, sentence):
    trainer, secret = trainer_of(**options)
    before = [weight.clone() for weight in trainer.model.parameters()]
    trainer.add_callback(CanaryCallback(trainer, secret))
    with pytest.raises(UnlearningError, match=sentence):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


@HUGGING_FACE
def test_the_callback_takes_positions_and_wants_them_of_pictures(trainer_of):
    trainer, _ = trainer_of()
    trainer.add_callback(CanaryCallback(trainer, {"c1": 3, "c2": 4}))
    assert trainer.train().global_step == 1
    trainer, _ = trainer_of()
    trainer.add_callback(CanaryCallback(trainer, {"c1": "cat/1.png"}))
    with pytest.raises(
        UnlearningError, match=r"the canary c1 is the picture cat/1.png; give the callback the position"
    ):
        trainer.train()


def test_the_package_is_imported_without_torch():
    import subprocess

    code = (
        "import sys, harness.canaries; print(*sorted({'torch', 'transformers', 'datasets', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
