"""The fields that all methods share that train: batches, optimisers, rates; their defaults stay what they were."""

import numpy as np
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
    SSD,
    UNDIAL,
    UNDO,
    BadTeacher,
    Certified,
    CFk,
    EUk,
    GradDiff,
    L1Sparse,
    NegGradPlus,
    Rewind,
    SalUn,
    Short,
    SimNPO,
    TaskArithmetic,
)
from linear import PLAIN, Layers, Linear, Watched, a_model, points, request_of, softmax, state
from torch import nn

from harness.api import Batch
from unlearners._pairs import Paired
from unlearners._steps import optimizer_of
from unlearners._teachers import divergence

TRAINED = (
    GD, NGD, GA, CFk, EUk, Rewind, UNDO, SCRUB, NegGradPlus, Short, SalUn, L1Sparse, BadTeacher, MSA, Certified,
    GradDiff, NPO, SimNPO, UNDIAL, RMU, TaskArithmetic,
)  # fmt: skip


def by_name(method):
    return method.__name__


class WithAdam(Linear):
    """A recipe of two groups with rates of their own, and a weight that it leaves out."""

    def new_model(self):
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).double()

    def optimizer(self, model, lr=None):
        first, second = model
        rate = 1e-3 if lr is None else lr
        return torch.optim.AdamW([{"params": [first.weight]}, {"params": second.parameters(), "lr": rate / 2}], rate)


def left(method, recipe=None, budget=3.0):
    """Return the state that a method leaves of `Layers`, everything random being drawn from one seed."""
    recipe = recipe or Layers(batch_size=4)
    model = a_model(recipe)
    history = {1: {name: tensor / 2 for name, tensor in state(model).items()}}
    torch.manual_seed(7)
    return state(method(model, request_of(recipe, points(30, 1), points(7, 2), budget, seed=3, history=history)))


# ---- defaults


RATE = 0.1  # of the recipe
SCRUB_THEN = {"alpha": 0.383, "gamma": 1.0, "temperature": 4.0, "max_epochs": 1, "min_epochs": None}
#: Sum of the weights, and of their products with the cosines of 0, 1, 2, ..., that the methods left before they had
#: fields for batches and optimisers.
BEFORE = {
    GD(lr=RATE * 0.476, **PLAIN): (-0.7220978919384494, 0.7143538908405346),
    NGD(lr=RATE * 0.4805, variance=1.44e-4): (-0.7186677806742267, 0.7231575391689891),
    GA(lr=RATE * 0.02535): (-0.8996023822250877, 0.7446990522407987),
    CFk(lr=RATE * 2.355, k=2, **PLAIN): (-0.6582383730122303, 0.5845182563252825),
    EUk(lr=RATE * 5.0, k=1, **PLAIN): (0.5694723036140208, -0.46589234956351455),
    Rewind(lr=RATE * 1.51, to=0.1, **PLAIN): (-0.3825738153941542, 0.3903474985392702),
    UNDO(lr=RATE, a=0.7, scale=1.0, temperature=4.0, **PLAIN): (0.5281521801663026, -0.6226119411634412),
    SCRUB(lr=RATE * 0.1395, **SCRUB_THEN, **PLAIN): (
        -0.8577224727085917,
        0.740047063075761,
    ),
    NegGradPlus(lr=RATE * 0.17, beta=0.953, **PLAIN): (-0.8729815858325656, 0.7441975857649742),
    Short(lr=RATE, **PLAIN): (0.8357985367361804, -1.1491256949926643),
    SSD(alpha=23.7, dampening=0.792, batch_size=32): (-0.899317279458046, 0.744950174900684),
}


def summary(weights):
    flat = torch.cat([tensor.flatten() for tensor in weights.values()])
    return float(flat.sum()), float(flat @ torch.arange(len(flat), dtype=flat.dtype).cos())


@pytest.mark.parametrize("method", BEFORE, ids=lambda method: type(method).__name__)
def test_methods_do_what_they_did(method):
    assert summary(left(method)) == pytest.approx(BEFORE[method], rel=1e-9)


# ---- batches


@pytest.mark.parametrize("method", TRAINED, ids=by_name)
def test_batches_are_as_large_as_is_asked_for(method):
    largest = {}
    for size in (None, 5):
        recipe = Watched(Layers(batch_size=8))
        fields = {"max_epochs": 1, "min_epochs": None} if method is SCRUB else {}
        left(method(batch_size=size, **fields), recipe, budget=2.0)
        sizes = [len(call.batch) for call in recipe.calls if call.gradient]
        # SCRUB takes the forget set first, and NegGrad+ a batch of it in every step, of their own size.
        largest[size] = max(sizes[1:] if method is SCRUB else sizes[::2] if method is NegGradPlus else sizes)
    # A single point that is left joins the batch before.
    assert largest[None] - (7 if method in (GA, UNDIAL, TaskArithmetic) else 8) in (0, 1)
    assert largest[5] in (5, 6)


@pytest.mark.parametrize("method", TRAINED, ids=by_name)
def test_smaller_batches_see_the_same_examples_in_more_steps(method):
    seen = []
    for size in (15, 3):
        recipe = Watched(Layers(batch_size=15))
        left(method(batch_size=size), recipe, budget=4.0)
        calls = [call.batch for call in recipe.calls if call.gradient]
        seen.append((len(calls), sum(map(len, calls))))
    (few, examples), (many, same) = seen
    assert few < many
    if method is UNDIAL or not issubclass(method, Paired):  # which take a forget batch for every step
        assert examples == same


# ---- optimisers


@pytest.mark.parametrize("method", TRAINED, ids=by_name)
def test_every_optimiser_leaves_other_weights(method):
    results = [left(method(optimizer=kind, **extra(method))) for kind in ("recipe", "adam", "sgd")]
    assert len({summary(each) for each in results}) == 3
    assert all(bool(tensor.isfinite().all()) for each in results for tensor in each.values())


def extra(method):
    """The first max epoch of SCRUB starts where the distance is flat; a weight of 100 is too much for SGD in RMU."""
    return {SCRUB: {"max_epochs": 2}, RMU: {"alpha": 1.0}}.get(method, {})


def test_adam_by_hand():
    model = a_model(Linear())
    before = state(model)["weight"].numpy()
    retain = points(7, 1)
    GD(optimizer="adam", lr=0.3, epochs=1)(model, request_of(Linear(), retain, points(4, 2)))
    moved = model.weight.detach().numpy() - before
    # The first step of Adam is as large as the rate, wherever it goes.
    assert np.allclose(np.abs(moved), 0.3, rtol=1e-5)


def test_sgd_has_momentum_and_no_decay():
    class Decaying(Linear):
        def optimizer(self, model, lr=None):
            return torch.optim.SGD(model.parameters(), 0.1 if lr is None else lr, weight_decay=0.5)

    model = a_model(Linear())
    found = optimizer_of(request_of(Decaying(), points(7, 1), points(4, 2)), model, GD(optimizer="sgd"))
    (group,) = found.param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 0, False)


@pytest.mark.parametrize(
    ("recipe", "kind", "lr", "rates"),
    [
        (Linear(), "recipe", None, [0.01495]),
        (Linear(), "sgd", None, [0.01495]),
        (Linear(), "adam", None, [0.0001495]),
        (Linear(), "adam", 0.3, [0.3]),
        (WithAdam(), "recipe", None, [0.0001495, 0.00007475]),
        (WithAdam(), "adam", None, [0.0001495, 0.00007475]),
        (WithAdam(), "sgd", None, [0.01495, 0.007475]),
        (WithAdam(), "sgd", 0.3, [0.3, 0.15]),
    ],
)
def test_a_default_rate_suits_the_optimiser_and_a_given_one_is_taken(recipe, kind, lr, rates):
    model = recipe.new_model()
    found = optimizer_of(request_of(recipe, points(7, 1), points(4, 2)), model, GD(optimizer=kind, lr=lr))
    assert [group["lr"] for group in found.param_groups] == pytest.approx(rates)
    kinds = {"recipe": type(recipe.optimizer(model)), "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    assert type(found) is kinds[kind]


@pytest.mark.parametrize("kind", ["recipe", "adam", "sgd"])
def test_what_the_recipe_leaves_out_stays(kind):
    recipe = WithAdam()
    model = a_model(recipe)
    before = state(model)
    GD(optimizer=kind, lr=0.1, epochs=2)(model, request_of(recipe, points(7, 1), points(4, 2)))
    changed = {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"0.weight", "1.weight", "1.bias"}


def test_short_follows_the_recipes_schedule_with_any_optimiser():
    rates = []

    class Noted(Linear):
        def schedule(self, optimizer, steps):
            rates.append((type(optimizer), optimizer.param_groups[0]["lr"], steps))
            return super().schedule(optimizer, steps)

    for short in (Short(), Short(optimizer="adam", batch_size=3), Short(lr=0.7, epochs=2)):
        short(None, request_of(Noted(batch_size=7), points(7, 1), points(4, 2), budget=3.0))
    sgd, adam = torch.optim.SGD, torch.optim.Adam
    assert [(kind, steps) for kind, _, steps in rates] == [(sgd, 3), (adam, 6), (sgd, 2)]
    assert [rate for _, rate, _ in rates] == pytest.approx([0.0309, 0.000309, 0.7])


# ---- distance to a teacher


def batch_of(n, **inputs):
    tensors = {name: torch.tensor(each) for name, each in inputs.items()}
    return Batch(tensors, torch.zeros(n, dtype=torch.int64), torch.arange(n))


def kl(teacher, student, t):
    p, q = (softmax(z.numpy() / t) for z in (teacher, student))
    return t**2 * (p * np.log(p / q)).sum(axis=1)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_the_divergence_is_that_of_the_paper(t):
    teacher, student = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = divergence(teacher, student, t, batch_of(5))
    assert float(found) == pytest.approx(kl(teacher, student, t).mean(), rel=1e-12)


@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize(
    ("length", "scored"),
    [
        (None, [5, 5, 5]),  # all but the last position, which no token follows
        ([6, 6, 6], [5, 5, 5]),
        ([6, 3, 1], [5, 2, 1]),
        ([4, 4, 2], [5, 5, 3]),  # two tokens of a question behind each text
    ],
)
def test_the_divergence_of_texts_is_the_mean_over_their_tokens(t, length, scored):
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    batch = batch_of(3) if length is None else batch_of(3, length=length)
    each = [kl(teacher[text].T[:positions], student[text].T[:positions], t) for text, positions in enumerate(scored)]
    assert float(divergence(teacher, student, t, batch)) == pytest.approx(np.concatenate(each).mean(), rel=1e-12)
