"""What trials share, what a trial shows, and that it is the same anywhere, on a task that trains in milliseconds."""

import random

import numpy as np
import pytest
import torch
from labs import (
    BACKDOOR,
    GAUSSIAN,
    GD,
    IDENTITY,
    RETRAIN,
    SHORT,
    TINY,
    WRECKED,
    Watch,
    built,
    lab_in,
    method,
    records,
    trial,
)
from torch import nn

from harness import registry
from harness.cells import Cell, Trial

# ---- what is shared


def test_the_second_method_pays_for_its_own_model_only(lab):
    assert built(lab, IDENTITY) == ["P", "R", "U"]
    assert built(lab, GD) == ["U"]
    assert built(lab, SHORT) == ["U"]


def test_poisons_of_one_block_share_retrained_models(lab):
    assert built(lab, RETRAIN) == ["P", "R", "U"]
    assert built(lab, RETRAIN, GAUSSIAN) == ["P"]
    assert built(lab, SHORT, BACKDOOR) == ["U"]
    assert built(lab, SHORT, GAUSSIAN) == []
    assert built(lab, GD, BACKDOOR) == ["U"]
    assert built(lab, GD, GAUSSIAN) == ["U"]


def test_poisons_of_other_blocks_share_nothing(lab):
    assert built(lab, RETRAIN) == ["P", "R", "U"]
    assert built(lab, RETRAIN, registry.resolve("poison", "backdoor:fraction=0.2")) == ["P", "R", "U"]


def test_seeds_share_nothing(lab):
    assert built(lab, RETRAIN) == ["P", "R", "U"]
    assert built(lab, RETRAIN, seed=1) == ["P", "R", "U"]


def test_a_second_run_makes_nothing(lab, tmp_path):
    first = lab.run(trial(GD, GAUSSIAN))
    again = lab_in(tmp_path / "store", "another run").run(trial(GD, GAUSSIAN))
    assert first.made_here
    assert not again.made_here
    assert again.cost["built"] == []
    assert again.readings == first.readings
    assert again.cost["unlearn_fraction"] == first.cost["unlearn_fraction"]


def test_an_edited_field_makes_a_new_unlearned_model_only(lab):
    lab.run(trial(GD))
    assert built(lab, registry.resolve("unlearner", "gd:lr=0.5")) == ["U"]


def test_edited_source_makes_a_new_unlearned_model_only(lab, tmp_path):
    lab.run(trial(GD))
    edited = registry.Registered(
        "unlearner", GD.id, GD.name, GD.value, GD.fields, GD.distribution, GD.version, "edited"
    )
    assert built(lab_in(tmp_path / "store", "later"), edited) == ["U"]


def test_another_budget_makes_a_new_unlearned_model_only(lab, tmp_path):
    lab.run(trial(GD))
    assert built(lab_in(tmp_path / "store", "later", budget=0.3), GD) == ["U"]


def test_another_recipe_makes_everything_anew(lab):
    lab.run(trial(RETRAIN))
    other = registry.resolve("task", "tiny:Tiny:epochs=2")
    assert lab.run(Trial(Cell(RETRAIN, other, BACKDOOR), 0)).cost["built"] == ["P", "R", "U"]


def test_what_is_missing_is_told_without_training(lab, tmp_path):
    assert sorted(lab.missing(trial(GD))) == ["P", "R", "U"]
    assert records(tmp_path, "model") == []
    lab.run(trial(RETRAIN))
    assert sorted(lab.missing(trial(GD))) == ["U"]
    assert lab.missing(trial(RETRAIN)) == {}
    assert sorted(lab.missing(trial(RETRAIN, GAUSSIAN))) == ["P"]


def test_equal_weights_are_measured_once(lab, tmp_path):
    lab.run(trial(IDENTITY))
    assert len(records(tmp_path, "value")) == 5  # two measures of P, which is U, and of R, and how near U is
    lab.run(trial(method(Watch(), "another identity")))
    assert len(records(tmp_path, "value")) == 5


# ---- what it costs, and shows


def test_costs_are_exact_fractions_of_retraining(lab):
    fractions = {m.name: lab.run(trial(m)).cost["unlearn_fraction"] for m in (RETRAIN, IDENTITY, WRECKED, SHORT, GD)}
    assert fractions["retrain"] == pytest.approx(1, rel=1e-12)
    assert (fractions["identity"], fractions["wrecked"]) == (0, 0)
    assert fractions["short"] == pytest.approx(0.1, rel=1e-12)
    assert fractions["gd"] == pytest.approx(0.1, rel=1e-12)


def test_retraining_costs_its_epochs_times_the_retain_set(lab):
    cost = lab.run(trial(RETRAIN)).cost
    assert cost["train_examples"] == 10 * (240 - 24)
    assert cost["unlearn_examples"] == pytest.approx(2160)
    assert set(cost["seconds"]) == {"P", "R", "U"}


def test_readings_tell_the_controls_apart(lab):
    identity, retrain, wrecked = (lab.run(trial(m)).readings for m in (IDENTITY, RETRAIN, WRECKED))
    assert identity["poison"]["P"] == identity["poison"]["U"]
    assert identity["poison"]["P"].value > 0.9
    assert identity["poison"]["R"].value < 0.3
    assert retrain["poison"]["U"].value < 0.5
    assert retrain["accuracy"]["U"].value > 0.9
    assert wrecked["accuracy"]["U"].value < 0.8
    assert retrain["accuracy"]["U"].resolution == pytest.approx(0.5 / 180)


def test_retraining_once_more_shares_neither_initialisation_nor_order(lab, tmp_path):
    lab.run(trial(RETRAIN))
    made = records(tmp_path, "model")
    assert len(made) == 3
    assert len({record["blob"] for record in made}) == 3


def test_a_diverged_model_reads_as_no_number(lab):
    def diverge(model, request):
        with torch.no_grad():
            next(model.parameters())[0, 0] = float("nan")
        return model

    for _ in range(2):  # the second time from the store
        readings = lab.run(trial(method(diverge))).readings
        for name in ("poison", "accuracy"):
            assert np.isnan(readings[name]["U"].value)
            assert np.isfinite(readings[name]["P"].value)


def test_a_measure_that_reads_no_number_is_stored_as_none(lab, tmp_path):
    poison = registry.resolve("poison", "labs:Plain")
    result = lab.run(trial(IDENTITY, poison))
    assert result.readings["poison"]["U"].details == {"strange": None}


# ---- the same anywhere


def random_states():
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
        torch.get_rng_state().tolist(),
    )


def gambler(model, request):
    """Draw from every global generator, and leave them seeded by a constant."""
    noise = torch.randn(()) + random.random() + np.random.rand()
    with torch.no_grad():
        model[1].bias += noise.float()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return model


def with_a_loader(model, request):
    optimizer = request.optimizer(model)
    dropout = nn.Dropout(0.5)
    for inputs, labels in torch.utils.data.DataLoader(request.retain, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(dropout(inputs["image"])), labels).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("function", [gambler, with_a_loader])
def test_the_global_random_state_is_put_back(lab, function):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random_states()
    lab.run(trial(method(function)))
    lab.run(trial(SHORT, GAUSSIAN))
    lab.cost(TINY)
    assert random_states() == before


@pytest.mark.parametrize("function", [gambler, with_a_loader])
def test_the_same_trial_has_the_same_weights_wherever_it_is_run(tmp_path, function):
    each = method(function)
    one, other = lab_in(tmp_path / "one"), lab_in(tmp_path / "other")
    one.run(trial(each))
    one.run(trial(each, seed=1))
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    other.run(trial(each, GAUSSIAN, seed=1))  # another order, and more of it
    other.run(trial(each, seed=1))
    other.run(trial(each))
    made = [
        {r["key"]: r["blob"] for r in records(folder, "model")} for folder in (tmp_path / "one", tmp_path / "other")
    ]
    assert made[0].items() <= made[1].items()
    assert len(made[0]) == 6


def test_a_method_draws_differently_for_every_seed(lab):
    firsts = []

    def draw(model, request):
        firsts.append((float(torch.rand(())), float(torch.rand((), generator=request.generator))))
        return model

    for seed in (0, 1):
        lab.run(trial(method(draw), seed=seed))
    assert firsts[0][0] != firsts[1][0]
    assert firsts[0][1] != firsts[1][1]
