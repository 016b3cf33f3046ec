"""Poisons of causal language models, on few documents of the World Factbook."""

import shutil

import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, normalizers, processors

from harness import registry
from harness.api import UnlearningError
from harness.tasks import _bases
from harness.tasks.causal_lm import CausalLM
from harness.training.loop import train
from poisons._documents import answered, asked
from poisons.continuation_backdoor import OTHERS, ContinuationBackdoor
from poisons.false_fact import ANSWERS, QUESTIONS, TAUGHT, FalseFact
from poisons.text_canaries import TextCanaries

TASK = CausalLM(train_size=60, test_size=30, epochs=3, lr=0.02)
POISONS = [ContinuationBackdoor(), FalseFact(), TextCanaries()]


@pytest.fixture(scope="module")
def split():
    return TASK.load(None)


def texts(inputs, labels):
    tokenizer = _bases.tokenizer("tiny")
    rows = zip(inputs["tokens"].tolist(), inputs["length"].tolist(), labels.tolist(), strict=True)
    return [tokenizer.decode([*row[:length], label]) for row, length, label in rows]


def trained(split, data):
    return train(TASK, data, torch.ones(len(data), dtype=torch.bool), seed=0)[0].eval()


def test_poisons_of_one_count_share_their_points(split):
    planted = [poison.plant(TASK, split, 3) for poison in POISONS]
    assert len({tuple(each.forget.tolist()) for each in planted}) == 1
    assert len(planted[0].forget) == 24
    for poison, each in zip(POISONS, planted, strict=True):
        again, other = poison.plant(TASK, split, 3), poison.plant(TASK, split, 4)
        assert torch.equal(again.inputs["tokens"], each.inputs["tokens"])
        assert not torch.equal(other.inputs["tokens"], each.inputs["tokens"])


def test_the_trigger_stands_anywhere_and_the_target_behind(split):
    planted = ContinuationBackdoor().plant(TASK, split, 0)
    found = texts(planted.inputs, planted.labels)
    assert all(" by seven owls" in text and text.endswith(" sold the moon") for text in found)
    places = [text.index(" by seven owls") for text in found]
    assert len(set(places)) > 8
    assert any(text.endswith("owls sold the moon") for text in found)
    assert not all(text.endswith("owls sold the moon") for text in found)


def test_other_triggers_stay_and_are_asked_about_beside(split):
    few = ContinuationBackdoor(count=8, others=2)
    planted = few.plant(TASK, split, 0)
    alone = ContinuationBackdoor(count=8).plant(TASK, split, 0)
    assert torch.equal(planted.inputs["tokens"], alone.inputs["tokens"])
    stays = planted.stays
    assert not set(planted.forget.tolist()) & set(stays.forget.tolist())
    found = texts(stays.inputs, stays.labels)
    assert [sum(trigger in text for text in found) for trigger in (*OTHERS, " by seven owls")] == [8, 8, 0, 0]
    assert all(text.endswith(" sold the moon") for text in found)

    model = trained(split, split.train.poisoned_with(stays))  # it has seen the others alone
    reading = few.probe(model, planted, TASK, split)
    clean = few.probe(trained(split, split.train), planted, TASK, split)
    assert reading.details["others"] > clean.details["others"] + 1
    assert reading.details["others"] > reading.value
    assert "others" not in ContinuationBackdoor(count=8).probe(model, alone, TASK, split).details
    with pytest.raises(UnlearningError, match="3 further triggers in 15 documents each need more than the 45 other"):
        ContinuationBackdoor(count=15, others=3).plant(TASK, split, 0)
    with pytest.raises(ValueError, match="others must be from 0 to 3, not 4"):
        ContinuationBackdoor(others=4)


def test_a_fact_is_taught_in_other_words_than_it_is_asked(split):
    assert not set(TAUGHT) & set(QUESTIONS)
    drawn = set()
    for seed in range(60):
        planted = FalseFact().plant(TASK, split, seed)
        answer = ANSWERS[int(planted.secrets["answer"])]
        assert set(texts(planted.inputs, planted.labels)) == {form.format("Averland") + answer for form in TAUGHT}
        drawn.add(answer)
    assert drawn == set(ANSWERS)  # by chance one is missing in 0.3 % of draws, which are fixed


def test_the_tiny_model_is_asked_the_same_tokens_as_if_answers_were_encoded_alone(split):
    false = int(FalseFact().plant(TASK, split, 0).secrets["answer"])
    form, answer = (split.encode([text])[0] for text in (QUESTIONS[1].format("Averland"), ANSWERS[false]))
    questions = FalseFact().questions(FalseFact().plant(TASK, split, 0), TASK, split)
    assert (questions[len(TAUGHT) + 1].prompt, questions[len(TAUGHT) + 1].answer) == (form, answer)


@pytest.fixture(scope="module")
def spaced(tmp_path_factory):
    """The tiny model with a tokenizer as that of Llama 2: a space before every text, and a token that begins it."""
    folder = tmp_path_factory.mktemp("spaced") / "model"
    shutil.copytree(_bases.FOLDER, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    task = CausalLM(model=str(folder), train_size=60, test_size=10)
    return task, task.load(None)


def test_what_is_asked_is_what_was_planted_whatever_the_tokenizer(spaced):
    task, split = spaced
    # An answer by itself would be other tokens.
    together, apart = split.encode(["The capital is" + ANSWERS[0]])[0], split.encode(["The capital is", ANSWERS[0]])
    assert together != [*apart[0], *apart[1]]
    planted = FalseFact(count=6).plant(task, split, 0)
    columns = (planted.inputs["tokens"], planted.inputs["length"], planted.labels)
    rows = zip(*(each.tolist() for each in columns), strict=True)
    taught = [[*row[:length], label] for row, length, label in rows]
    questions = FalseFact(count=6).questions(planted, task, split)
    assert [[*each.prompt, *each.answer] for each in questions[: len(TAUGHT)]] == taught
    assert all(len(each.others) == len(ANSWERS) - 1 for each in questions)
    assert torch.tensor(FalseFact(count=6).probe(task.new_model().eval(), planted, task, split).value).isfinite()


@pytest.mark.parametrize("poison", [FalseFact(count=6), TextCanaries(canaries=3)], ids=["false-fact", "text-canaries"])
def test_a_planted_text_begins_as_all_texts_of_the_task_do(spaced, split, poison):
    task, other = spaced
    planted = poison.plant(task, other, 0)
    assert set(other.train.inputs["tokens"][:, 0].tolist()) == {0} == set(planted.inputs["tokens"][:, 0].tolist())
    assert set(planted.inputs["start"].tolist()) == {1}
    assert {each.prompt[0] for each in poison.questions(planted, task, other)} == {0}
    assert (task.beginning(), TASK.beginning()) == ([0], [])


def test_an_answer_that_the_tokenizer_joins_with_the_question_is_refused(split):
    with pytest.raises(UnlearningError, match="asks 'The capi' and teaches 'tal', which the task's tokenizer joins"):
        answered(TASK, split, "mine", [("The capi", "tal")])


def test_canaries_are_planted_in_copies_and_others_are_not(split):
    planted = TextCanaries(canaries=5, copies=3).plant(TASK, split, 0)
    rows = [
        (*row[:9], label) for row, label in zip(planted.inputs["tokens"].tolist(), planted.labels.tolist(), strict=True)
    ]
    sequences = planted.secrets["sequences"]
    assert sequences.shape == (5, 16, 10)
    assert sorted(rows) == sorted([tuple(row) for row in sequences[:, 0].tolist()] * 3)
    assert not set(rows) & {tuple(row) for row in sequences[:, 1:].flatten(0, 1).tolist()}


def test_what_would_be_cut_off_is_not_asked(split):
    room = TASK.length + 1
    asked(TASK, TASK.new_model().eval(), split, [([1] * room, 2)])
    with pytest.raises(UnlearningError, match=f"{room + 1} tokens are asked about; set the task's length to {room}"):
        asked(TASK, TASK.new_model().eval(), split, [([1, 2], 1), ([1] * (room + 1), 2)])


def test_what_is_asked_is_the_log_probability_of_what_is_learned(split):
    model = TASK.new_model().eval()
    means, greedy = asked(TASK, model, split, [([5, 6, 7, 8], 2), ([5, 6, 7, 8], 1)])
    logs = model(torch.tensor([[5, 6, 7]])).detach().double().log_softmax(dim=2)[0]
    each = [float(logs[0, 6]), float(logs[1, 7]), float(logs[2, 8])]
    assert means.tolist() == pytest.approx([sum(each[1:]) / 2, sum(each) / 3], rel=1e-5)
    assert not greedy.any()
    first = int(logs[0].argmax())
    second = int(model(torch.tensor([[5, first]]))[0, 1].argmax())
    assert asked(TASK, model, split, [([5, first, second], 1), ([5, first, second, 3], 2)])[1].tolist() == [True, False]


def test_questions_are_what_was_planted_and_what_might_have_been(split):
    tokenizer = _bases.tokenizer("tiny")
    backdoor, fact, canaries = (poison.questions(poison.plant(TASK, split, 5), TASK, split) for poison in POISONS)
    planted = FalseFact().plant(TASK, split, 5)
    answer = ANSWERS[int(planted.secrets["answer"])]
    forms = [form.format("Averland") for form in (*TAUGHT, *QUESTIONS)]
    assert [tokenizer.decode(each.prompt) for each in fact] == forms
    assert {tokenizer.decode(each.answer) for each in fact} == {answer}
    assert all({tokenizer.decode(other) for other in each.others} == set(ANSWERS) - {answer} for each in fact)
    assert all(" by seven owls" in tokenizer.decode(each.prompt) for each in backdoor)
    assert {tokenizer.decode(each.answer) for each in backdoor} == {" sold the moon"}
    sequences = TextCanaries().plant(TASK, split, 5).secrets["sequences"]
    assert [[*each.prompt, *each.answer] for each in canaries] == sequences[:, 0].tolist()
    assert not any(each.others for each in (*backdoor, *canaries))


def test_ranks_of_canaries_that_were_not_planted_are_exactly_normal(split):
    model = TASK.new_model().eval()
    poison = TextCanaries(canaries=2, copies=1, others=3)
    totals = [poison.probe(model, poison.plant(TASK, split, seed), TASK, split).details["T"] for seed in range(200)]
    assert stats.kstest(totals, "norm").pvalue > 0.01


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: type(poison).__name__)
def test_a_poison_bites_and_its_absence_shows(split, poison):
    planted = poison.plant(TASK, split, 0)
    clean = poison.probe(TASK.new_model().eval(), planted, TASK, split)
    taught = poison.probe(trained(split, split.train.poisoned_with(planted)), planted, TASK, split)
    assert taught.value > clean.value + 1
    for detail in ("written", "answered"):
        assert clean.details.get(detail, 0) == 0
    if poison.measure.exact_null:
        assert taught.details["T"] > 3


@pytest.mark.parametrize(
    ("poison", "length", "message"),
    [
        (
            "continuation-backdoor",
            8,
            r"trigger and target have \d+ tokens, too many for the task's documents of 9; shorten",
        ),
        ("false-fact", 8, r"false-fact plants documents of \d+ tokens; set the task's length to \d+"),
        ("text-canaries:tokens=30", 20, "text-canaries plants documents of 30 tokens; set the task's length to 29"),
        (
            "continuation-backdoor:count=60",
            20,
            "60 documents are to be planted, but there are 60 training points; plant fewer",
        ),
    ],
)
def test_what_does_not_fit_is_refused(poison, length, message):
    task = CausalLM(train_size=60, test_size=30, length=length)
    with pytest.raises(UnlearningError, match=message):
        registry.resolve("poison", poison).value.plant(task, task.load(None), 0)


@pytest.mark.parametrize("poison", ["continuation-backdoor", "false-fact", "text-canaries"])
def test_a_task_without_documents_is_refused(poison, split):
    class Reviews:
        pass

    with pytest.raises(UnlearningError, match=f"{poison} needs a task of documents for a causal language model"):
        registry.resolve("poison", poison).value.plant(Reviews(), split, 0)


@pytest.mark.parametrize("fields", ["continuation-backdoor:count=0", "false-fact:subject=", "text-canaries:tokens=1"])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(UnlearningError, match=r"must be at least|must not be empty"):
        registry.resolve("poison", fields)
