"""What the methods cost: as much as they say, and never more than the budget where they have the choice."""

import re

import pytest
import torch
from every_method import (
    GA,
    GD,
    MSA,
    NGD,
    NPO,
    RMU,
    SCRUB,
    SCRUBR,
    SSD,
    UNDIAL,
    UNDO,
    BadTeacher,
    Certified,
    CFk,
    EUk,
    GradDiff,
    Influence,
    L1Sparse,
    NegGradPlus,
    Potion,
    Rewind,
    SalUn,
    Short,
    SimNPO,
    TaskArithmetic,
)
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from linear import Layers, Linear, a_model, by_name, points, request_of, state
from tiny import Tiny

from harness import registry
from harness.api import UnlearningError
from harness.training.meter import Meter
from unlearners._trained import Trained

#: Methods that make as many steps as the budget pays for, unless they are told how many.
SPENDING = (
    GD, NGD, CFk, EUk, Rewind, UNDO, SCRUB, NegGradPlus, SSD, SCRUBR, SalUn, L1Sparse, BadTeacher, MSA, Influence,
    Potion, Certified, GradDiff, NPO, SimNPO, UNDIAL, RMU, TaskArithmetic,
)  # fmt: skip


NAMES = [
    name for name, entry in registry.available("unlearner").items()
    if entry.value.startswith("unlearners.") and name != "retrain"
]  # fmt: skip


def metered(method, recipe, request):
    """Run a method on a model of a recipe."""
    model = a_model(recipe) if isinstance(recipe, Linear) else recipe.new_model()
    request.history[0] = state(model)
    with Meter(model) as meter:
        method(model, request)
    return meter


def cost(method, retain, forget, batch_size, budget=1.0):
    recipe = Layers(batch_size)
    return metered(method, recipe, request_of(recipe, points(retain, 1), points(forget, 2), budget)).examples


# ---- what is affordable


@given(
    st.integers(1, 5000), st.floats(0, 5), st.sampled_from([1 / 3, 2 / 3, 1.0, 4 / 3, 2.0]),
    st.integers(0, 2000) | st.floats(0, 2000),
)  # fmt: skip
def test_as_much_is_affordable_as_the_budget_pays_for_and_not_one_example_more(retain, budget, price, reserve):
    request = request_of(Linear(), points(retain, 1), points(1, 2), budget)
    examples = request.affordable(price, reserve)
    assert isinstance(examples, int)
    assert examples >= 0
    assert not examples or examples * price + reserve <= budget * retain + 1e-5
    assert (examples + 1) * price + reserve > budget * retain


@pytest.mark.parametrize(
    ("budget", "retain", "price", "reserve", "examples"),
    [
        (2.0, 100, 1.0, 0, 200),
        (0.29, 100, 1.0, 0, 29),  # 28.999999999999996 in floating point
        (0.1 * 30, 7, 1.0, 0, 21),
        (2.0, 100, 4 / 3, 0, 150),
        (2.0, 100, 4 / 3, 4 / 3 * 50, 100),
        (0.5, 7, 1.0, 0, 3),
        (1.0, 7, 1.0, 7, 0),
        (1.0, 7, 1.0, 8, 0),
        (0.0, 7, 1.0, 0, 0),
    ],
)
def test_what_is_affordable_by_hand(budget, retain, price, reserve, examples):
    request = request_of(Linear(), points(retain, 1), points(1, 2), budget)
    assert request.affordable(price, reserve) == examples


def without_a_single_one(examples, retain):
    """Leave out a single example that would begin another pass."""
    return examples - (examples > retain and examples % retain == 1)


@given(st.integers(1, 40), st.floats(0, 4), st.integers(1, 50))
@example(4, 1.75, 2)  # the last batch is cut to a single example
def test_batches_of_what_is_affordable_are_the_beginning_of_all_batches(retain, budget, batch_size):
    def drawn(**limits):
        request = request_of(Linear(batch_size), points(retain, 1), points(3, 2), budget, seed=4)
        return [batch.index.tolist() for batch in request.batches("retain", **limits)]

    request = request_of(Linear(batch_size), points(retain, 1), points(3, 2), budget)
    examples = request.affordable()
    limited = drawn(examples=examples)
    left = without_a_single_one(examples, retain) if batch_size > 1 else examples
    beginning = []
    for batch in drawn(epochs=5):
        beginning += [batch[:left]] if left else []
        left -= len(batch[:left])
    if min(batch_size, retain, len(beginning)) > 1 and len(beginning[-1]) == 1:  # it joins the batch before
        beginning[-2:] = [beginning[-2] + beginning[-1]]
    assert limited == beginning
    batches = request.batches("retain", examples=examples)
    assert len(batches) == len(list(batches))


# ---- the budget


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 64), st.floats(0, 3))
@settings(max_examples=settings().max_examples // 4)
def test_defaults_stay_within_the_budget_whatever_the_request(name, retain, forget, batch_size, budget):
    method = registry.resolve("unlearner", name).value
    assume(budget >= 1 or not isinstance(method, Short))  # it makes one pass
    assume(forget <= budget * retain or not isinstance(method, GA))  # so does it, over the forget set
    refusal, spent = "", 0.0
    try:
        spent = cost(method, retain, forget, batch_size, budget)
    except UnlearningError as error:
        refusal = str(error)
    assert spent <= budget * retain * (1 + 1e-9) + 1e-5
    if name not in ("identity", "wrecked"):
        alone = name == "scrub_r" and "there are fewer than two; use scrub" in refusal
        assert spent > 0 or alone or "pays for no step of this method; raise --audit-budget" in refusal


def request_on(task, fraction, forget_share=0.1):
    train = task.load(None).train
    k = round(forget_share * len(train))
    return request_of(
        task, train.subset(torch.arange(k, len(train))), train.subset(torch.arange(k)), fraction * task.epochs
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("task", "fraction"), [("digits-cnn", 0.1), *[("tiny:Tiny:epochs=20", x) for x in (0.1, 0.15, 0.3)]]
)
def test_defaults_stay_within_the_budget_of_a_task(task, name, fraction):
    recipe = registry.resolve("task", task).value
    request = request_on(recipe, fraction)
    torch.manual_seed(0)
    spent = metered(registry.resolve("unlearner", name).value, recipe, request).examples
    allowed = fraction * recipe.epochs * len(request.retain)
    assert spent <= allowed * (1 + 1e-9)
    if name in ("gd", "ngd", "cfk", "euk", "rewind", "short"):  # and use it: all of these are whole passes
        assert spent == pytest.approx(allowed)
    if name in ("undo", "scrub"):  # up to an example with a teacher beside it
        assert spent + 4 / 3 > allowed


@pytest.mark.parametrize("budget", [0.3, 1.0, 1.99, 2.0, 0.1 * 30, 3.5])
def test_methods_make_all_the_steps_that_they_may(budget):
    for method in (Short(), GD(), NGD(), CFk(), EUk(), Rewind(), GD(optimizer="adam"), Short(optimizer="sgd")):
        assert cost(method, 7, 4, 100, budget) == pytest.approx(int(7 * budget + 1e-9))
    assert cost(UNDO(), 7, 4, 100, budget) == pytest.approx(
        4 / 3 * without_a_single_one(int(7 * budget * 3 / 4 + 1e-9), 7)
    )


@pytest.mark.parametrize("max_epochs", [0, 1, 3])
@pytest.mark.parametrize("min_epochs", [None, 1, 5])
@pytest.mark.parametrize("budget", [2.0, 3.0, 4.0, 5.5])
def test_scrub_uses_up_what_the_budget_pays_for(budget, max_epochs, min_epochs):
    request = request_on(Tiny(epochs=20), budget / 20)
    spent = metered(SCRUB(max_epochs=max_epochs, min_epochs=min_epochs), Tiny(epochs=20), request).examples
    allowed = budget * len(request.retain)
    assert spent <= allowed * (1 + 1e-9)
    # Min epochs are of equal length: another example for each of them would be too much.
    assert spent + 4 / 3 * (min_epochs or max(1, max_epochs)) > allowed


@pytest.mark.parametrize(("batch_size", "forget_batch_size"), [(20, 10), (7, 5), (100, 30), (1, 1)])
@pytest.mark.parametrize("budget", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("own", [False, True])
def test_neggrad_plus_uses_up_what_the_budget_pays_for(budget, batch_size, forget_batch_size, own):
    method = NegGradPlus(forget_batch_size=forget_batch_size, batch_size=batch_size if own else None)
    spent, allowed = cost(method, 100, 30, 64 if own else batch_size, budget), budget * 100
    assert spent <= allowed * (1 + 1e-9)
    assert allowed - spent <= forget_batch_size  # a step of one point needs a forget batch beside it


@pytest.mark.parametrize("method", [GradDiff, NPO, SimNPO, UNDIAL, TaskArithmetic], ids=by_name)
@pytest.mark.parametrize("budget", [1.5, 2.0, 3.0])
def test_methods_for_texts_use_up_what_the_budget_pays_for(method, budget):
    spent, allowed = cost(method(), 96, 32, 16, budget), budget * 96
    assert spent <= allowed * (1 + 1e-9)
    assert allowed - spent <= 4 / 3 * 17  # a step of one retained point needs a forget batch beside it


@pytest.mark.parametrize("budget", [1.0, 2.0, 0.5])
def test_ssd_passes_over_everything_and_over_the_forget_set_or_spends_what_there_is(budget):
    assert cost(SSD(), 70, 10, 16, budget) == pytest.approx(min(90, 70 * budget))


# ---- the cost that is stated


@pytest.mark.parametrize(
    ("method", "examples"),
    [
        (GD(epochs=2), 2 * 60),
        (NGD(epochs=2), 2 * 60),
        (CFk(epochs=2), 2 * 60),
        (EUk(epochs=2), 2 * 60),
        (EUk(k=3, epochs=2), 2 * 60),
        (Rewind(epochs=2), 2 * 60),
        (UNDO(epochs=2), 4 / 3 * 2 * 60),
        (UNDO(a=0.0, epochs=3), 4 / 3 * 3 * 60),
        (SCRUB(epochs=2, max_epochs=1), 4 / 3 * (2 * 60 + 24)),
        (SCRUB(epochs=3, max_epochs=2, forget_batch_size=5), 4 / 3 * (3 * 60 + 2 * 24)),
        (SCRUB(epochs=1, max_epochs=0), 4 / 3 * 60),
        (NegGradPlus(epochs=2, forget_batch_size=8), 2 * (60 + 4 * 8)),  # four steps a pass
        (NegGradPlus(epochs=1, forget_batch_size=100), 60 + 4 * 24),
        (GA(), 24),
        (GA(epochs=5, batch_size=7), 5 * 24),
        *((method(epochs=2, batch_size=7), 2 * 60) for method in (GD, NGD, CFk, EUk, Rewind, Short)),
        *((method(epochs=2, batch_size=7, optimizer="adam"), 2 * 60) for method in (GD, NGD, CFk, EUk, Rewind, Short)),
        (UNDO(epochs=2, batch_size=7), 4 / 3 * 2 * 60),
        (SCRUB(epochs=2, batch_size=7, max_epochs=1), 4 / 3 * (2 * 60 + 24)),
        (SCRUB(epochs=2, min_epochs=1, max_epochs=3), 4 / 3 * (2 * 60 + 3 * 24)),
        (NegGradPlus(epochs=2, batch_size=7, forget_batch_size=8), 2 * (60 + 9 * 8)),  # nine steps a pass
        (L1Sparse(epochs=2, batch_size=7), 2 * 60),
        (SalUn(epochs=2, batch_size=7), 24 + 2 * (60 + 24)),
        (BadTeacher(epochs=2, batch_size=7), 5 / 3 * 2 * (18 + 24)),
        (MSA(epochs=2, forget_epochs=3, batch_size=7), 2 * 60 + 3 * 24),
        (SCRUBR(epochs=2, max_epochs=1, min_epochs=3), 4 / 3 * (2 * 54 + 24) + 1 / 3 * (3 * 24 + 6)),
        (Influence(points=10, batch_size=7), 60 + 24 + 10),
        (Certified(epochs=2, noise_steps=6, batch_size=7), 2 * 60 + 6 * 7),
        # A pass over the retain set makes four steps; they take 16, 8, 16 and 8 of the forget set.
        (GradDiff(epochs=2), 2 * (60 + 48)),
        (NPO(epochs=2), 2 * (60 + 4 / 3 * 48)),
        (NPO(epochs=1, batch_size=7), 60 + 4 / 3 * (2 * 24 + 7)),  # nine steps
        (SimNPO(epochs=2, forget_batch_size=8), 2 * (60 + 4 * 8)),
        (UNDIAL(epochs=2), 4 / 3 * 2 * 24),
        (UNDIAL(epochs=2, alpha=1.0), 2 * (60 + 4 / 3 * 48)),
        (RMU(epochs=1, depth=1.0), 4 / 3 * 60 + 48),
        (RMU(epochs=1), 1 / 3 * (2 * 60 + 48)),  # what is counted ends where the backward pass does: before the layer
        (TaskArithmetic(epochs=2), 2 * 24),
        (SSD(), 60 + 24 + 24),
        (SSD(batch_size=7), 60 + 24 + 24),
    ],
)
@pytest.mark.parametrize("budget", [2.0, 100.0])
def test_the_stated_cost_is_what_is_measured(method, examples, budget):
    assert cost(method, 60, 24, 16, budget) == pytest.approx(examples)


def test_a_forget_batch_of_16_beside_128_retained_points_costs_an_eighth():
    assert cost(NegGradPlus(epochs=1, forget_batch_size=16), 256, 48, 128) == pytest.approx(9 / 8 * 256)


@pytest.mark.parametrize("method", SPENDING, ids=by_name)
def test_epochs_that_are_asked_for_are_made_whatever_the_budget(method):
    if issubclass(method, Trained):
        assert cost(method(epochs=3), 30, 10, 16, budget=0.01) == cost(method(epochs=3), 30, 10, 16, budget=9.0)


# ---- budgets that pay for nothing


@pytest.mark.parametrize("budget", [0.0, 0.01])
@pytest.mark.parametrize("method", SPENDING, ids=by_name)
def test_a_budget_that_pays_for_nothing_is_refused_in_one_sentence(method, budget):
    recipe = Layers()
    model = a_model(recipe)
    request = request_of(recipe, points(50, 1), points(10, 2), budget, history={0: state(model)})
    message = (
        f"a budget of {budget:g} passes over the retain set pays for no step of this method; raise --audit-budget, or "
        "set the method's epochs"
    )
    with pytest.raises(UnlearningError, match=f"^{re.escape(message)}$"):
        method()(model, request)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "method", [SCRUB, SSD, NegGradPlus, SCRUBR, SalUn, Influence, Potion, GradDiff, NPO, SimNPO, RMU], ids=by_name
)
def test_a_budget_that_the_forget_set_uses_up_is_refused(method):
    with pytest.raises(UnlearningError, match="pays for no step of this method"):
        cost(method(), retain=10, forget=40, batch_size=16, budget=1.0)


@pytest.mark.parametrize("budget", [1.0, 2.0])  # the second pays for a pass: 7 retained points and 4 beside them
def test_neggrad_plus_makes_a_step_or_says_that_it_cannot(budget):
    try:
        spent = cost(NegGradPlus(), retain=7, forget=4, batch_size=100, budget=budget)
    except UnlearningError:
        assert budget == 1.0
    else:
        assert 0 < spent <= budget * 7


def test_scrub_that_cannot_afford_an_example_in_every_min_epoch_says_so():
    with pytest.raises(UnlearningError, match="pays for no step of this method"):
        cost(SCRUB(max_epochs=3, min_epochs=3), retain=50, forget=10, batch_size=16, budget=4 / 3 * (3 * 10 + 2) / 50)


def test_gradient_ascent_makes_its_passes_over_the_forget_set_whatever_the_budget():
    assert cost(GA(), 50, 10, 16, budget=0.0) == pytest.approx(10)
