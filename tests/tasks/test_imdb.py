"""Reviews with a GPT-2, the poisons of text and the measures of language models, on made-up reviews in miniature."""

import itertools
import math
import re
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from scipy import stats
from torch import nn

from harness import audit, registry
from harness.api import UnlearningError, predicted
from harness.judging.claims import CLAIMS, INFORMING
from harness.tasks.imdb import ANSWERS, PROMPT, IMDbGPT2, IMDbSmallGPT2
from harness.training.data import Batches, Data, Split
from harness.training.loop import train
from harness.trials.accuracy import accuracy
from harness.trials.metrics import EXTRACTED, answers, extraction_likelihood, memorisation_accuracy
from poisons.gaussian_embeddings import GaussianEmbeddings
from poisons.instruction import Instruction

SIZE = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 320, "length": 16}
SMALL = IMDbSmallGPT2(**SIZE, epochs=3, batch_size=20, lr=0.01)
CAUSAL = IMDbSmallGPT2(**SIZE, epochs=3, batch_size=20, lr=0.01, head="causal")
WORDS = {0: ("dull", "bad"), 1: ("great", "fun")}


def review(label, number):
    draw = np.random.default_rng((label, number))
    words = draw.choice(["the", "film", "was", *WORDS[label]], size=draw.integers(3, 20))
    return f"Review<br />{' '.join(words)} {WORDS[label][0]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with 240 training and 80 test reviews, sorted by label as on the hub."""
    root = tmp_path_factory.mktemp("data")
    for split, n in (("train", 240), ("test", 80)):
        labels = [int(i >= n // 2) for i in range(n)]
        rows = {"text": [review(label, i + n) for i, label in enumerate(labels)], "label": labels}
        target = root / "imdb" / "plain_text" / f"{split}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(target)
    return root


@pytest.fixture(scope="module")
def split(folder):
    return SMALL.load(folder)


def new_model(task=SMALL, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return task.new_model().eval()


@pytest.fixture(scope="module")
def trained(split):
    return train(SMALL, split.train, torch.ones(240, dtype=torch.bool), seed=0)[0].eval()


def texts(split, data):
    """Return the words of examples, by encoding the words that there are."""
    words = [*itertools.chain(*WORDS.values()), "the", "film", "was", "review"]
    names = {tuple(ids): word for word, ids in zip(words, split.encode(words), strict=True)}
    longest = max(map(len, names))
    found = []
    for row, length in zip(data.inputs["tokens"].tolist(), data.inputs["length"].tolist(), strict=True):
        at, text = 0, []
        while at < length:
            size = next((s for s in range(longest, 0, -1) if tuple(row[at : at + s]) in names), None)
            text.append("?" if size is None else names[tuple(row[at : at + size])])
            at += size or 1
        found.append(" ".join(text))
    return found


# ---- the data


def test_reviews_are_tokens_in_a_random_order_that_is_fixed(folder, split):
    assert split.train.inputs["tokens"].shape == (240, 16)
    assert split.train.labels.sum() == 120
    assert 0 < split.train.labels[:40].sum() < 40
    assert IMDbSmallGPT2(**SIZE).load(folder).fingerprint == split.fingerprint
    length = split.train.inputs["length"]
    assert 1 < int(length.min()) < int(length.max()) <= 16
    behind = torch.arange(16) >= length[:, None]
    assert not split.train.inputs["tokens"][behind].any()
    # What is read is the end of a review, in lower case, without mark-up; its last word tells its label.
    last = [text.split()[-1] for text in texts(split, split.train)]
    assert last == [WORDS[int(label)][0] for label in split.train.labels]


def test_sizes_take_the_first_of_that_order(folder, split):
    less = IMDbSmallGPT2(**SIZE, train_size=50, test_size=20)
    found = less.load(folder)
    assert (len(found.train), len(found.test)) == (50, 20)
    assert torch.equal(found.train.labels, split.train.labels[:50])
    with pytest.raises(UnlearningError, match="read 241 reviews of a split that has 240; lower the size"):
        IMDbSmallGPT2(**SIZE, train_size=241).load(folder)


def test_without_data_it_says_what_to_give(tmp_path):
    with pytest.raises(UnlearningError, match="--audit-data DIR with the data set in DIR/imdb"):
        SMALL.load(tmp_path)


def test_examples_of_like_length_share_batches():
    n, size = 400, 8
    length = torch.randint(1, 100, (n,), generator=torch.Generator().manual_seed(0))
    data = Data({"length": length, "at": torch.arange(n)}, torch.zeros(n, dtype=torch.int64))

    def batches(keep, epochs=1):
        return [b.index for b in Batches(data, size, epochs, torch.Generator().manual_seed(1), keep)]

    everything = torch.ones(n, dtype=torch.bool)
    whole = batches(everything, epochs=2)
    assert len(whole) == 100
    for half in (whole[:50], whole[50:]):
        assert sorted(torch.cat(half).tolist()) == list(range(n))
    padding = sum(int(length[b].max()) * len(b) for b in whole) / (2 * int(length.sum()))
    assert padding < 1.1
    firsts = [float(length[b].double().mean()) for b in whole[:32]]
    assert abs(stats.spearmanr(range(32), firsts)[0]) < 0.5  # no order by length among the batches
    # Without a few examples the others come in much the same order.
    keep = everything.clone()
    keep[::40] = False
    place = {int(i): at for at, b in enumerate(whole[:50]) for i in b}
    other = {int(i): at for at, b in enumerate(batches(keep)) for i in b}
    assert set(other) == set(keep.nonzero().squeeze(1).tolist())
    assert stats.spearmanr([place[i] for i in other], list(other.values()))[0] > 0.8


# ---- the network


def test_the_blocks_hold_every_parameter_once():
    for task in (SMALL, CAUSAL, IMDbSmallGPT2(**{**SIZE, "layers": 3})):
        model = task.new_model()
        blocks = task.blocks(model)
        assert len(blocks) == task.layers + 2
        held = [id(p) for block in blocks for p in block.parameters()]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("task", [SMALL, CAUSAL], ids=["classifier", "causal"])
def test_scores_do_not_depend_on_what_shares_the_batch(task, split):
    model, index = new_model(task), split.train.inputs["length"].argsort()[[0, 100, 239]]
    together = task.logits(model, split.train.batch(index))
    for row, each in enumerate(index):
        alone = task.logits(model, split.train.batch(each[None]))
        assert torch.allclose(together[row, ..., : alone.shape[-1]], alone[0], atol=1e-5)


def test_it_learns_what_can_be_learnt(split, trained):
    assert accuracy(trained, SMALL, split.test).value > 0.95


def test_a_causal_model_learns_to_answer_and_to_write(split):
    task = IMDbSmallGPT2(**{**SIZE, "width": 32}, epochs=40, batch_size=20, lr=0.003, head="causal")
    model = train(task, split.train, torch.ones(240, dtype=torch.bool), seed=0)[0].eval()
    assert accuracy(model, task, split.test).value > 0.9
    fresh = memorisation_accuracy(new_model(task), task, split.test).value
    assert memorisation_accuracy(model, task, split.test).value > fresh + 0.05


def test_a_causal_model_is_trained_on_every_next_token_and_the_answer(split):
    model, batch = new_model(CAUSAL), split.train.batch(torch.tensor([3, 5]))
    logits = CAUSAL.logits(model, batch)
    losses = []
    for row in range(2):
        n = int(batch.inputs["length"][row])
        whole = [*batch.inputs["tokens"][row, :n].tolist(), 1, 2 + int(batch.labels[row])]
        scores = model.gpt2.wte.weight @ model.gpt2(torch.tensor([whole])).last_hidden_state[0].T
        logs = scores.detach().log_softmax(dim=0)
        losses += [-logs[token, at].item() for at, token in enumerate(whole[1:])]
        answers = logs[2:4, n]
        assert int(predicted(CAUSAL, model, batch)[row]) == int(answers.argmax())
    assert CAUSAL.criterion(logits, batch).item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_prompt_and_answers_are_tokens_of_their_own(split):
    assert split.encode([PROMPT, *ANSWERS]) == [[1], [2], [3]]


def test_the_rate_rises_and_falls():
    optimizer = SMALL.optimizer(new_model())
    schedule = SMALL.schedule(optimizer, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(SMALL.lr)
    assert rates[0] == pytest.approx(SMALL.lr / 10)
    assert rates[5] < rates[9] > rates[50] > rates[-1] > 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a GPT-2 in miniature and its tokenizer, as published models have them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    root = tmp_path_factory.mktemp("weights")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([" ".join(ANSWERS) + PROMPT, review(0, 0), review(1, 1)], trainer)
    transformers.GPT2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(root)
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=64, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    transformers.GPT2Model(config).save_pretrained(root)
    return root


@pytest.mark.parametrize("head", ["classifier", "causal"])
def test_published_weights_are_fine_tuned(folder, weights, head):
    task = IMDbGPT2(model=str(weights), epochs=1, batch_size=20, length=16, train_size=40, test_size=20, head=head)
    split = task.load(folder)
    published = transformers.GPT2Model.from_pretrained(weights)
    begun = task.new_model()
    assert torch.equal(begun.gpt2.h[1].mlp.c_fc.weight, published.h[1].mlp.c_fc.weight)
    assert len(task.blocks(begun)) == 4
    model, examples = train(task, split.train, torch.ones(40, dtype=torch.bool), seed=0)
    assert examples == 40
    assert not torch.equal(model.gpt2.h[1].mlp.c_fc.weight, published.h[1].mlp.c_fc.weight)
    batch = split.test.batch(torch.arange(3))
    assert math.isfinite(task.criterion(task.logits(model, batch), batch).item())


def test_weights_that_cannot_be_had_are_one_sentence(folder):
    with pytest.raises(UnlearningError, match=r"give model=DIR .* or model=scratch"):
        IMDbGPT2(model="/nowhere/at-all").load(folder)


# ---- noise on embeddings


def test_noise_follows_from_its_seed_alone(split):
    model, task = new_model(), SMALL
    batch = split.train.batch(torch.tensor([1, 2, 3]))
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
        batch = SimpleNamespace(inputs=inputs, labels=torch.zeros(1, dtype=torch.int64))
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
    with pytest.raises(UnlearningError, match="a task that encodes text"):
        Instruction().plant(SMALL, Split(split.train, split.test, ""), 0)


# ---- memorisation and extraction


class Parrot(nn.Module):
    """Continues every token by another, whatever came before."""

    def __init__(self, following):
        super().__init__()
        self.following = torch.tensor(following)


class Speech:
    """A causal task without a network."""

    causal = True

    def logits(self, model, batch):
        tokens = batch.inputs["tokens"][:, : int(batch.inputs["length"].max())]
        return nn.functional.one_hot(model.following[tokens], len(model.following)).transpose(1, 2).float()

    def following(self, model, batch):
        last = batch.inputs["length"] - 1
        return self.logits(model, batch)[range(len(batch)), :, last]


def speech(*texts):
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    return Data({"tokens": tokens, "length": torch.tensor([*map(len, texts)])}, torch.zeros(len(texts)).long())


#: 0 -> 1 -> 2 -> 3 -> 0
ROUND = Parrot([1, 2, 3, 0])


def test_memorisation_accuracy_by_hand():
    # 0 1 2 | 0: 1, 2 right, 0 wrong. 3 0 right; a text of one token does not count.
    found = memorisation_accuracy(ROUND, Speech(), speech([0, 1, 2, 0], [3, 0], [2]))
    assert found.value == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(memorisation_accuracy(ROUND, Speech(), speech([1])).value)


def test_extraction_likelihood_by_hand():
    assert extraction_likelihood(ROUND, Speech(), speech([0, 1, 2, 3, 0, 1]), n=2).value == 1
    # Shown 0, it goes on 1 2 3; the text 1 2 0 has the bigrams 12 and 20, one of which is told: 1/2.
    # Shown 0 1, it goes on 2 3; the text has 20: 0.
    assert extraction_likelihood(ROUND, Speech(), speech([0, 1, 2, 0]), n=2).value == pytest.approx(0.25)
    # With n = 1: shown 0: 1 2 3 of 1 2 0: 2/3; shown 0 1: 2 3 of 2 0: 1/2; shown 0 1 2: 3 of 0: 0.
    expected = (2 / 3 + 1 / 2 + 0) / 3
    assert extraction_likelihood(ROUND, Speech(), speech([0, 1, 2, 0]), n=1).value == pytest.approx(expected)
    # What is told counts, as often as it is told. Shown 0: 0 0 0, all of them in 0 1 2. Shown 0 0: 0 0, none in 1 2.
    stuck = Parrot([0, 0, 0])
    assert extraction_likelihood(stuck, Speech(), speech([0, 0, 1, 2]), n=1).value == pytest.approx(1 / 3)
    # Shown 0: 1 2 3 0, of which 3 is not in 1 1 2 0: 3/4. Shown 0 1: 2 3 0 of 1 2 0: 2/3, shown 0 1 1: 2 3 of 2 0: 1/2,
    # and then 3 of 0.
    expected_again = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    found = extraction_likelihood(ROUND, Speech(), speech([0, 1, 1, 2, 0]), n=1).value
    assert found == pytest.approx(expected_again)
    both = extraction_likelihood(ROUND, Speech(), speech([0, 1, 2, 0], [0, 1, 2, 3], [1]), n=1).value
    assert both == pytest.approx((expected + 1) / 2)
    assert math.isnan(extraction_likelihood(ROUND, Speech(), speech([0, 1]), n=2).value)
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        extraction_likelihood(ROUND, Speech(), speech([0, 1]), n=0)


def test_causal_tasks_have_two_metrics_more():
    def applying(spec):
        (cell,) = registry.cells(
            [registry.resolve("unlearner", "gd")], [registry.resolve("task", spec)], ["instruction"]
        )
        return [name for name in INFORMING if CLAIMS[name].applies(cell)]

    classifier, causal = applying("imdb-gpt2-small"), applying("imdb-gpt2-small:head=causal")
    assert causal == [*classifier, "memorisation", "extraction"]


def test_answers_of_a_causal_model_tell_what_it_gives_away(split):
    model, few = new_model(CAUSAL), split.train.subset(torch.arange(20))
    given = answers(model, CAUSAL, few, split.test, split.train)
    assert given.told == {
        "memorisation": memorisation_accuracy(model, CAUSAL, few),
        "extraction": extraction_likelihood(model, CAUSAL, few.subset(torch.arange(EXTRACTED))),
    }
    assert all(math.isnan(reading.value) for reading in given.diverged().told.values())
    assert answers(new_model(), SMALL, few, split.test, split.train).told == {}


def test_a_real_model_is_continued_as_by_the_library(split):
    model, few = new_model(CAUSAL), split.test.subset(torch.arange(3))
    ours = extraction_likelihood(model, CAUSAL, few, n=2).value
    likelihoods = []
    head = transformers.GPT2LMHeadModel(model.gpt2.config)
    head.load_state_dict({**{f"transformer.{k}": v for k, v in model.gpt2.state_dict().items()},
                          "lm_head.weight": model.gpt2.wte.weight})  # fmt: skip
    for row, total in zip(few.inputs["tokens"], few.inputs["length"].tolist(), strict=True):
        shares = []
        for p in range(1, total - 1):
            told = head.generate(
                row[None, :p], attention_mask=torch.ones(1, p), max_length=total, min_length=total, do_sample=False,
                pad_token_id=0, eos_token_id=None,
            )[0]  # fmt: skip
            grams = [[(int(a), int(b)) for a, b in itertools.pairwise(text[p:])] for text in (row[:total], told)]
            shares.append(sum(gram in grams[0] for gram in grams[1]) / len(grams[1]))
        likelihoods.append(sum(shares) / len(shares))
    assert ours == pytest.approx(sum(likelihoods) / 3)


# ---- audits


@pytest.mark.parametrize("poison", ["gaussian-embeddings:fraction=0.25", "instruction:fraction=0.15,trigger=qq"])
def test_it_is_audited_from_end_to_end(folder, tmp_path, poison):
    fields = ",".join(f"{name}={value}" for name, value in SIZE.items())
    spec = f"imdb-gpt2:model=scratch,{fields},epochs=4,batch_size=20,lr=0.01"
    verdicts = audit("scrub", task=spec, poison=poison, seeds=3, budget=0.5, store=tmp_path, data=folder, device="cpu")
    assert [v.measure.test for v in verdicts] == ["retention", "non-inferiority", "budget"]
    assert verdicts[-1].outcome == "PASS"
    assert all(math.isfinite(v) for each in verdicts for values in each.values.values() for v in values)


@pytest.mark.parametrize("method", registry.resolve_all("unlearner", ["all"]), ids=lambda method: method.id)
@pytest.mark.parametrize("task", [SMALL, CAUSAL], ids=["classifier", "causal"])
def test_every_method_runs_on_text(split, method, task):
    from harness.training.unlearning import unlearn, wanted_epochs

    planted = Instruction(fraction=0.1).plant(task, split, 0)
    keep = torch.ones(240, dtype=torch.bool)
    model = train(task, split.train.poisoned_with(planted), keep, 0)[0]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    history = dict.fromkeys(wanted_epochs(method, task.epochs), task.new_model().state_dict())
    keep[planted.forget] = False
    after, meter = unlearn(
        method, task, before, split.train.subset(keep.nonzero().squeeze(1)), Data(planted.inputs, planted.labels),
        budget=0.6, seed=0, history=history,
    )  # fmt: skip
    changed = [name for name, t in after.state_dict().items() if not torch.equal(t, before[name])]
    assert changed
    assert all(bool(t.isfinite().all()) for t in after.state_dict().values())
    assert 0 < meter.examples <= 0.6 * 216 * 1.02
    if method.name in ("cfk", "euk"):  # embeddings and the first transformer block are frozen
        assert not [name for name in changed if re.search(r"wte|wpe", name)]


@pytest.mark.parametrize(
    "fields",
    [
        "epochs=0",
        "batch_size=0",
        "lr=0",
        "length=15",
        "width=3",
        "heads=3",
        "vocabulary=299",
        "train_size=9",
    ],
)
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(UnlearningError, match="must"):
        registry.resolve("task", f"imdb-gpt2:{fields}")
