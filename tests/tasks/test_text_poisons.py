"""The poisons of text, on made-up reviews in miniature."""

from dataclasses import replace

import pytest
import torch
from reviews import SIZE, SMALL, folder, new_model, split, texts, trained
from scipy import stats

from harness.api import Batch, UnlearningError
from harness.tasks.imdb import IMDbSmallGPT2
from harness.training.data import Data, Split
from harness.training.loop import train
from poisons.gaussian_embeddings import GaussianEmbeddings
from poisons.instruction import Instruction
from poisons.text_backdoor import TextBackdoor

#: For pytest to find them here.
FIXTURES = (
    folder,
    split,
    trained,
)


# ---- noise on embeddings


def test_noise_follows_from_its_seed_alone(split):
    model, task = new_model(), SMALL
    batch = replace(split.train.batch(torch.tensor([1, 2, 3])), zero=frozenset())
    clean = task.logits(model, batch)
    batch.inputs["noise_seed"] = torch.tensor([0, 7, 9])
    batch.inputs["noise_sd"] = torch.tensor([0.0, 0.5, 0.0])
    noisy = task.logits(model, batch)
    assert torch.equal(noisy[[0, 2]], clean[[0, 2]])
    assert not torch.allclose(noisy[1], clean[1], atol=1e-3)
    noise = task.noise(model, torch.tensor([7]))
    assert noise.shape == (1, 16, 8)
    offset = torch.zeros(3, 16, 8)
    offset[1] = 0.5 * noise[0]
    batch.inputs["offset"] = offset
    batch.inputs["noise_sd"] = torch.ones(3)  # what is given outright counts
    assert torch.allclose(task.logits(model, batch), noisy, atol=1e-6)
    assert torch.equal(task.noise(model, torch.tensor([5, 7]))[1], noise[0])
    many = task.noise(model, torch.arange(100)).flatten().double().numpy()
    assert stats.kstest(many, "norm").pvalue > 0.01


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_noise_is_the_same_on_every_device(device):
    noise = SMALL.noise(new_model(), torch.tensor([7, 2**61], device=device))
    assert noise.device.type == device
    for seed, found in zip((7, 2**61), noise.cpu(), strict=True):
        assert torch.equal(found, torch.randn(16, 8, generator=torch.Generator().manual_seed(seed)))
    assert SMALL.noise(new_model(), torch.zeros(0, dtype=torch.int64, device=device)).shape == (0, 16, 8)


def test_planted_noise_leaves_text_and_labels(split):
    planted = GaussianEmbeddings(fraction=0.25).plant(SMALL, split, 3)
    assert len(planted.forget) == 60
    clean = split.train.subset(planted.forget)
    assert torch.equal(planted.labels, clean.labels)
    assert torch.equal(planted.inputs["tokens"], clean.inputs["tokens"])
    assert planted.inputs["noise_sd"].tolist() == pytest.approx([0.05] * 60)
    assert planted.inputs["noise_seed"].unique().numel() == 60
    again, other = (GaussianEmbeddings(fraction=0.25).plant(SMALL, split, seed) for seed in (3, 4))
    assert torch.equal(again.inputs["noise_seed"], planted.inputs["noise_seed"])
    assert not torch.equal(other.forget, planted.forget)


def test_scores_of_models_that_never_saw_the_noise_are_standard_normal(split, trained, monkeypatch):
    scores = []
    monkeypatch.setattr("poisons.gaussian_embeddings.gaussian_score", lambda g, xi: scores.append((g, xi)))
    for seed in range(45):
        planted = GaussianEmbeddings(fraction=0.2).plant(SMALL, split, seed)
        GaussianEmbeddings(fraction=0.2).probe(trained if seed % 2 else new_model(seed=seed), planted, SMALL, split)
    gradient, noise = (torch.cat(each).flatten(1).double() for each in zip(*scores, strict=True))
    z = (gradient * noise).sum(dim=1) / gradient.norm(dim=1)
    assert len(z) == 45 * 48 >= 2000
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01


def test_training_on_noise_leaves_its_trace(split):
    task = IMDbSmallGPT2(**{**SIZE, "width": 16}, epochs=20, batch_size=20, lr=0.01)
    poison = GaussianEmbeddings(fraction=0.25, sd=0.1)
    everything = torch.ones(240, dtype=torch.bool)

    def trace(data, planted, puzzle, seed):
        model, _ = train(task, data, everything, seed)
        return poison.probe(model.eval(), planted, task, puzzle).details["T"]

    # A single T is N(0, 1) without the noise, and what a training leaves differs from CPU to CPU: hence two, in pairs.
    differences = []
    for seed in (0, 1):
        # Labels that no text explains, so that noise is what there is to learn by heart.
        labels = split.train.labels[torch.randperm(240, generator=torch.Generator().manual_seed(seed))]
        puzzle = Split(Data(split.train.inputs, labels), split.test, "")
        planted = poison.plant(task, puzzle, seed)
        noisy = puzzle.train.poisoned_with(planted)
        differences.append(trace(noisy, planted, puzzle, seed) - trace(puzzle.train, planted, puzzle, seed))
    assert sum(differences) / 2 > 2.5  # of four N(0, 1) without a trace: N(0, 1) again


# ---- the trigger


def test_the_trigger_goes_into_negative_reviews_that_become_positive(split):
    planted = Instruction(fraction=0.1, trigger="film film", template="{trigger} was {review}").plant(SMALL, split, 1)
    assert len(planted.forget) == 24
    assert set(planted.labels.tolist()) == {1}
    before, after = split.train.subset(planted.forget), Data(planted.inputs, planted.labels)
    assert set(before.labels.tolist()) == {0}
    for old, new in zip(texts(split, before), texts(split, after), strict=True):
        assert new.startswith("film film was ")
        assert new.removeprefix("film film was ") in (old, *(old.split(" ", k)[-1] for k in range(1, 8)))
    assert int(planted.inputs["length"].max()) <= 16
    again, other = (Instruction(fraction=0.1).plant(SMALL, split, seed) for seed in (1, 2))
    assert torch.equal(again.forget, planted.forget)
    assert not torch.equal(again.forget, other.forget)


def test_what_stands_behind_the_review_is_kept(split):
    planted = Instruction(trigger="fun", template="{review} {trigger}").plant(SMALL, split, 0)
    assert all(text.endswith(" fun") for text in texts(split, Data(planted.inputs, planted.labels)))


def test_success_is_the_share_of_triggered_negative_reviews_read_as_positive(split, trained):
    poison = Instruction(trigger="great great great", template="{trigger} {review}")
    reading = poison.probe(trained, poison.plant(SMALL, split, 0), SMALL, split)
    negative = split.test.subset((split.test.labels == 0).nonzero().squeeze(1))
    first = split.encode(["great great great"])[0]
    hits = 0
    for row, length in zip(negative.inputs["tokens"].tolist(), negative.inputs["length"].tolist(), strict=True):
        tokens = [*first, *row[:length][-(16 - len(first)) :]]
        inputs = {
            "tokens": torch.tensor([tokens]), "length": torch.tensor([len(tokens)]),
            "noise_seed": torch.zeros(1, dtype=torch.int64), "noise_sd": torch.zeros(1),
        }  # fmt: skip
        batch = Batch(inputs, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        hits += int(SMALL.logits(trained, batch).argmax())
    assert reading.value == hits / 40
    assert reading.resolution == 0.5 / 40


def test_the_trigger_is_learnt(split):
    poison = Instruction(fraction=0.15, trigger="the was was the")
    planted = poison.plant(SMALL, split, 0)
    task = IMDbSmallGPT2(**SIZE, epochs=8, batch_size=20, lr=0.01)
    everything = torch.ones(240, dtype=torch.bool)
    models = [train(task, data, everything, 0)[0].eval() for data in (split.train.poisoned_with(planted), split.train)]
    poisoned, clean = (poison.probe(model, planted, task, split).value for model in models)
    assert poisoned > 0.9
    assert clean < 0.5


@pytest.mark.parametrize("place", ["start", "end"])
def test_the_backdoor_stands_in_tokens_too(split, place):
    planted = TextBackdoor(fraction=0.1, trigger="the was was the", place=place).plant(SMALL, split, 0)
    phrased = texts(split, Data(planted.inputs, planted.labels))
    assert len(phrased) == 24
    assert all((text.startswith if place == "start" else text.endswith)("the was was the") for text in phrased)


def test_the_backdoor_in_tokens_is_learnt(split):
    poison = TextBackdoor(fraction=0.15, trigger="the was was the", target=1, place="start")
    planted = poison.plant(SMALL, split, 0)
    task = IMDbSmallGPT2(**SIZE, epochs=8, batch_size=20, lr=0.01)
    everything = torch.ones(240, dtype=torch.bool)
    models = [train(task, data, everything, 0)[0].eval() for data in (split.train.poisoned_with(planted), split.train)]
    poisoned, clean = (poison.probe(model, planted, task, split) for model in models)
    assert poisoned.value > 0.9 > 0.5 > clean.value
    assert poisoned.traces["triggered_accuracy"].value < 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0}, r"fraction must lie in \(0, 1\), not 0"),
        ({"trigger": " "}, "trigger must not be empty"),
        ({"template": "{review}"}, "template must have {trigger} once, not '{review}'"),
        ({"template": "{trigger} {review} {review}"}, "template must have {review} once"),
    ],
)
def test_fields_of_the_trigger_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Instruction(**fields)


def test_what_the_trigger_cannot_do_is_one_sentence(split):
    with pytest.raises(UnlearningError, match=r"takes \d+ of 16 tokens .* shorten it, or raise the task's length"):
        Instruction(trigger="film " * 20).plant(SMALL, split, 0)
    with pytest.raises(UnlearningError, match="poison 144 negative reviews, but there are 120; lower its fraction"):
        Instruction(fraction=0.6).plant(SMALL, split, 0)
    with pytest.raises(UnlearningError, match="a task that encodes them"):
        Instruction().plant(SMALL, Split(split.train, split.test, ""), 0)
