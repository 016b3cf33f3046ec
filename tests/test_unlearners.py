"""The methods, against computations by hand and against their budget."""

import copy

import numpy as np
import pytest
import torch
from tiny import Tiny
from torch import nn

from harness import registry
from harness.api import ForgetRequest
from harness.compute import Meter
from harness.data import Data
from unlearners.controls import Identity, Retrain, Short, Wrecked
from unlearners.gd import GD
from unlearners.scrub import SCRUB


class Linear:
    """Two classes, three inputs, no bias, plain SGD: small enough to compute by hand."""

    epochs, batch_size = 4, 100

    def new_model(self):
        return nn.Linear(3, 2, bias=False).double()

    def logits(self, model, batch):
        return model(batch.inputs["x"])

    def criterion(self, logits, batch):
        return nn.functional.cross_entropy(logits, batch.labels)

    def optimizer(self, model, lr=None):
        return torch.optim.SGD(model.parameters(), lr or 0.1)

    def schedule(self, optimizer, steps):
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def blocks(self, model):
        return [model]


def request_of(recipe, retain, forget, budget=1.0, seed=0):
    return ForgetRequest(retain, forget, budget, torch.Generator().manual_seed(seed), torch.device("cpu"), recipe)


def points(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return Data({"x": x}, torch.randint(0, 2, (n,), generator=generator))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Linear().new_model()


@pytest.fixture
def request_():
    return request_of(Linear(), points(7, 1), points(4, 2))


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def arrays(data):
    return data.inputs["x"].numpy(), data.labels.numpy()


def cross_entropy_gradient(w, x, y):
    p = softmax(x @ w.T)
    p[np.arange(len(y)), y] -= 1
    return p.T @ x / len(y)


def kl_gradient(w, x, teacher, t):
    """Gradient of t^2 KL(softmax(x teacher / t) || softmax(x w / t)), mean over the rows, with respect to w."""
    return t * (softmax(x @ w.T / t) - softmax(x @ teacher.T / t)).T @ x / len(x)


def falling(lr, steps):
    """Return the rate of every step: it falls linearly, and would reach zero after the last one."""
    return [lr * (1 - step / steps) for step in range(steps)]


def weights(model):
    return model.weight.detach().numpy().copy()


# ---- GD


@pytest.mark.parametrize("epochs", [1, 3])
def test_gd_is_gradient_descent_on_the_retain_set_at_a_falling_rate(model, request_, epochs):
    w = weights(model)
    x, y = arrays(request_.retain)
    for rate in falling(0.3, epochs):
        w -= rate * cross_entropy_gradient(w, x, y)
    after = GD(lr=0.3, epochs=epochs)(model, request_)
    assert np.allclose(weights(after), w, rtol=1e-12, atol=1e-12)


def test_gd_steps_through_batches_in_the_order_of_the_request(model):
    recipe = Linear()
    recipe.batch_size = 3
    w = weights(model)
    batches = request_of(recipe, points(7, 1), points(4, 2), seed=5).batches("retain", epochs=2)
    for rate, batch in zip(falling(0.3, 6), batches, strict=True):
        w -= rate * cross_entropy_gradient(w, batch.inputs["x"].numpy(), batch.labels.numpy())
    GD(lr=0.3, epochs=2)(model, request_of(recipe, points(7, 1), points(4, 2), seed=5))
    assert np.allclose(weights(model), w, rtol=1e-12, atol=1e-12)


def test_gd_never_reads_the_forget_set(model):
    results = [
        weights(GD(epochs=2)(copy.deepcopy(model), request_of(Linear(), points(7, 1), points(4, s)))) for s in (2, 3)
    ]
    assert np.array_equal(*results)


# ---- SCRUB


@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 0.5])
def test_a_min_step_descends_on_loss_and_distance(model, request_, t, gamma):
    teacher = w = weights(model)
    x, y = arrays(request_.retain)
    for rate in falling(0.5, 3):  # from the second step on the student has moved away, and the distance pulls
        w = w - rate * (gamma * cross_entropy_gradient(w, x, y) + 2.0 * kl_gradient(w, x, teacher, t))
    SCRUB(lr=0.5, alpha=2.0, gamma=gamma, temperature=t, max_epochs=0, epochs=3)(model, request_)
    assert np.allclose(weights(model), w, rtol=1e-10, atol=1e-12)
    assert (gamma == 0) == np.allclose(weights(model), teacher, atol=1e-12)


@pytest.mark.parametrize("t", [1.0, 2.0, 4.0])
def test_a_max_step_ascends_on_distance(model, request_, t):
    teacher = weights(model)
    xf, _ = arrays(request_.forget)
    x, y = arrays(request_.retain)
    _, second, third, fourth = falling(0.5, 4)
    w = teacher - second * cross_entropy_gradient(teacher, x, y)  # epoch 1: at the teacher the distance is flat
    without = w
    w = w + third * kl_gradient(w, xf, teacher, t)  # epoch 2
    assert not np.allclose(w, without, atol=1e-4)
    w = w - fourth * cross_entropy_gradient(w, x, y)
    SCRUB(lr=0.5, alpha=0.0, temperature=t, max_epochs=2, epochs=2)(model, request_)
    assert np.allclose(weights(model), w, rtol=1e-10, atol=1e-12)


def test_max_epochs_come_first_and_stop(model):
    seen = []

    class Spy(Linear):
        def logits(self, model, batch):
            seen.append(len(batch))
            return super().logits(model, batch)

    SCRUB(max_epochs=1, epochs=3, forget_batch_size=3)(model, request_of(Spy(), points(7, 1), points(4, 2)))
    # Teacher and student see every batch: the forget set once in batches of 3, the retain set three times.
    assert seen == [3, 3, 1, 1, 7, 7, 7, 7, 7, 7]


def test_the_teacher_never_moves(model):
    teachers = []

    class Spy(Linear):
        def logits(self, given, batch):
            if not torch.is_grad_enabled():
                teachers.append((given, weights(given), given.training))
            return super().logits(given, batch)

    before = weights(model)
    SCRUB(lr=1.0, epochs=3)(model, request_of(Spy(), points(7, 1), points(4, 2)))
    assert len(teachers) == 4
    assert all(np.array_equal(w, before) for _, w, _ in teachers)
    assert not any(training for _, _, training in teachers)
    assert all(given is not model for given, _, _ in teachers)
    assert not np.array_equal(weights(model), before)


def test_the_divergence_is_that_of_the_paper():
    teacher, student = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    t = 4.0
    p, q = (softmax(z.numpy() / t) for z in (teacher, student))
    by_hand = t**2 * (p * np.log(p / q)).sum(axis=1).mean()
    assert float(SCRUB(temperature=t)._divergence(teacher, student)) == pytest.approx(by_hand, rel=1e-12)


# ---- controls


def test_identity_returns_the_model_as_it_came(model, request_):
    before = weights(model)
    assert Identity()(model, request_) is model
    assert np.array_equal(weights(model), before)


@pytest.mark.parametrize("method", [Retrain(), Short(), Wrecked()], ids=lambda m: type(m).__name__)
def test_methods_from_scratch_use_neither_the_model_nor_the_forget_set(model, method):
    results = []
    for start, forget in ((1.0, 2), (float("nan"), 3)):
        torch.manual_seed(0)
        given = copy.deepcopy(model)
        nn.init.constant_(given.weight, start)
        results.append(weights(method(given, request_of(Linear(), points(7, 1), points(4, forget)))))
    assert method.from_scratch
    assert np.array_equal(*results)


def test_a_wreck_is_freshly_initialised(request_):
    torch.manual_seed(3)
    expected = weights(Linear().new_model())
    torch.manual_seed(3)
    assert np.array_equal(weights(Wrecked()(None, request_)), expected)


def test_retraining_follows_the_recipe(request_):
    torch.manual_seed(3)
    w = weights(Linear().new_model())
    x, y = arrays(request_.retain)
    for _ in range(4):
        w -= 0.1 * cross_entropy_gradient(w, x, y)
    torch.manual_seed(3)
    assert np.allclose(weights(Retrain()(None, request_)), w, rtol=1e-12)


@pytest.mark.parametrize(("budget", "epochs"), [(0.3, 1), (1.0, 1), (1.99, 1), (2.0, 2), (0.1 * 30, 3), (3.5, 3)])
def test_short_and_gd_make_as_many_passes_as_they_may(model, budget, epochs):
    request = request_of(Linear(), points(7, 1), points(4, 2), budget)
    for method in (Short(), GD()):
        with Meter(model) as meter:
            method(copy.deepcopy(model), request)
        assert meter.examples == pytest.approx(7 * epochs)


# ---- budgets


def request_on(task, fraction, forget_share=0.1):
    train = task.load(None).train
    k = round(forget_share * len(train))
    return request_of(
        task, train.subset(torch.arange(k, len(train))), train.subset(torch.arange(k)), fraction * task.epochs
    )


@pytest.mark.parametrize("name", ["gd", "scrub", "short", "identity", "wrecked"])
@pytest.mark.parametrize(
    ("task", "fraction"), [("digits-cnn", 0.1), *[("tiny:Tiny:epochs=20", x) for x in (0.1, 0.15, 0.3)]]
)
def test_defaults_stay_within_the_budget(task, name, fraction):
    recipe = registry.resolve("task", task).value
    request = request_on(recipe, fraction)
    torch.manual_seed(0)
    model = recipe.new_model()
    with Meter(model) as meter:
        registry.resolve("unlearner", name).value(model, request)
    assert meter.examples <= fraction * recipe.epochs * len(request.retain) * (1 + 1e-9)
    if name in ("gd", "short"):  # and use it
        assert meter.examples == pytest.approx(int(fraction * 20 + 1e-9) * len(request.retain))


@pytest.mark.parametrize("max_epochs", [0, 1, 3])
@pytest.mark.parametrize("budget", [2.0, 3.0, 4.0, 5.5])
def test_scrub_uses_as_many_epochs_as_the_budget_pays_for(budget, max_epochs):
    recipe = Tiny(epochs=20)
    request = request_on(recipe, budget / 20)
    costs = []
    for extra in (0, 1):
        model = recipe.new_model()
        affordable = SCRUB(max_epochs=max_epochs)._affordable(request)
        method = SCRUB(max_epochs=max_epochs, epochs=affordable + 1 if extra else None)
        with Meter(model) as meter:
            method(model, request)
        costs.append(meter.examples)
    allowed = budget * len(request.retain)
    assert costs[0] <= allowed * (1 + 1e-9)
    assert costs[1] > allowed


def test_the_stated_cost_of_scrub_is_what_is_measured():
    request = request_on(Tiny(), 0.5)
    model = Tiny().new_model()
    with Meter(model) as meter:
        SCRUB(epochs=2)(model, request)
    assert meter.examples == pytest.approx(4 / 3 * (2 * 216 + 24))


# ---- fields


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (GD, {"lr": 0}),
        (GD, {"lr": -1}),
        (GD, {"lr": float("nan")}),
        (GD, {"epochs": 0}),
        (SCRUB, {"lr": 0}),
        (SCRUB, {"temperature": 0}),
        (SCRUB, {"temperature": float("nan")}),
        (SCRUB, {"alpha": -0.1}),
        (SCRUB, {"gamma": -0.1}),
        (SCRUB, {"max_epochs": -1}),
        (SCRUB, {"forget_batch_size": 0}),
        (SCRUB, {"epochs": 0}),
    ],
)
def test_fields_out_of_range_are_refused(method, fields):
    with pytest.raises(ValueError, match="must"):
        method(**fields)


def test_weights_without_a_number_are_refused():
    with pytest.raises(ValueError, match="must"):
        SCRUB(alpha=float("nan"))
