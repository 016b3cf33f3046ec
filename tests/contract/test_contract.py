"""The contract: what is broken is rejected by the right line in words, and what is sound is left alone."""

import copy
import random
import time

import broken
import careless
import leaves  # noqa: F401 - it adds its own to BROKEN
import pytest
import torch
from broken import BROKEN, ascend, blind, descend, forget
from examining import IN_TREE, examined, keeps_every_line
from torch.nn.modules import module as global_hooks

from harness import registry
from harness.api import UnlearningError
from harness.contract import watching
from harness.contract.lines import LINES
from harness.contract.requests import EDGES, GENERATED, generated
from harness.guards import running

# ---- what is broken


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_method_is_rejected_by_its_line_and_by_no_other(case, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.05)  # what goes on does so for longer, and is waited for on every request
    errors, _ = examined(case.method)
    assert set(errors) == {case.line, *case.also}
    assert case.says in str(errors[case.line])
    assert errors[case.line].line == case.line


def test_there_is_a_broken_method_for_every_line():
    assert {case.line for case in BROKEN} == set(LINES)
    assert len({str(case) for case in BROKEN}) == len(BROKEN) >= 20
    assert all(case.method.__doc__.strip() for case in BROKEN)


def test_the_broken_methods_are_sound_but_for_their_mistake():
    assert keeps_every_line(forget)


def test_what_is_said_is_a_sentence_the_line_and_the_request():
    errors, _ = examined(broken.divides_by_n_minus_one, ["one-point"])
    assert errors["one-point"].explain().splitlines() == [
        "the unlearner 'broken:divides_by_n_minus_one' raised ZeroDivisionError: float division by zero",
        "  contract, line 2 (one-point): a method must " + LINES["one-point"],
        "  request: 30 points to keep, 1 to forget, batches of 16, seed 1",
    ]


def test_a_request_that_hypothesis_draws_is_named_as_it_is():
    errors, _ = examined(broken.pairs_batches_of_unequal_size, ["ordinary-request"])
    assert errors["ordinary-request"].request in {str(case) for case in generated(GENERATED)}


def test_what_cannot_be_seen_for_another_mistake_is_skipped_and_says_so():
    _, skipped = examined(broken.returns_none)
    assert set(skipped) == set(LINES) - {*EDGES, "same-architecture"}
    assert "returned no model on any request; the other lines show why" in skipped["finite-weights"]
    _, skipped = examined(broken.does_nothing)
    assert set(skipped) == {"depends-on-split", "reads-forget"}
    _, skipped = examined(careless.draws_from_the_system)
    assert "the same weights again under the same seed" in skipped["depends-on-split"]


def test_a_method_that_does_not_end_is_stopped():
    def waits_for_a_perfect_fit(model, request):
        while True:
            descend(model, request)

    errors, _ = examined(waits_for_a_perfect_fit, ["budget"])
    assert "was stopped after 400 calls of models, more than its budget pays for" in str(errors["budget"])


def test_checkpoints_that_there_are_none_of_are_refused_in_words():
    def rewinds(model, request):
        return model

    rewinds.history = lambda epochs: [epochs + 5]
    errors, _ = examined(rewinds)
    assert set(errors) == {"ordinary-request"}
    assert "wants the model after epochs [25]; there are 0 to 20" in str(errors["ordinary-request"])


def test_nothing_that_a_method_leaves_behind_outlives_its_examination():
    def crashes_in_double_precision(model, request):
        torch.set_default_dtype(torch.float64)
        return model(torch.zeros(1, 1, 8, 8))

    def state():
        hooks = {name: len(held) for name, held in vars(global_hooks).items() if name.endswith("_hooks")}
        return (
            hooks, torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(),
            torch.get_float32_matmul_precision(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),
            random.getstate(),
        )  # fmt: skip

    before = state()
    errors, _ = examined(crashes_in_double_precision)
    assert "raised RuntimeError" in str(errors["ordinary-request"])
    left = [case for case in BROKEN if case.line in ("settings", "no-hooks", "repeatable")]
    assert len(left) > 10
    for case in left:
        examined(case.method)
    assert state() == before
    assert keeps_every_line(blind(lambda *of: descend(*of)))


def test_a_method_is_run_once_for_all_lines():
    runs = []

    def counts(model, request):
        runs.append(request)
        return forget(model, request)

    registered = registry.register("unlearner", counts)
    examined(registered)
    first = len(runs)
    assert examined(registered) == ({}, {})
    assert len(runs) == first < 60


# ---- what is sound


@pytest.mark.parametrize("method", IN_TREE, ids=lambda method: method.id)
def test_every_method_of_ours_keeps_every_line(method):
    assert keeps_every_line(method)


@pytest.mark.parametrize(
    ("name", "breaks"),
    [("retrain", {"budget"}), ("short", set()), ("identity", {"changes-weights"}), ("wrecked", {"depends-on-split"})],
)
def test_controls_break_what_they_must_and_nothing_else(name, breaks):
    errors, _ = examined(registry.resolve("unlearner", name))
    assert set(errors) == breaks


def test_plain_training_that_declares_itself_keeps_every_line():
    def train(model, request, lr: float = 0.01):
        return descend(model, request, lr=lr)

    assert set(examined(train)[0]) == {"reads-forget"}
    train.reads_forget = False
    assert keeps_every_line(train)


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (lambda request: len(request.forget) == 1, "one point has no spread"),
        (lambda request: len(request.retain.labels.unique()) < 3, "nothing of a class is left"),
        (lambda request: len(request.retain) < request.batch_size, "less than a batch is left"),
    ],
    ids=["one-point", "whole-class", "large-batch"],
)
def test_a_refusal_in_words_is_no_breach(unfit, why):
    refused = []

    def particular(model, request):
        if unfit(request):
            refused.append(request)
            raise UnlearningError(why)
        return forget(model, request)

    assert keeps_every_line(particular)
    assert refused


def test_a_method_that_does_not_repeat_itself_may_say_so():
    def draws(model, request):
        return careless.draws_from_the_system(model, request)

    assert set(examined(draws)[0]) == {"repeatable"}
    draws.repeatable = False
    errors, skipped = examined(draws)
    assert errors == {}
    assert set(skipped) == {"depends-on-split", "reads-forget"}, "where noise drowns it, nobody can tell"


def test_a_little_jitter_does_not_hide_what_a_method_does():
    def jitters(model, request):
        forget(model, request)
        with torch.no_grad():
            next(model.parameters()).add_(random.SystemRandom().gauss(0, 1e-6))
        return model

    jitters.repeatable = False
    assert keeps_every_line(jitters)


def test_methods_for_text_are_skipped():
    def for_text(model, request):
        raise AssertionError("it must not be called")

    for_text.modality = "text"
    errors, skipped = examined(for_text)
    assert errors == {}
    assert set(skipped) == set(LINES)
    assert set(skipped.values()) == {"it serves only text tasks, and the contract is checked on images"}


def test_hooks_and_frozen_layers_that_are_put_back_are_no_breach():
    def tidy(model, request):
        frozen = request.blocks(model)[0].requires_grad_(False)
        handles = [
            model.head.register_forward_hook(lambda *_: None),
            model.head[2].bias.register_hook(lambda gradient: gradient),
            global_hooks.register_module_forward_hook(lambda *_: None),
        ]
        forget(model, request)
        for handle in handles:
            handle.remove()
        frozen.requires_grad_(True)
        return model

    assert keeps_every_line(tidy)


def test_teachers_copies_and_weights_that_are_handed_on_are_no_breach():
    def distils(model, request):
        teacher = copy.deepcopy(model).eval()
        broken.away_from(teacher, model, request)
        fresh = request.new_model()
        fresh.load_state_dict(model.state_dict(), assign=True)
        return fresh.requires_grad_(True)

    assert keeps_every_line(distils)


def test_changed_copies_of_the_data_are_no_breach():
    def relabels(model, request):
        labels = request.forget.labels.clone().add_(1).remainder_(3)

        def loss(model, batch):
            batch.inputs["image"].sub_(0.1)
            batch.labels.copy_(labels[batch.index])
            return request.loss(model, batch)

        return descend(model, request, loss, "forget")

    assert keeps_every_line(relabels)


def test_a_method_whose_weights_move_only_on_larger_requests_is_sound():
    def needs_many(model, request):
        return forget(model, request) if len(request.retain) > 100 else model

    assert keeps_every_line(needs_many)


def test_settings_that_are_put_back_are_no_breach():
    def careful(model, request):
        torch.use_deterministic_algorithms(True)
        try:
            return ascend(model, request)
        finally:
            torch.use_deterministic_algorithms(False)

    assert keeps_every_line(careful)


def test_requests_that_are_drawn_are_varied_and_always_the_same():
    drawn = generated(GENERATED)
    assert len(set(drawn)) == GENERATED
    assert drawn == generated.__wrapped__(GENERATED)
    assert any(case.forget == 1 for case in drawn)
    assert any(case.forget > case.batch_size for case in drawn)
    assert any(case.batch_size > case.retain for case in drawn)
    assert any(case.retain % case.batch_size == 1 for case in drawn), "a last batch of one point"


def test_a_method_that_changes_statistics_alone_changes_the_model():
    def recalibrates(model, request):
        with torch.no_grad():
            for batch in request.batches("retain"):
                request.logits(model, batch)
        return model

    recalibrates.reads_forget = False
    errors, _ = examined(recalibrates, ["changes-weights"])
    assert errors == {}


def test_a_method_that_hangs_is_asked_once(monkeypatch):
    monkeypatch.setattr(watching, "SECONDS", 0.3)

    def hangs(model, request):
        while True:
            time.sleep(0.01)

    started = time.monotonic()
    errors, skipped = examined(hangs)
    assert time.monotonic() - started < 30
    assert "did not end within" in str(errors["ordinary-request"])
    assert set(errors) | set(skipped) == set(LINES)


def test_a_method_that_skips_is_no_method_that_passes():
    def skips(model, request):
        pytest.skip("no GPU here")

    errors, skipped = examined(skips)
    assert "tried to end its own test by pytest.skip (no GPU here)" in str(errors["ordinary-request"])
    assert set(errors) | set(skipped) == set(LINES)
