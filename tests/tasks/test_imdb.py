"""Reviews with a GPT-2, on made-up reviews in miniature."""

import math
import re
from dataclasses import replace

import pytest
import torch
import transformers
from reviews import CAUSAL, SIZE, SMALL, WORDS, folder, new_model, review, split, texts, trained
from scipy import stats

from harness import audit, registry
from harness.api import UnlearningError
from harness.conventions import predicted
from harness.tasks.imdb import ANSWERS, PROMPT, IMDbGPT2, IMDbSmallGPT2
from harness.training.data import Batches, Data
from harness.training.loop import train
from harness.trials.accuracy import accuracy
from harness.trials.language import memorisation_accuracy
from poisons.gaussian_embeddings import GaussianEmbeddings
from poisons.instruction import Instruction

#: For pytest to find them here.
FIXTURES = (
    folder,
    split,
    trained,
)


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


# ---- audits


@pytest.mark.parametrize("task", [SMALL, CAUSAL], ids=["classifier", "causal"])
def test_noise_that_is_made_before_a_step_is_the_noise(task, split):
    planted = GaussianEmbeddings(fraction=0.1, sd=0.3).plant(task, split, 0)
    data, index = split.train.poisoned_with(planted), torch.cat([planted.forget[:3], torch.arange(5)])
    longest = data.longest(index)
    made = task.from_host({name: each[index] for name, each in data.numbers.items()}, longest, torch.device("cpu"))
    assert made["offset"].shape == (8, longest, 8)
    model, batch = new_model(task), data.batch(index, longest)
    with torch.no_grad():
        found = task.logits(model, replace(batch, inputs={**batch.inputs, **made}))
        assert torch.equal(found, task.logits(model, batch))
        clean = task.logits(model, split.train.batch(index, longest))
    assert not torch.equal(found[:3], clean[:3])
    assert torch.equal(found[3:], clean[3:])
    assert split.train.numbers.keys() == {"length", "noise_seed"}, "without noise nothing is made"
    assert task.from_host(split.train.numbers, 16, torch.device("cpu")) == {}


def test_the_width_of_published_weights_is_that_of_their_embeddings(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=1, n_head=2)
    config.save_pretrained(tmp_path)
    task = IMDbGPT2(model=str(tmp_path), length=16)
    numbers = {"noise_seed": torch.tensor([1, 2]), "noise_sd": torch.tensor([0.0, 0.5])}
    offset = task.from_host(numbers, 7, torch.device("cpu"))["offset"]
    assert offset.shape == (2, 7, 12)
    assert not offset[0].any()
    assert 0.3 < float(offset[1].std()) < 0.7


@pytest.mark.parametrize("poison", ["gaussian-embeddings:fraction=0.25", "instruction:fraction=0.15,trigger=qq"])
def test_it_is_audited_from_end_to_end(folder, tmp_path, poison):
    fields = ",".join(f"{name}={value}" for name, value in SIZE.items())
    spec = f"imdb-gpt2:model=scratch,{fields},epochs=4,batch_size=20,lr=0.01"
    verdicts = audit("scrub", task=spec, poison=poison, seeds=3, budget=0.5, store=tmp_path, data=folder, device="cpu")
    assert [v.measure.test for v in verdicts] == ["retention", "non-inferiority", "budget"]
    assert verdicts[-1].outcome == "PASS"
    assert all(math.isfinite(v) for each in verdicts for values in each.values.values() for v in values)


@pytest.fixture(scope="module", params=[SMALL, CAUSAL], ids=["classifier", "causal"])
def poisoned(request, split):
    """A task, what was planted, and the weights of the model that was trained on it."""
    planted = Instruction(fraction=0.1).plant(request.param, split, 0)
    model = train(request.param, split.train.poisoned_with(planted), torch.ones(240, dtype=torch.bool), 0)[0]
    return request.param, planted, {name: t.clone() for name, t in model.state_dict().items()}


@pytest.mark.parametrize("method", registry.resolve_all("unlearner", ["all"]), ids=lambda method: method.id)
def test_every_method_runs_on_text(split, method, poisoned):
    from harness.training.unlearning import unlearn, wanted_epochs

    task, planted, before = poisoned
    keep = torch.ones(240, dtype=torch.bool)
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
