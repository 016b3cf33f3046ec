"""What a language model remembers word by word: memorisation and extraction."""

import itertools
import math

import pytest
import torch
import transformers
from reviews import CAUSAL, SMALL, folder, new_model, split, trained
from torch import nn

from harness import registry
from harness.judging.claims import CLAIMS, INFORMING
from harness.training.data import Data
from harness.trials.language import EXTRACTED, extraction_likelihood, log_perplexity, memorisation_accuracy, verbatim
from harness.trials.metrics import answers

#: For pytest to find them here.
FIXTURES = (
    folder,
    split,
    trained,
)


class Parrot(nn.Module):
    """Continues every token by another, whatever came before."""

    def __init__(self, following):
        super().__init__()
        self.following = torch.tensor(following)


class Speech:
    """A causal task without a network."""

    causal = True
    batch_size = 2

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
    assert "two tokens" in memorisation_accuracy(ROUND, Speech(), speech([1])).unusable


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
    assert "more than 2 tokens" in extraction_likelihood(ROUND, Speech(), speech([0, 1]), n=2).unusable
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        extraction_likelihood(ROUND, Speech(), speech([0, 1]), n=0)


def test_causal_tasks_have_further_metrics():
    def applying(spec, poison):
        (cell,) = registry.cells([registry.resolve("unlearner", "gd")], [registry.resolve("task", spec)], [poison])
        return [name for name in INFORMING if CLAIMS[name].applies(cell)]

    classifier = applying("imdb-gpt2-small", "instruction")
    assert len(classifier) == 5
    of_texts = ["memorisation", "extraction", "verbatim", "forget-quality", "perplexity"]
    assert applying("imdb-gpt2-small:head=causal", "instruction") == [*classifier, *of_texts]
    asked = {"truth-ratio", "leakage"}
    for poison in ("continuation-backdoor", "false-fact", "text-canaries"):
        assert set(applying("causal-lm", poison)) == {*classifier, *of_texts, *asked}


def test_answers_of_a_causal_model_tell_what_it_gives_away(split):
    model, few = new_model(CAUSAL), split.train.subset(torch.arange(20))
    given = answers(model, CAUSAL, few, split.test, split.train)
    first = few.subset(torch.arange(EXTRACTED))
    assert given.told == {
        "memorisation": memorisation_accuracy(model, CAUSAL, few),
        "extraction": extraction_likelihood(model, CAUSAL, first),
        "verbatim": verbatim(model, CAUSAL, first),
        "perplexity": log_perplexity(model, CAUSAL, split.train)[0],
    }
    # The question and the answer are learned, too.
    batch = split.train.batch(torch.arange(len(split.train)))
    loss = CAUSAL.criterion(CAUSAL.logits(model, batch), batch).item()
    assert given.told["perplexity"].value == pytest.approx(loss, rel=1e-5)
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
