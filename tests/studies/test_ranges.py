"""Where the fields of methods lie in the ranges that are searched."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest

from harness import registry
from harness.api import Search
from harness.studies.ranges import Recipe, edges, inside, placed, positions

TINY, DIGITS = registry.resolve("task", "tiny:Tiny"), registry.resolve("task", "digits-cnn")


def every_method():
    return registry.resolve_all("unlearner", ["all", "short"])


def test_every_method_says_where_to_search():
    for method in every_method():
        space = registry.searches(method)
        assert space, method.id
        assert set(space) <= set(method.fields)
        defaults = positions(method, Recipe.of(DIGITS))
        assert set(defaults) == set(space), method.id
        for name, found in space.items():
            assert inside(found, defaults[name]), f"{method.id}: {name}"


def test_no_default_lies_on_the_edge_of_its_range():
    assert {method.id: edges(method, Recipe.of(DIGITS)) for method in every_method()} == {
        method.id: {} for method in every_method()
    }


# ---- what ranges count in


@dataclass(frozen=True)
class Counting:
    """Has a field of every kind."""

    lr: Annotated[float | None, Search(0.1, 10, log=True, of="rate")] = None
    k: Annotated[int, Search(0.01, 1, of="blocks")] = 2
    low: Annotated[float, Search(0.1, 100, log=True)] = 2.0
    high: Annotated[float, Search(0.1, 10, log=True, of="low")] = 6.0
    beta: Annotated[float, Search(1e-4, 0.5, log=True, below=1.0)] = 0.9
    size: Annotated[int | None, Search(choices=(None, 16))] = None

    lr_of_recipe: ClassVar[float] = 0.5

    def __call__(self, model, request):
        return model


@dataclass(frozen=True)
class TwoRates(Counting):
    """Its rate counts in another unit."""

    def lr_unit(self, optimizer):
        return optimizer.param_groups[0]["lr"] * self.low


def test_fields_are_where_their_ranges_say():
    counting, recipe = registry.resolve("unlearner", "test_ranges:Counting"), Recipe.of(TINY)  # rate .1, two blocks
    at = positions(counting, recipe)
    assert at == {"lr": 0.5, "k": 0.75, "low": 2.0, "high": 3.0, "beta": pytest.approx(0.1), "size": None}
    fields = {"lr": 0.05, "k": 2, "low": 2.0, "high": 6.0, "beta": 0.9, "size": None}
    assert placed(counting, recipe, at).fields == fields
    elsewhere = {"lr": 2.0, "k": 0.3, "low": 50.0, "high": 0.1, "beta": 0.000123, "size": 16}
    found = placed(counting, recipe, elsewhere).fields
    assert found == {"lr": 0.2, "k": 1, "low": 50.0, "high": 5.0, "beta": 0.999877, "size": 16}
    assert placed(registry.resolve("unlearner", "test_ranges:TwoRates"), recipe, elsewhere).fields["lr"] == 10.0


@pytest.mark.parametrize("blocks", [1, 2, 4, 9, 26, 49])
def test_every_number_of_blocks_comes_back_from_its_share(blocks):
    recipe = Recipe(None, blocks)
    for k in range(1, blocks + 1):
        method = registry.resolve("unlearner", f"cfk:k={k},lr=1")
        share = float(f"{recipe_share(method, blocks):.3g}")
        assert placed(method, recipe, {"k": share}).fields["k"] == k
    for share, k in ((0.01, 1), (1.0, blocks)):
        assert placed(method, recipe, {"k": share}).fields["k"] == k


def recipe_share(method, blocks):
    return positions(registry.with_fields(method, {"lr": None}), Recipe(Recipe.of(TINY).optimizer, blocks))["k"]


def test_a_rate_of_adam_counts_in_a_hundredth_of_that_of_sgd():
    adam, recipe = registry.resolve("unlearner", "gd:optimizer=adam"), Recipe.of(TINY)
    assert placed(adam, recipe, {"optimizer": "adam", "lr": 2.0}).fields["lr"] == 0.002
    assert placed(adam, recipe, {"optimizer": "sgd", "lr": 2.0}).fields["lr"] == 0.2
    assert placed(adam, recipe, {"optimizer": "recipe", "lr": 2.0}).fields["lr"] == 0.2


# ---- edges


@dataclass(frozen=True)
class Edges:
    """Has a field of every kind that has an edge, or none."""

    rate: Annotated[float, Search(0.01, 100, log=True)] = 1.0
    linear: Annotated[float, Search(0.0, 10.0)] = 5.0
    relative: Annotated[float, Search(0.1, 10, log=True, of="rate_field")] = 3.0
    rate_field: Annotated[float, Search(0.1, 100, log=True)] = 2.0
    beta: Annotated[float, Search(1e-4, 0.5, log=True, below=1.0)] = 0.99
    passes: Annotated[int, Search(1, 10)] = 1
    steps: Annotated[int, Search(5, 50)] = 20
    epochs: Annotated[int, Search(0, 5)] = 0
    k: Annotated[int, Search(0.01, 1, of="blocks")] = 2
    half: Annotated[int, Search(0.01, 0.5, of="blocks")] = 2
    size: Annotated[int | None, Search(choices=(None, 8, 64))] = 8

    def __call__(self, model, request):
        return model


def at_an_edge(blocks=6, **fields):
    method = registry.with_fields(registry.resolve("unlearner", "test_ranges:Edges"), fields)
    return edges(method, Recipe(None, blocks))


def test_in_the_middle_there_is_no_edge():
    assert at_an_edge() == {}


@pytest.mark.parametrize(
    ("field", "value", "end"),
    [
        ("rate", 0.01, "lower"), ("rate", 0.0157, "lower"), ("rate", 0.016, ""), ("rate", 63.5, "upper"),
        ("rate", 62.0, ""), ("linear", 0.49, "lower"), ("linear", 0.51, ""), ("linear", 10.0, "upper"),
        ("relative", 19.0, "upper"), ("relative", 0.21, "lower"), ("relative", 1.0, ""),
        ("beta", 0.9999, "upper"), ("beta", 0.51, "lower"), ("beta", 0.7, ""),
        ("passes", 1, ""), ("passes", 9, ""), ("passes", 10, "upper"), ("steps", 5, "lower"), ("steps", 6, ""),
        ("epochs", 5, "upper"), ("k", 1, ""), ("k", 6, ""), ("half", 3, "upper"), ("size", None, ""), ("size", 64, ""),
    ],
)  # fmt: skip
def test_edges_are_the_outer_twentieth_where_something_lies_beyond(field, value, end):
    assert at_an_edge(**{field: value}) == ({field: end} if end else {})
