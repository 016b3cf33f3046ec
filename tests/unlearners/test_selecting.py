"""Methods that choose: SalUn its weights, SCRUB+R its epoch, Potion its step."""

import numpy as np
import pytest
import torch
from linear import Layers, Normalised, Watched, a_model, arrays, points, request_of, same, softmax, state, weights

from harness.api import UnlearningError
from harness.training.data import Data
from unlearners._errors import error
from unlearners.potion import STEP, Potion
from unlearners.salun import SalUn
from unlearners.scrub_r import SCRUBR


class Momentum(Normalised):
    def optimizer(self, model, lr=None):
        return torch.optim.SGD(model.parameters(), 0.1 if lr is None else lr, momentum=0.9, weight_decay=0.01)


def made_by(method, recipe, retain, forget, budget=9.0):
    model = a_model(recipe)
    before = state(model)
    watched = Watched(recipe)
    torch.manual_seed(5)
    after = method(model, request_of(watched, retain, forget, budget, seed=3))
    return before, state(after), watched.calls


# ---- SalUn


@pytest.mark.parametrize("salient", [0.1, 0.5, 1.0])
def test_salun_moves_the_salient_weights_alone(salient):
    before, after, calls = made_by(SalUn(salient=salient, epochs=2), Momentum(8), points(30, 1), points(7, 2))
    names = [name for name, _ in a_model(Momentum()).named_parameters()]
    moved = torch.cat([(after[name] != before[name]).flatten() for name in names])
    model = a_model(Momentum()).eval()
    x, y = arrays(points(7, 2))
    loss = torch.nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(y))
    sizes = torch.cat([g.abs().flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    expected = torch.zeros(len(sizes), dtype=torch.bool)
    expected[sizes.argsort(descending=True)[: int(salient * len(sizes))]] = True
    assert torch.equal(moved, expected)
    assert [call.training for call in calls] == [False] + [True] * (len(calls) - 1)


def test_salun_draws_labels_of_all_classes_anew_in_every_pass():
    forget = Data(points(50, 2).inputs, torch.zeros(50, dtype=torch.int64))
    _, _, calls = made_by(SalUn(epochs=3, batch_size=64), Momentum(64), points(60, 1), forget)
    rows = {tuple(row) for row in arrays(forget)[0]}
    passes = [call.batch for call in calls[1:] if tuple(call.arrays[0][0]) in rows]
    labels = [batch.labels[batch.index.argsort()].tolist() for batch in passes]
    assert len({tuple(each) for each in labels}) == 3
    assert all(10 < sum(each) < 40 for each in labels)


# ---- SCRUB+R


def test_scrub_r_returns_the_student_whose_forget_error_is_nearest_to_a_typical_one():
    method = SCRUBR(lr=0.5, epochs=5, batch_size=8, held_out=0.4, max_epochs=3, min_epochs=5)
    recipe, retain, forget = Momentum(8), points(30, 1), points(7, 2)
    _, after, calls = made_by(method, recipe, retain, forget)
    read = [call for call in calls if not call.gradient and not same(call.state, state(a_model(recipe)))]
    students, (typical,) = ([call for call in read if len(call.batch) == size] for size in (7, 12))
    trained = {tuple(row) for call in calls if call.gradient for row in call.arrays[0]}
    assert {tuple(row) for row in typical.arrays[0]} == {tuple(row) for row in arrays(retain)[0]} - trained
    assert not any(call.training for call in read)

    def wrong(call):
        model = recipe.new_model()
        model.load_state_dict(call.state)
        model.eval()
        return float((model(call.batch.inputs["x"]).argmax(1) != call.batch.labels).double().mean())

    assert len(students) == 5
    nearest = min(students, key=lambda call: abs(wrong(call) - wrong(typical)))
    assert same(after, nearest.state)
    assert not same(after, students[-1].state)


def test_scrub_r_without_points_of_the_kind_refuses():
    retain = Data(points(9, 1).inputs, torch.zeros(9, dtype=torch.int64))
    forget = Data(points(4, 2).inputs, torch.ones(4, dtype=torch.int64))
    with pytest.raises(UnlearningError, match="there are fewer than two; use scrub"):
        made_by(SCRUBR(), Layers(8), retain, forget)


def test_the_error_is_read_in_eval_mode_and_the_mode_is_put_back():
    recipe, data = Normalised(), points(9, 1)
    model = a_model(recipe)
    request = request_of(recipe, data, points(4, 2))
    before = state(model)
    found = error(request, model, data)
    x, y = arrays(data)
    assert found == pytest.approx(float((model.eval()(torch.tensor(x)).argmax(1).numpy() != y).mean()))
    model.train()
    error(request, model, data)
    assert model.training
    assert same(state(model), before)


# ---- Potion


def potion_by_hand(w, retain, forget, step):
    """Return the weights of a linear model after a step of the search, for full batches."""

    def importance(x):
        scores = x @ w.T
        return np.abs((scores / np.linalg.norm(scores, axis=1, keepdims=True)).T @ x / len(x))

    f_u, f_d = importance(arrays(forget)[0]), importance(arrays(retain)[0])
    share = len(forget) / (len(forget) + len(retain))
    threshold = np.percentile(f_u / f_d, 100 - np.log1p(4 * share * STEP**step))
    return np.where(f_u > threshold * f_d, np.minimum(f_d / f_u, 1) * w, w)


class Scores(Layers):
    def new_model(self):
        return torch.nn.Linear(3, 2, bias=False).double()


@pytest.mark.parametrize("rho", [0.3, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_potion_stops_at_a_step_that_suffices_after_one_that_does_not(rho, seed):
    retain, forget = points(20, seed), points(9, seed + 50)
    forget.inputs["x"][:, 2] *= 10
    w = weights(a_model(Scores()))
    forget.labels.copy_(torch.tensor((arrays(forget)[0] @ w.T).argmax(axis=1)))
    _, after, _ = made_by(Potion(rho=rho, batch_size=100), Scores(100), retain, forget, budget=50.0)

    def obeys(step):
        probabilities = softmax(arrays(forget)[0] @ potion_by_hand(w, retain, forget, step).T)
        return (probabilities.argmax(axis=1) == arrays(forget)[1]).mean()

    steps = [step for step in range(500) if np.allclose(potion_by_hand(w, retain, forget, step), after["weight"])]
    sufficient = [step for step in range(500) if obeys(step) <= rho]
    assert steps
    assert bool(set(steps) & set(sufficient)) == bool(sufficient)
    if not sufficient:
        assert steps[-1] == 499
    else:
        assert steps[0] == 0 or obeys(steps[0] - 1) > rho
