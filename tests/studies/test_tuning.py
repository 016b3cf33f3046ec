"""The tuner searches fields on seeds of its own, and forgets nothing that it tried."""

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import pytest
import torch

from harness import registry
from harness.api import Search, UnlearningError
from harness.cells import Cell, Trial
from harness.judging.plan import LOOKS
from harness.studies.tuning import FINAL_SEEDS, TUNING_SEEDS, Recipe, Score, _score, placed, positions, tune
from harness.trials.lab import Lab

TINY, DIGITS = registry.resolve("task", "tiny:Tiny"), registry.resolve("task", "digits-cnn")
POISONS = [registry.resolve("poison", "backdoor:size=1")]
ALLOWED = Score(left=0.5, accuracy=-0.001, cost=0.1, margin=0.01, budget=0.1)


@dataclass(frozen=True)
class Dose:
    """Descends on the retain set for a share of the budget; refuses more than .9 of it, and spends beyond it at .8."""

    lr: Annotated[float, Search(1e-3, 1.0, log=True)] = 0.1
    share: Annotated[float, Search(choices=(0.2, 0.5, 0.8, 0.95))] = 0.5
    passes: Annotated[int, Search(1, 2)] = 1
    fixed: float = 3.0

    reads_forget: ClassVar[bool] = False

    def __call__(self, model, request):
        if self.share > 0.9:
            raise UnlearningError("too large a share")
        examples = int(request.affordable() * (self.share if self.share < 0.8 else 1.5))
        optimizer = torch.optim.SGD(model.parameters(), self.lr)
        for batch in request.batches("retain", examples=examples):
            optimizer.zero_grad()
            request.loss(model, batch).backward()
            optimizer.step()
        return model


@pytest.fixture
def lab(tmp_path):
    return Lab.open(tmp_path / "store", device="cpu", budget=0.2)


def search(lab, settings, spec="test_tuning:Dose", kind=Score):
    """What was tuned, and what was seen on the way: the settings that were scored, or with ``str`` those given up."""
    seen = []
    tuned = tune(registry.resolve("unlearner", spec), TINY, POISONS, lab, settings,
                 lambda n, setting, score: seen.append((n, setting, score)))  # fmt: skip
    return tuned, [each for each in seen if isinstance(each[2], kind)]


def test_the_best_of_what_was_tried_is_chosen(lab):
    tuned, seen = search(lab, 12)
    assert tuned.settings == 12
    best = sorted(seen, key=lambda each: each[2].loss)[:5]
    assert tuned.unlearner in [setting for _, setting, _ in best]
    assert tuned.unlearner in [setting for _, setting, _ in seen]
    assert tuned.score.allowed
    assert tuned.unlearner.fields["share"] in (0.2, 0.5)  # the others spend too much or are refused


def test_it_begins_with_the_setting_it_is_given(lab):
    _, seen = search(lab, 1, "test_tuning:Dose:lr=0.3,share=0.2,passes=2,fixed=1.5")
    assert [dict(setting.fields) for _, setting, _ in seen] == [{"lr": 0.3, "share": 0.2, "passes": 2, "fixed": 1.5}]


def test_fields_without_a_search_stay_and_others_stay_inside(lab):
    _, seen = search(lab, 15)
    for _, setting, _ in seen:
        fields = setting.fields
        assert fields["fixed"] == 3.0
        assert 1e-3 <= fields["lr"] <= 1.0
        assert fields["share"] in (0.2, 0.5, 0.8)
        assert fields["passes"] in (1, 2)
        assert float(f"{fields['lr']:.3g}") == fields["lr"]
    assert len({setting.fields["lr"] for _, setting, _ in seen}) > 5


def test_no_seed_of_an_audit_is_seen(lab):
    search(lab, 3)
    records = [json.loads(path.read_text())["record"] for path in lab.store.root.glob("records/*/*.json")]
    of_trials = [record["made"]["trial"] for record in records if record["kind"] != "data"]  # these are the task's
    seeds = {int(trial.rpartition("seed")[2]) for trial in of_trials}
    assert seeds == set(FINAL_SEEDS) > set(TUNING_SEEDS)
    assert min(seeds) > 100 > LOOKS[-1]


def test_a_search_goes_on_where_an_earlier_one_stopped(lab, tmp_path):
    first, few = search(lab, 5)
    made = len(list(lab.store.root.glob("records/*/*.json")))
    again, same = search(Lab.open(tmp_path / "store", device="cpu", budget=0.2), 5)
    assert len(list(lab.store.root.glob("records/*/*.json"))) == made
    assert [setting.id for _, setting, _ in same] == [setting.id for _, setting, _ in few]
    assert (again.unlearner, again.score) == (first.unlearner, first.score)
    assert first.trainings == 2 * len(FINAL_SEEDS)
    assert first.unlearnings > 0
    assert (again.trainings, again.unlearnings) == (0, 0)


def test_a_method_that_refuses_everything_is_said_to(lab):
    with pytest.raises(UnlearningError, match="it raised an error at each of them"):
        search(lab, 1, "test_tuning:Dose:share=0.95")


def test_a_method_without_fields_to_search_is_said_to(lab):
    with pytest.raises(UnlearningError, match="has a range to search"):
        search(lab, 1, "identity")


def test_a_setting_that_raises_is_given_up_with_its_reason(lab):
    tuned, given_up = search(lab, 6, "test_tuning:TwoKinds", kind=str)
    ((kind, why),) = {(setting.fields["kind"], why) for _, setting, why in given_up}
    assert kind == "b"
    assert re.fullmatch(r"RuntimeError: b is not finished \(.*test_tuning\.py:\d+\)", why)
    assert tuned.unlearner.fields["kind"] == "a"
    with pytest.raises(UnlearningError, match="it raised an error at each of them"):
        search(lab, 1, "test_tuning:TwoKinds:kind=b")


@dataclass(frozen=True)
class TwoKinds:
    kind: Annotated[str, Search(choices=("a", "b"))] = "a"

    def __call__(self, model, request):
        if self.kind == "b":
            raise RuntimeError("b is not\nfinished")
        return model


def test_every_method_says_where_to_search():
    for method in registry.resolve_all("unlearner", ["all", "short"]):
        space = registry.searches(method)
        assert space, method.id
        assert set(space) <= set(method.fields)
        defaults = positions(method, Recipe.of(DIGITS))
        for name, found in space.items():
            assert found.choices or found.low <= defaults[name] <= found.high, f"{method.id}: {name}"
            assert not found.choices or defaults[name] in found.choices, f"{method.id}: {name}"


def test_no_default_lies_on_the_edge_of_its_range():
    for method in registry.resolve_all("unlearner", ["all", "short"]):
        space = registry.searches(method)
        for name, at in positions(method, Recipe.of(DIGITS)).items():
            search = space[name]
            low, high = search.low, search.high
            if search.choices:
                numbers = [choice for choice in search.choices if isinstance(choice, int | float)]
                if at not in numbers:  # a kind, or None, which is no end of anything
                    continue
                low, high = min(numbers), max(numbers)
            # Less than one pass there is not.
            assert low < at < high or at == low == 1, f"{method.id}: {name} is at {at} of {low} to {high}"


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
    counting, recipe = registry.resolve("unlearner", "test_tuning:Counting"), Recipe.of(TINY)  # rate .1, two blocks
    at = positions(counting, recipe)
    assert at == {"lr": 0.5, "k": 0.75, "low": 2.0, "high": 3.0, "beta": pytest.approx(0.1), "size": None}
    fields = {"lr": 0.05, "k": 2, "low": 2.0, "high": 6.0, "beta": 0.9, "size": None}
    assert placed(counting, recipe, at).fields == fields
    elsewhere = {"lr": 2.0, "k": 0.3, "low": 50.0, "high": 0.1, "beta": 0.000123, "size": 16}
    found = placed(counting, recipe, elsewhere).fields
    assert found == {"lr": 0.2, "k": 1, "low": 50.0, "high": 5.0, "beta": 0.999877, "size": 16}
    assert placed(registry.resolve("unlearner", "test_tuning:TwoRates"), recipe, elsewhere).fields["lr"] == 10.0


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


def test_what_any_method_has_to_beat_is_tuned_like_one(lab):
    tuned, seen = search(lab, 4, "short")
    assert tuned.unlearner.name == "short"
    first, *others = [setting.fields for _, setting, _ in seen]
    assert first == {"lr": 0.1, "batch_size": None, "optimizer": "recipe", "epochs": None}
    assert any(each["batch_size"] or each["optimizer"] != "recipe" for each in others)


# ---- scores


def test_half_the_margin_costs_nothing_and_more_costs_in_proportion():
    assert replace(ALLOWED, accuracy=-0.005).loss == ALLOWED.loss == 0.5
    assert replace(ALLOWED, accuracy=-0.006).loss == pytest.approx(0.6)
    assert replace(ALLOWED, accuracy=-0.01).loss == pytest.approx(1.0)
    assert replace(ALLOWED, accuracy=+0.01).loss == 0.5


def test_what_breaks_the_budget_or_diverges_is_worst():
    assert replace(ALLOWED, cost=0.11).loss == 1.5
    assert replace(ALLOWED, accuracy=-0.9).loss < replace(ALLOWED, left=math.nan).loss


def test_beyond_margin_or_budget_nothing_is_allowed():
    assert ALLOWED.allowed
    assert not replace(ALLOWED, accuracy=-0.011).allowed
    assert not replace(ALLOWED, cost=0.11).allowed
    assert not replace(ALLOWED, accuracy=math.nan).allowed
    assert not replace(ALLOWED, left=math.nan).allowed


def explode(model, request):
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    return model


def test_a_model_that_diverged_has_forgotten_nothing(lab):
    method = registry.resolve("unlearner", "test_tuning:explode")
    cell = Cell(method, registry.resolve("task", "tiny:Tiny"), registry.resolve("poison", "backdoor:size=1"))
    score = _score({cell: [lab.run(Trial(cell, 1000))]}, 0.1)
    assert math.isnan(score.left)
    assert not score.allowed


def test_a_search_that_found_nothing_is_no_success(folder):
    (folder.path / "old.txt").write_text("gd\n")
    tuning = ("--audit-tune=1", "--audit-tune-file=old.txt", "--task=tiny:Tiny", "--poison=backdoor:size=1")
    run = folder.pytest("--unlearner=identity", *tuning)
    assert run.code == 4
    assert "nothing was tuned" in run.text
    assert "written to" not in run.text


# ---- the command line


BROKEN = """\
from typing import Annotated

from harness import Search


def forget(model, request, lr: Annotated[float, Search(0.1, 1.0)] = 0.1):
    raise RuntimeError("b is not finished")
"""


def test_what_is_chosen_is_written_to_a_file_that_can_be_audited(folder):
    common = ("--task=tiny:Tiny", "--poison=backdoor:size=1")
    folder.write("methods/broken.py", BROKEN)
    run = folder.pytest(
        "--unlearner=broken:forget",
        "--unlearner=gd",
        "--unlearner=ga",
        "--audit-tune=2",
        "--audit-tune-file=chosen.txt",
        *common,
    )
    assert run.code == 0, run.text
    chosen = (folder.path / "chosen.txt").read_text().splitlines()
    specs = [line for line in chosen if not line.startswith("#")]
    assert [spec.partition(":")[0] for spec in specs] == ["gd", "ga"]
    assert "1/2  given up: RuntimeError: b is not finished" in run.text
    assert "no setting of 'broken:forget' could be completed" in run.text
    assert "2 settings of each method: all on seeds 1000 to 1004" in chosen[0]
    assert "trainings" in chosen[2]
    assert "--unlearner=@chosen.txt" in run.text
    assert not run.json  # nothing was audited
    audited = folder.pytest("--unlearner=@chosen.txt", "--audit-seeds=3", *common, "-k", "budget", "-n2")
    assert {a["unlearner"] for a in audited.json["audits"]} == set(specs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audit-tune=0", "--unlearner=gd"], "at least 1"),
        (["--audit-tune=x", "--unlearner=gd"], "takes a number of settings"),
        (["--audit-tune=2"], "--unlearner=NAME"),
        (["--audit-tune=2", "--unlearner=gd", "--task=digits-cnn", "--task=tiny:Tiny"], "one --task at a time"),
        (["--audit-tune=2", "--unlearner=gd", "--audit-tune-file=nowhere/f"], "is missing"),
        (["--unlearner=@nowhere.txt"], "cannot be read"),
    ],
)
def test_what_cannot_work_is_a_usage_error(folder, arguments, message):
    run = folder.pytest(*arguments)
    assert run.code == 4
    assert message in run.text
