"""Trainers written for open-unlearning run unchanged, on a small causal language model."""

import copy
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import open_trainers
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from open_trainers import NPO, Alternates, GradAscent, GradDiff, Noisy, OutOfMemory, Raises, Swaps, Unfreezes
from tiny import Tiny

from harness import registry
from harness.adapters import OpenUnlearning
from harness.api import Search, UnlearningError
from harness.judging.yardsticks import YARDSTICKS
from harness.tasks.causal_lm import CausalLM
from harness.training.data import Data, digest
from harness.training.loop import train
from harness.training.meter import Meter
from harness.training.roundtrip import survives
from harness.training.unlearning import unlearn

TASK = CausalLM(train_size=30, test_size=10, epochs=1, length=8, batch_size=5)
FORGET, RETAIN = 6, 24


@pytest.fixture(scope="module")
def problem():
    """P, the points to keep and those to forget."""
    data = TASK.load(None).train
    model, _ = train(TASK, data, torch.ones(len(data), dtype=torch.bool), 0)
    index = torch.arange(len(data))
    return copy.deepcopy(model.state_dict()), data.subset(index[FORGET:]), data.subset(index[:FORGET])


def run(problem, trainer, seed=0, budget=2.0, task=TASK, **fields):
    method = registry.register("unlearner", OpenUnlearning(trainer, **fields))
    return unlearn(method, task, *problem, budget=budget, seed=seed)


class Watched(GradDiff):
    """Keeps what it was given, and at which rate; ``seen`` is of a subclass."""

    def compute_loss(self, model, inputs, return_outputs=False):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        rate = self.optimizer.param_groups[0]["lr"]
        self.seen.append((inputs, rate, outputs.loss.item(), self))
        return (loss, outputs) if return_outputs else loss


@pytest.fixture
def watched():
    return type("Watching", (Watched,), {"seen": []})


def documents(part):
    """Return the documents of a part of a batch, each as its tokens and how many of them are given."""
    rows = zip(part["input_ids"], part["attention_mask"], part["labels"], strict=True)
    return [(tuple(ids[mask].tolist()), int((labels[mask] == -100).sum())) for ids, mask, labels in rows]


def documents_in(data):
    tokens, length, start = (data.inputs[name].tolist() for name in ("tokens", "length", "start"))
    rows = zip(tokens, length, start, data.labels.tolist(), strict=True)
    return [((*row[:size], last), given) for row, size, given, last in rows]


# ---- what comes out

#: Batches of five and of one in turn, as many as are paid by 2 * 24 examples while a dearest one might follow. A
#: document costs one for itself, one for the retained one beside it and a third for the reference.
PRICES = {GradAscent: (1, 47), GradDiff: (2, 46), NPO: (2 + 1 / 3, 3 * 35 / 3 + 2 * 7 / 3)}


@pytest.mark.parametrize("trainer", PRICES, ids=lambda trainer: trainer.__name__)
def test_a_trainer_runs_unchanged_within_its_budget(problem, trainer):
    state, retain, forget = problem
    before = [digest(dict(data.inputs, labels=data.labels)) for data in (retain, forget)]
    (model, meter), (again, _), (other, _) = (run(problem, trainer, seed) for seed in (0, 0, 1))
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    assert digest(after) != digest(state)
    assert digest(after) == digest(again.state_dict()) != digest(other.state_dict())
    for name, weight in TASK.new_model().named_parameters():
        if not weight.requires_grad:
            assert torch.equal(dict(model.named_parameters())[name], weight)
    price, spent = PRICES[trainer]
    assert meter.examples == pytest.approx(spent)
    assert spent <= 2 * RETAIN < spent + 5 * price
    assert [digest(dict(data.inputs, labels=data.labels)) for data in (retain, forget)] == before


class ReadsActivations(GradDiff):
    """Makes its loss of a layer's activations, as RMU does: no backward pass goes through what the model returns."""

    def compute_loss(self, model, inputs, return_outputs=False):
        seen = []
        hook = model.get_submodule("base_model.model.model.layers.1").register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        outputs = model(**inputs["forget"])
        hook.remove()
        return (seen[0].square().mean(), outputs) if return_outputs else seen[0].square().mean()


def test_a_loss_of_activations_keeps_to_the_budget_by_operations(problem):
    batch, model = problem[1].batch(torch.arange(RETAIN)), TASK.new_model()
    with Meter(model) as retraining:
        TASK.criterion(TASK.logits(model, batch), batch).backward()
    budget, most = 2.0, YARDSTICKS["flops"].allows
    _, meter = run(problem, ReadsActivations, budget=budget)
    assert meter.examples / RETAIN < 0.8 * budget
    assert 0.8 * most * budget < meter.flops / retraining.flops <= most * budget


def test_activations_may_be_computed_again(problem):
    ordinary, meter = run(problem, GradAscent, epochs=1)
    task = CausalLM(train_size=30, test_size=10, epochs=1, length=8, batch_size=5, checkpointing=True)
    again, cost = run(problem, GradAscent, epochs=1, task=task)
    assert cost.examples == pytest.approx(meter.examples) == FORGET
    assert cost.flops > meter.flops
    for one, other in zip(ordinary.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_forget_set_is_unlearned_and_the_retain_set_is_not(problem):
    state, retain, forget = problem
    given = TASK.new_model()
    given.load_state_dict(state)

    def losses(model):
        batches = (data.batch(torch.arange(len(data))) for data in (forget, retain))
        return [TASK.criterion(TASK.logits(model.eval(), batch), batch).item() for batch in batches]

    ascended, kept = (run(problem, trainer)[0] for trainer in (GradAscent, GradDiff))
    before, worse, better = losses(given), losses(ascended), losses(kept)
    assert worse[0] > before[0] + 0.1
    assert better[0] - better[1] > before[0] - before[1] + 0.1
    assert better[1] < worse[1]


def test_all_weights_may_be_trained(problem):
    task = CausalLM(train_size=30, test_size=10, epochs=1, length=8, batch_size=5, adapter="none")
    state = task.new_model().state_dict()
    model, meter = run((state, *problem[1:]), GradDiff, task=task)
    assert meter.examples == pytest.approx(46)
    assert digest(model.state_dict()) != digest(state)


def test_a_model_that_the_trainer_put_in_place_is_taken(problem):
    (swapped, meter), (ordinary, _) = run(problem, Swaps), run(problem, GradAscent)
    assert meter.examples == pytest.approx(47)
    assert digest(swapped.state_dict()) == digest(ordinary.state_dict())


def test_a_trainer_that_changes_what_is_frozen_is_noticed(problem):
    batch = problem[1].batch(torch.arange(5))
    assert survives(TASK, run(problem, GradAscent)[0], batch)
    assert not survives(TASK, run(problem, Unfreezes)[0], batch)


# ---- what goes in


def test_batches_hold_the_documents_of_the_request(problem, watched):
    _, retain, forget = problem
    run(problem, watched, epochs=3)
    for epoch in range(3):
        inputs = [each[0] for each in watched.seen[2 * epoch : 2 * epoch + 2]]
        assert [len(each["forget"]["labels"]) for each in inputs] == [5, 1]
        forgotten = [each for batch in inputs for each in documents(batch["forget"])]
        assert sorted(forgotten) == sorted(documents_in(forget))
        assert {each for batch in inputs for each in documents(batch["retain"])} <= set(documents_in(retain))
    assert len({tuple(documents(inputs["retain"])) for inputs, *_ in watched.seen}) == 6
    for part in watched.seen[0][0].values():
        assert part["attention_mask"].dtype == torch.bool
        assert bool((part["labels"][~part["attention_mask"]] == -100).all())
        learned = part["labels"] != -100
        assert torch.equal(part["labels"][learned], part["input_ids"][learned])


def test_what_is_given_of_a_document_is_not_learned(problem, watched):
    state, retain, _ = problem
    texts = [([5, 6, 7, 8, 9], 3), ([11, 12, 13], 1), ([21, 22, 23, 24, 25, 26, 27, 28, 29], 8)]
    run((state, retain, Data(*TASK.points(texts))), watched, epochs=1)
    part = watched.seen[0][0]["forget"]
    assert sorted(documents(part)) == sorted((tuple(tokens), given) for tokens, given in texts)
    row = part["input_ids"][:, 0].tolist().index(5)
    assert part["labels"][row].tolist() == [-100, -100, -100, 8, 9, -100, -100, -100, -100]


def test_the_loss_is_the_recipes(problem, watched):
    state, retain, _ = problem
    run((state, retain.subset(torch.tensor([3])), retain.subset(torch.tensor([4]))), watched, epochs=1)
    model = TASK.new_model()
    model.load_state_dict(state)
    batch = retain.batch(torch.tensor([3]))
    assert watched.seen[0][2] == pytest.approx(TASK.criterion(TASK.logits(model, batch), batch).item(), rel=1e-5)


def test_the_rate_falls_with_what_is_left_of_the_budget(problem, watched):
    run(problem, watched, lr=0.5)
    rates = [rate for _, rate, *_ in watched.seen]
    spent = [0, 10, 12, 22, 24, 34, 36]
    assert rates == pytest.approx([0.5 * (1 - each / (2 * RETAIN)) for each in spent])


def test_a_schedule_of_its_own_is_kept(problem, watched):
    def constant(self, num_training_steps, optimizer=None):
        self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer or self.optimizer, factor=1.0)
        return self.lr_scheduler

    watched.create_scheduler = constant
    run(problem, watched, epochs=2)
    assert [rate for _, rate, *_ in watched.seen] == [TASK.lr] * 4
    with pytest.raises(ValueError, match="'Watching' has a create_scheduler of its own, which needs the number of st"):
        OpenUnlearning(watched)


def test_settings_reach_the_trainer_and_its_arguments(problem, watched):
    run(problem, watched, epochs=2, batch_size=3, lr=0.25, args="gamma=0.5; alpha=2", training="weight_decay=0.5")
    assert len(watched.seen) == 4
    trainer = watched.seen[0][3]
    assert (trainer.gamma, trainer.alpha) == (0.5, 2)
    assert (trainer.args.learning_rate, trainer.args.weight_decay) == (0.25, 0.5)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert trainer.args.device == torch.device("cpu")


def test_a_pass_may_cost_more_than_the_budget(problem):
    assert run(problem, GradDiff, epochs=10)[1].examples == pytest.approx(10 * 2 * FORGET)


def test_a_loss_may_ask_for_the_number_of_tokens(problem):
    class Asks(GradAscent):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            assert num_items_in_batch is None
            return super().compute_loss(model, inputs, return_outputs)

    assert digest(run(problem, Asks)[0].state_dict()) == digest(run(problem, GradAscent)[0].state_dict())


# ---- names and fields


def test_a_spec_names_a_trainer_and_its_settings(problem):
    spec = "harness.adapters:OpenUnlearning:trainer=open_trainers:NPO,args=beta=0.1;gamma=2,lr=0.001,epochs=1"
    found = registry.resolve("unlearner", spec)
    assert found.value.wraps is NPO
    assert found.value.settings == {"beta": 0.1, "gamma": 2}
    assert registry.resolve("unlearner", found.id) == found
    assert registry.searches(found).keys() == {"lr", "batch_size"}
    assert registry.with_fields(found, {"lr": 0.5}).value.lr == 0.5
    model, _ = unlearn(found, TASK, *problem, budget=2.0, seed=0)
    expected, _ = run(problem, NPO, args="beta=0.1;gamma=2", lr=0.001, epochs=1)
    assert digest(model.state_dict()) == digest(expected.state_dict())


@dataclass(frozen=True)
class SearchedNPO(OpenUnlearning):
    trainer: str = "open_trainers:NPO"
    beta: Annotated[float, Search(0.01, 1, log=True)] = 0.1


def test_a_field_of_a_subclass_is_a_setting_that_can_be_searched(problem):
    found = registry.resolve("unlearner", "test_open_unlearning:SearchedNPO:beta=0.2,args=gamma=2")
    assert found.value.settings == {"beta": 0.2, "gamma": 2}
    assert registry.searches(found)["beta"] == Search(0.01, 1, log=True)
    assert registry.with_fields(found, {"beta": 0.5}).value.settings == {"beta": 0.5, "gamma": 2}
    model, _ = unlearn(found, TASK, *problem, budget=2.0, seed=0)
    expected, _ = run(problem, NPO, args="beta=0.2;gamma=2")
    assert digest(model.state_dict()) == digest(expected.state_dict())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trainer=nowhere:NPO", "cannot be imported"),
        ("trainer=open_trainers:NP", "no attribute 'NP'; did you mean NPO"),
        ("trainer=open_trainers:no_trainer", "a subclass of transformers.Trainer, not 'open_trainers:no_trainer'"),
        ("trainer=NPO", "the trainer 'NPO' is not a dotted path"),
        ("trainer=open_trainers:NPO,lr=0", "lr must be positive, not 0.0"),
        ("trainer=open_trainers:NPO,batch_size=0", "batch_size must be at least 1, not 0"),
        ("trainer=open_trainers:NPO,epochs=0", "epochs must be at least 1, not 0"),
        ("trainer=open_trainers:NPO,args=beta", "args must be NAME=VALUE, separated by semicolons; 'beta' is not"),
        ("trainer=open_trainers:NPO,training=seed=1", "training must not set seed, which the adapter does"),
        ("trainer=open_trainers:NPO,training=warmup_steps=1", "warmup_steps needs the number of steps"),
    ],
)
def test_what_cannot_work_is_said_at_once(spec, message):
    with pytest.raises(UnlearningError, match=message):
        registry.resolve("unlearner", f"harness.adapters:OpenUnlearning:{spec}")


@pytest.mark.parametrize("package", ["transformers", "accelerate"])
def test_a_missing_package_is_named(monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(UnlearningError, match=rf"need {package}, which is not installed: pip install '.*\[language\]'"):
        registry.resolve("unlearner", "harness.adapters:OpenUnlearning:trainer=open_trainers:NPO")


# ---- what is refused when it runs


@pytest.mark.parametrize("field", ["args=betta=1", "training=wait_decay=1"])
def test_a_setting_that_is_not_known_is_named(problem, field):
    name, _, text = field.partition("=")
    with pytest.raises(UnlearningError, match=rf"the trainer 'NPO' cannot be made .* argument '{text[:-2]}'"):
        run(problem, NPO, **{name: text})


def test_a_batch_says_what_it_has(problem):
    with pytest.raises(UnlearningError, match="has only 'input_ids' and 'labels' and 'attention_mask' here, no 'alter"):
        run(problem, Alternates)


def test_other_tasks_are_refused():
    split = Tiny().load(None)
    parts = split.train.subset(torch.arange(24, 240)), split.train.subset(torch.arange(24))
    with pytest.raises(UnlearningError, match=r"only causal language models .* a Sequential for the inputs image$"):
        run((Tiny().new_model().state_dict(), *parts), GradDiff, task=Tiny())


def test_a_budget_that_pays_for_no_step_is_refused(problem):
    sentence = r"first step of the trainer 'GradDiff' costs 10 examples, and the budget is 5; set a smaller batch_size"
    with pytest.raises(UnlearningError, match=sentence):
        run(problem, GradDiff, budget=5 / RETAIN)
    assert run(problem, GradDiff, budget=5 / RETAIN, batch_size=1)[1].examples == pytest.approx(4)


def test_an_error_of_a_trainer_is_told_in_a_sentence(problem):
    sentence = r"^the trainer 'Raises' raised RuntimeError: the moon is in the wrong house \(.*open_trainers\.py:\d+\)$"
    with pytest.raises(UnlearningError, match=sentence) as caught:
        run(problem, Raises)
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(MemoryError):
        run(problem, OutOfMemory)


class GivesOtherLabels(GradDiff):
    def compute_loss(self, model, inputs, return_outputs=False):
        return model(input_ids=inputs["forget"]["input_ids"], labels=inputs["forget"]["labels"][:, :-1]).loss


class RunsOut(GradDiff):
    def compute_loss(self, model, inputs, return_outputs=False):
        def hook(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        model.get_output_embeddings().register_forward_hook(hook)
        return super().compute_loss(model, inputs, return_outputs)


class LacksASetting(GradDiff):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.strategy = {}["deepspeed"]


class Wraps(GradAscent):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

        class Around(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, *args, **kwargs):
                return self.inner(*args, **kwargs)

        self.model = self.model_wrapped = Around(self.model)


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        (GivesOtherLabels, r"raised ValueError: Expected input batch_size \(\d+\) to match .* \(.*learning\.py:\d+\)$"),
        (LacksASetting, r"raised KeyError: 'deepspeed' \(.*test_open_unlearning\.py:\d+\)$"),
        (Wraps, r"left another model, a Around, whose weights have other names, such as 'base_model\..*; trainer\.mod"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_goes_wrong_around_a_loss_is_told_in_a_sentence_too(problem, trainer, says):
    with pytest.raises(UnlearningError, match=rf"^the trainer '{trainer.__name__}' {says}"):
        run(problem, trainer, epochs=1)


def test_memory_that_ran_out_in_a_forward_pass_stays_what_it_is(problem):
    with pytest.raises(torch.OutOfMemoryError):
        run(problem, RunsOut, epochs=1)


# ---- what is left behind


def test_nothing_is_left_behind(problem, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    folders = []

    class Tells(Noisy):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            folders.append((self.args.output_dir, sorted(os.listdir(self.args.output_dir))))
            return loss

    AcceleratorState._reset_state(reset_partial_state=True)
    mine = PartialState(cpu=True)
    mine.mark = "mine"
    capfd.readouterr()
    model, _ = run(problem, Tells)
    assert capfd.readouterr() == ("", "")
    assert {"notes.txt", "trainer_state.json"} <= set(folders[-1][1])
    assert not os.path.exists(folders[-1][0])
    assert not os.listdir(tmp_path)
    assert "OPEN_TRAINERS" not in os.environ
    assert (PartialState().mark, AcceleratorState._shared_state) == ("mine", {})
    PartialState._reset_state()
    fresh = TASK.new_model()
    assert vars(model.network).keys() == vars(fresh.network).keys()
    assert digest(model.state_dict()) == digest(run(problem, GradDiff)[0].state_dict())


def test_nothing_is_left_behind_by_an_error(problem):
    folders = []

    class Tells(Raises):
        def compute_loss(self, *args, **kwargs):
            folders.append(self.args.output_dir)
            return super().compute_loss(*args, **kwargs)

    random = torch.get_rng_state()
    with pytest.raises(UnlearningError, match="the trainer 'Tells' raised"):
        run(problem, Tells)
    assert not os.path.exists(folders[0])
    assert PartialState._shared_state == {}
    assert torch.equal(torch.get_rng_state(), random)


def test_trainers_are_audited_and_their_errors_told(folder):
    folder.write("theirs.py", Path(open_trainers.__file__).read_text())
    names = ("GradDiff", "Raises")
    specs = [f"harness.adapters:OpenUnlearning:trainer=theirs:{name}" for name in names]
    run = folder.pytest(
        "--task=causal-lm:train_size=60,test_size=20,epochs=1", "--poison=false-fact:count=6", "--audit-seeds=3",
        "--audit-budget=0.6", *(f"--unlearner={spec}" for spec in specs),
    )  # fmt: skip
    found = {(spec, claim): audit["verdict"] for (spec, _, claim), audit in run.audits.items()}
    assert found[specs[0], "cost"] == "PASS"
    assert "ERROR" not in {verdict for (spec, _), verdict in found.items() if spec == specs[0]}
    assert {verdict for (spec, _), verdict in found.items() if spec == specs[1]} == {"ERROR"}
    assert "\nthe trainer 'Raises' raised RuntimeError: the moon is in the wrong house (" in run.text
